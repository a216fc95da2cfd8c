"""Import modules that a configuration names, if the user allows it.

    imports = ["mypkg.parts"]     a module whose components register themselves when it is imported
    name = "mysite:make_env"      an object in a module, by its reference "module:name"

A configuration that a user hands over may name any module. A run folder may be someone else's, so whatever reads one
does it inside `importing(trust)`, where, without trust, nothing that it names is imported or called: only objects that
this process has already obtained with the user's consent are returned. All imports by name go through this file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from fedrl.core.content import content
from fedrl.core.errors import ConfigError, nearest

HERE = Path(__file__).parents[1]
_allowed: ContextVar[bool] = ContextVar("allowed", default=True)
_known: dict[str, Any] = {}
_folders: list[str] = []


@contextmanager
def importing(trust: bool) -> Iterator[None]:
    """Allow or refuse, inside the block, to import and call what a configuration names."""
    token = _allowed.set(trust)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> bool:
    """Return whether a configuration may import and call what it names."""
    return _allowed.get()


def search_beside(folder: Path) -> None:
    """Look for modules in this folder, too: that of a configuration file; not in that of a run that is not trusted."""
    # Else a later import that the user allows would find a module of someone else's folder.
    if allowed():
        _folders.append(str(folder.resolve()))


def searched() -> tuple[str, ...]:
    """Return the folders beside configurations in which modules are looked for."""
    return tuple(dict.fromkeys(_folders))


def known(reference: str) -> bool:
    """Return whether this process has obtained the object of a reference."""
    return reference in _known


def imported(module: str, where: str) -> ModuleType:
    """Return a module that a configuration names; import it if it is not imported yet.

    Modules are found as Python finds them, then in the working directory, then beside the configuration.

    Args:
        module: Its name, such as "mypkg.parts".
        where: The key that names it, for messages.

    Raises:
        ConfigError: It does not exist, it fails, or a run folder names it that is not trusted.
    """
    if module in sys.modules:
        return sys.modules[module]
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"{where} is {module!r}, which is no name of a module. Write, for example, 'mypkg.parts'.")
    if not allowed():
        raise ConfigError(_untrusted(where, module, f"import {module} first"))
    top = module.partition(".")[0]
    if not _exists(top):
        # Last, so that a file of the working directory can't take the place of an installed package.
        for folder in (os.getcwd(), *_folders):
            if folder not in sys.path:
                sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        if fault.name is None or not f"{module}.".startswith(f"{fault.name}."):
            raise ConfigError(f"{where}: importing {module} failed.\n{own_traceback(fault)}") from fault
        places = " and ".join(dict.fromkeys((os.getcwd(), *_folders)))
        raise ConfigError(
            f"{where} names the module {module!r}, and there is no module {fault.name!r}. It was looked for among "
            f"installed packages and in {places}. Run the command where the module is, or install it."
        ) from None
    except (Exception, SystemExit) as fault:
        raise ConfigError(f"{where}: importing {module} failed.\n{own_traceback(fault)}") from fault


def named(reference: str, where: str) -> Any:
    """Return the object of a reference "module:name", where the name may have dots.

    Args:
        reference: Such as "mysite:make_env".
        where: The key that has the reference, for messages.

    Raises:
        ConfigError: There is no such object, its module fails, or a run folder names it that is not trusted.

    >>> named("math:tau", "key") > 6.28
    True
    """
    module, _, name = reference.partition(":")
    # A module that was loaded again has new objects, so what can be looked up is looked up.
    if reference in _known and ("#" in name or not allowed()):
        return _known[reference]
    if "#" in name:
        raise ConfigError(
            f"{where} is {reference!r}, which was an object of another Python process, so it can't be built here. Put "
            "it into a module, and name it 'module:name'."
        )
    # An imported module is not enough: it has functions that do harm with arguments from a file, such as os.system.
    if not allowed():
        raise ConfigError(_untrusted(where, reference, f"pass {name} to fedrl.run in this process first"))
    found: Any = imported(module, where)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [each for each in dir(found) if not each.startswith("_")]
            raise ConfigError(
                f"{where} is {reference!r}, and {module} has no {name!r}. {nearest(name, public)}"
            ) from None
    _known[reference] = found
    return found


def reference_to(value: Callable[..., Any]) -> str:
    """Return a reference by which `named` finds an object in this process and, if it can be imported, in others.

    An object of a script, a notebook or another function gets a digest of its content after a "#": see `remembered`.

    >>> import math
    >>> reference_to(math.hypot)
    'math:hypot'
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if not module or module == "__main__" or found is not value:
        return remembered(value, f"{module or '__main__'}:{name or type(value).__name__}")
    _known[f"{module}:{name}"] = value
    return f"{module}:{name}"


def remembered(value: object, name: str) -> str:
    """Return a reference by which only this process finds an object: a name and a digest of its content."""
    reference = f"{name}#{_digest(value)}"
    _known[reference] = value
    return reference


def is_reference(name: object) -> bool:
    """Return whether a text has the form "module:name".

    >>> is_reference("mysite:make_env"), is_reference("mysite:Walk-v0"), is_reference("ppo")
    (True, False, False)
    """
    if not isinstance(name, str):
        return False
    module, _, rest = name.partition(":")
    parts = [*module.split("."), *([] if "#" in rest else rest.split("."))]
    return all(part.isidentifier() for part in parts)


def own_traceback(fault: BaseException) -> str:
    """Return an error with the lines of the user's own code that raised it; those of libraries are left out."""
    frames = traceback.extract_tb(fault.__traceback__)
    own = [frame for frame in frames if not _of_library(frame.filename)]
    lines = "".join(traceback.format_list(own))
    return f"{lines}{''.join(traceback.format_exception_only(fault))}".rstrip()


def _of_library(file: str) -> bool:
    return file.startswith("<frozen") or "site-packages" in file or Path(file).is_relative_to(HERE) or _standard(file)


def _standard(file: str) -> bool:
    return Path(file).is_relative_to(Path(os.__file__).parent)


def _exists(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _digest(value: object) -> str:
    try:
        return content(value)[:12]
    except ConfigError:  # the content can't be read: another object is another number
        return hashlib.sha256(str(id(value)).encode()).hexdigest()[:12]


def _untrusted(where: str, name: str, otherwise: str) -> str:
    return (
        f"{where} names {name!r}, code outside fedrl, and nothing that a run folder names is imported. If you trust "
        f"the folder, add --trust (in Python: trust=True), or {otherwise}."
    )
