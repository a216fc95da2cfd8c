"""`fedrl explain`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

OPENED = {
    "the sum": "Updates are aggregated where those of all agents are summed.",
    "sums of subsets": "Each server below the root sums the updates of its own agents, and reads this sum.",
    "each": "Agents send each other their parameters.",
    "nothing": "The agents are isolated and send nothing.",
}


def explain_command(config: Path, settings: Sequence[str], as_json: bool) -> None:
    """Print what each agent would send in a round, without running anything."""
    from fedrl.launch import configure_jax

    configure_jax()
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedrl.config import load
    from fedrl.config.build import build
    from fedrl.records.formatting import NOTHING
    from fedrl.runs.explain import explained

    found = explained(build(load(config, settings)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("what", "from", "to", "bytes", "protected by", "", title=f"What leaves in a round: {found['name']}")
    table.columns[3].justify = "right"
    for each in found["outgoing"]:
        size = "varies" if each["size_bytes"] is None else f"{each['size_bytes']:,}"
        size = NOTHING if each["size_bytes"] == 0 else size
        what, sender, to, protection, note = (escape(each[n]) for n in ("name", "sender", "to", "protection", "note"))
        table.add_row(what, sender, to, size, protection, note)
    Console().print(table)
    typer.echo(OPENED[found["opens"]])
