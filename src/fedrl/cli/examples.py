"""`fedrl examples`, `fedrl init`, and which file a command takes for the name of an example."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from fedrl.core.errors import ConfigError, nearest
from fedrl.shipped import TEMPLATES, examples, purpose, taken


def examples_command(name: str | None, copy: Path | None) -> None:
    """List the shipped examples, print one, or copy one."""
    found = examples()
    if name is None:
        if copy is not None:
            raise ConfigError(f"--copy {copy} needs the name of an example. {nearest('', found)}")
        width = max(map(len, found))
        for each, path in found.items():
            typer.echo(f"{each:<{width}}  {purpose(path)}")
        return
    if name not in found:
        raise ConfigError(f"{name!r} is not a shipped example. {nearest(name, found)}")
    if copy is None:
        typer.echo(found[name].read_text(encoding="utf-8"), nl=False)
        return
    written = _write(found[name], copy)
    typer.echo(f"{written}  Run it with: {_command(written)}")


def init_command(folder: Path, python: bool) -> None:
    """Write an experiment with comments, as TOML or as Python."""
    written = _write(TEMPLATES / ("experiment.py" if python else "experiment.toml"), folder)
    typer.echo(f"{written}  Run it with: {_command(written)}")


def say_which(config: Path, quiet: bool = False) -> None:
    """Say which file a command takes, where the path is the name of a shipped example."""
    shipped = examples().get(str(config))
    if quiet or shipped is None:
        return
    if taken(config) == shipped:
        print(f"{config} is the shipped example {shipped}, as there is no file of this name.", file=sys.stderr)
    elif config.is_file():
        print(f"{config} is the file of this name here, not the shipped example.", file=sys.stderr)


def _write(source: Path, folder: Path) -> Path:
    """Copy a file to a folder, which is created if it is not there.

    Raises:
        ConfigError: The folder has a file of this name, can't be written to, or has the name of a file.
    """
    if folder.suffix in (".toml", ".py") and not folder.exists():
        raise ConfigError(
            f"{folder} is the name of a file, and {source.name} is written to a folder. Name the folder, for example "
            f"{folder.with_suffix('')}."
        )
    target = folder / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is a file. The example needs a folder. Name another one.") from None
        raise ConfigError(f"{target} exists already, and is not overwritten. Name another folder.") from None
    except OSError as fault:
        raise ConfigError(f"{target} can't be written ({fault.strerror}). Name another folder.") from None
    return target


def _command(path: Path) -> str:
    program = "python" if path.suffix == ".py" else "fedrl run"
    return f"{program} {shlex.quote(str(path))}"
