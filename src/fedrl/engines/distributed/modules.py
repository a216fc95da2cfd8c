"""Send the user's own modules to workers on machines that do not have them.

    bytes of an object --sources--> {"mypkg/parts.py": text, ...} --installed--> the path of a worker

A module is sent with all of its package. Packages that are installed are not sent: every machine needs them anyway.
"""

from __future__ import annotations

import importlib.util
import pickletools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedrl.core.errors import ConfigError
from fedrl.core.ray_cluster import own_folders

MOST_BYTES = 16 << 20
"""Bytes of sources beyond which modules are not sent."""
_written: list[tempfile.TemporaryDirectory[str]] = []


def sources(content: bytes) -> dict[str, str]:
    """Return the sources of the user's own modules to which pickled bytes refer, by their paths.

    Raises:
        ConfigError: A package has too many of them.
    """
    found: dict[str, str] = {}
    for top in sorted({name.partition(".")[0] for name in _modules(content)}):
        for path, folder in _files(top):
            found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
        if sum(map(len, found.values())) > MOST_BYTES:
            raise ConfigError(
                f"The package {top} has more than {MOST_BYTES >> 20} MiB of Python files, too many to be sent to "
                "workers. Install it on their machines."
            )
    return found


def installed(files: Mapping[str, str]) -> None:
    """Let this process find the modules among these files that it can't find yet."""
    missing = {path for path in files if importlib.util.find_spec(path.partition("/")[0].removesuffix(".py")) is None}
    if not missing:
        return
    place = tempfile.TemporaryDirectory(prefix="fedrl-modules-")
    _written.append(place)  # it goes when this process ends
    for path in missing:
        file = Path(place.name, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files[path], encoding="utf-8")
    sys.path.append(place.name)
    importlib.invalidate_caches()


def _modules(content: bytes) -> Iterator[str]:
    """Yield the names in pickled bytes that are modules of this process."""
    for _, argument, _ in pickletools.genops(content):
        if isinstance(argument, str):
            # Also of a reference "module:name", such as that of an environment.
            name = argument.partition(":")[0]
            if name in sys.modules:
                yield name


def _files(top: str) -> Iterator[tuple[Path, Path]]:
    """Yield the Python files of a package or module, with the folder in which it was found; none if it is installed."""
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if top in ("fedrl", "ray", "__main__"):
        return
    # A folder without `__init__.py` is a package without a file, maybe of several folders.
    places = [Path(file)] if file else [Path(each, "__init__.py") for each in getattr(module, "__path__", ())]
    for place in (each.resolve() for each in places):
        package = place.name == "__init__.py"
        folder = place.parent.parent if package else place.parent
        if str(folder) in own_folders():
            for path in sorted(place.parent.rglob("*.py")) if package else [place]:
                yield path, folder
