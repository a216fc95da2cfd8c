"""`fedrl schema`."""

from __future__ import annotations

import json

import typer


def schema_command() -> None:
    """Print the JSON Schema of a configuration."""
    from fedrl.config.schema import schema

    typer.echo(json.dumps(schema(), indent=2))
