"""`fedrl check-env`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from fedrl.cli.resuming import FAILED


def check_env_command(name: str, settings: Sequence[str]) -> None:
    """Print the finding of each check; end with exit code 1 if one failed."""
    from rich.console import Console

    from fedrl.config.overrides import assignment
    from fedrl.runs.environment_check import check_environment

    console = Console(highlight=False)
    pairs = [assignment(text, example="max_steps=500") for text in settings]
    values = {key: _value(value, key) for key, value in pairs}
    failed = 0
    for finding in check_environment(name, values):
        mark = "[green]ok    [/]" if finding.passed else "[red]failed[/]"
        first, *rest = finding.text.splitlines()
        console.print(f"{mark} {finding.name}: ", end="")
        console.print(first, markup=False, soft_wrap=True)
        for line in rest:
            console.print(f"       {line}", markup=False, soft_wrap=True)
        failed += not finding.passed
    if failed:
        console.print(f"{failed} checks failed." if failed > 1 else "One check failed.")
        raise typer.Exit(FAILED)


def _value(text: str, key: str) -> Any:
    """Return a value in TOML syntax, or the text itself, such as a path."""
    from fedrl.config.overrides import toml_value
    from fedrl.core.errors import ConfigError

    try:
        return toml_value(text, key)
    except ConfigError:
        return text
