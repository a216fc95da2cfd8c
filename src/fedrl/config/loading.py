"""Load a checked `Config` from a file, a dictionary or a `Config`, and write one as TOML."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import tomli_w

from fedrl.config.catalogue import KINDS, kind_of, table_of
from fedrl.config.coerce import coerce
from fedrl.config.elsewhere import unknown_key
from fedrl.config.experiment import Config
from fedrl.config.fleet_tables import agents_in, fleet_settings
from fedrl.config.overrides import override
from fedrl.config.synonyms import known_as
from fedrl.core.component import call_of
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.imports import imported, reference_to, search_beside
from fedrl.shipped import examples, taken


def load(source: Path | str | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Return the checked configuration of a file, a dictionary or a `Config`, after overrides.

    Args:
        source: Path of a TOML file, a dictionary of its tables, or a `Config`.
        overrides: Changes such as "learner.clip=0.1", applied in order.

    Raises:
        ConfigError: A key or value is wrong; the message names the key, the value and what is allowed.

    >>> tables = {"name": "x", "environment": "cartpole", "learner": "ppo", "federation": {"agents": 2}}
    >>> load(tables, ["rounds=3"]).rounds
    3
    """
    data = tables_of(source)
    import_parts(data)
    for text in overrides:
        override(data, text)
    import_parts(data)
    return parse(data)


def import_parts(data: Mapping[str, Any]) -> None:
    """Import the modules that a configuration lists under `imports`, whose components then have names.

    Raises:
        ConfigError: One does not exist, it fails, or a run folder names it that is not trusted.
    """
    listed = data.get("imports", ())
    for module in listed if isinstance(listed, list | tuple) else ():  # `parse` refuses other types
        imported(str(module), "imports")


def tables_of(source: Path | str | Mapping[str, Any] | Config) -> dict[str, Any]:
    """Return an unchecked configuration as a new dictionary of tables and plain values.

    Raises:
        ConfigError: The file does not exist, or is not TOML.
    """
    if isinstance(source, Config):
        return as_dict(source)
    if isinstance(source, Mapping):
        return typing.cast(dict[str, Any], _tables(source))
    search_beside(Path(source).parent)
    return read(Path(source))


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; without a key `name`, the experiment is named after the file.

    A name of a shipped example, such as "cartpole", stands for that example if there is no file of this name.
    """
    path = taken(path)
    data = toml_of(path, {name for name, each in examples().items() if each.suffix == ".toml"})
    stem = path.stem.encode(errors="surrogateescape").decode(errors="replace")  # names of files may be any bytes
    if isinstance(fleet := data.get("fleet"), str) and (path.parent / fleet).exists():
        data["fleet"] = str(path.parent / fleet)
    return {"name": stem, **data}


def toml_of(path: Path, others: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: The file.
        others: What may be named in its place, for the error that there is no such file.

    Raises:
        ConfigError: The file does not exist, can't be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except FileNotFoundError:
        # A mistyped file name is the usual cause, so the error names the nearest file of the folder.
        files = {p.name for p in path.parent.glob("*.toml")} if path.parent.is_dir() else set()
        raise ConfigError(f"{path} does not exist. {nearest(path.name, files | others)}") from None
    except UnicodeDecodeError as fault:
        kind = "UTF-16" if fault.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "no text in UTF-8"
        raise ConfigError(f"{path} is {kind}, and TOML is UTF-8. Save it in that encoding.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, and a file is needed. {_instead(path)}") from None
    except OSError as fault:
        raise ConfigError(f"{path} can't be read ({fault.strerror}). It needs to be a TOML file.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{path} is not valid TOML: {fault}.") from None


def _instead(folder: Path) -> str:
    """Return what to name instead of a folder."""
    if (folder / "config.toml").is_file():
        return f"Continue the run in it with --resume {folder}, or repeat it from {folder / 'config.toml'}."
    files = ", ".join(str(path) for path in sorted(folder.glob("*.toml")))
    return f"Name the file: {files}." if files else "Name a TOML file."


def parse(data: Mapping[str, Any]) -> Config:
    """Check the keys and types of a dictionary, and return it as a `Config`.

    Without `federation.agents`, there are as many agents as the fleet has values.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of range.
    """
    settings = fleet_settings(data.get("fleet", {}))
    data = {**data, "fleet": settings}
    federation, agents = data.get("federation"), agents_in(settings)
    if isinstance(federation, Mapping) and "agents" not in federation and agents is not None:
        data["federation"] = {**federation, "agents": agents}
    return typing.cast(Config, _section(Config, data, "", data))


def as_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as tables of TOML: without None, and with lists for tuples."""
    return typing.cast(dict[str, Any], _tables(config))


def dump(config: Config) -> str:
    """Return the configuration as the text of a TOML file."""
    return tomli_w.dumps(as_dict(config))


def _section(kind: type, data: Any, where: str, whole: Mapping[str, Any]) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {data!r}. It needs to be a table.")
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in data.items():
        full = f"{where}.{key}" if where else key
        if key not in known:
            place = f"the section [{where}]" if where else "an experiment"
            shown = "" if isinstance(value, Mapping) else f" is {value!r}, but it"
            found = unknown_key(key, value, where, whole) or known_as(key, known)
            raise ConfigError(f"{full}{shown} is not a key of {place}. {found}")
        # A section is checked key by key, so that the error names the wrong key and not the whole table.
        section = dataclasses.is_dataclass(types[key])
        default = known[key].default
        # A table without a name alters the component that is the default, as inside of components.
        alters = isinstance(value, Mapping) and isinstance(default, str) and kind_of(types[key]) is not None
        given = {"name": default, **value} if alters else value
        if section:
            values[key] = _section(types[key], given, full, whole)
        else:
            values[key] = coerce(given, types[key], full, _no_object)
    for name, entry in known.items():
        if name not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            full = f"{where}.{name}" if where else name
            raise ConfigError(f"{full} is missing. Every experiment needs it.")
    return kind(**values)


def _no_object(value: Any, annotation: Any, where: str) -> Any:
    """Refuse a value of a component's type: `_tables` has turned all valid objects into tables before."""
    if isinstance(annotation, type) and annotation in KINDS:
        raise ConfigError(f"{where} is {value!r}. It needs to be a table.")
    return NotImplemented


def _tables(value: Any) -> Any:
    """Return plain TOML values: components become tables, tuples become lists, and None is left out."""
    if call_of(value) is not None or isinstance(value, tuple(KINDS)):
        return table_of(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _tables({entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _tables(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_tables(item) for item in value]
    if callable(value):
        return reference_to(value)
    return str(value) if isinstance(value, Path) else value
