"""`fedrl explain`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

OPENED = {
    "the sum": "Updates are aggregated where those of all agents are summed.",
    "sums of subsets": "Each server below the root sums the updates of its own agents, and reads this sum.",
    "each": "Agents send each other their parameters.",
    "nothing": "The agents are isolated and send nothing.",
}


def explain_command(config: Path, settings: Sequence[str], as_json: bool) -> None:
    """Print what each agent would send in a round, without running anything."""
    from fedrl.cli.examples import say_which
    from fedrl.launch import configure_jax

    say_which(config)
    configure_jax()
    from rich.console import Console

    from fedrl.cli.only_json import only_json
    from fedrl.config import load
    from fedrl.config.build import build
    from fedrl.runs.explain import explained

    with only_json(as_json):
        found = explained(build(load(config, settings)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    Console(highlight=False).print(leaving_table(found))
    typer.echo(OPENED[found["opens"]])
    typer.echo(found["reads"])
    for line in privacy_lines(found):
        typer.echo(line)


def privacy_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what a run promises about privacy and at what price, a sentence each; none without noise.

    Args:
        found: As `fedrl.runs.explain.explained` returns it.
    """
    from fedrl.records.formatting import short

    privacy, lines = found["privacy"], []
    if privacy is not None:
        clip = privacy["clip"]
        clips = f"{short(min(clip))} to {short(max(clip))}" if isinstance(clip, list) else short(clip)
        z = (
            ""
            if privacy["noise_multiplier"] is None
            else f", noise multiplier z = {short(privacy['noise_multiplier'])}"
        )
        parts = "in which an agent takes part" if privacy["participants"] else "in all"
        lines = [
            "",
            f"Privacy of the federated method, for each seed, after {privacy['rounds']:,} rounds {parts}:",
            f"  {privacy['claim']}",
            f"  {privacy['mechanism']}: clip {clips}{z}. The budget is epsilon = {short(privacy['budget'])}.",
            *(f"  Agent {k} asks for more: epsilon = {short(own)}." for k, own in privacy["agents"].items()),
            *(f"  {line}" for line in privacy["assumptions"]),
        ]
    return [*lines, *(f"! {line}" for line in found["said"])]


def leaving_table(found: Mapping[str, Any]) -> RenderableType:
    """Return the table of what leaves an agent in a round.

    Args:
        found: As `fedrl.runs.explain.explained` returns it.
    """
    from rich.console import Group
    from rich.text import Text

    from fedrl.records.formatting import NOTHING
    from fedrl.sinks.fitting import Column, ColumnTable, FirstFitting, in_blocks, printable

    sizes = [each["size_bytes"] for each in found["outgoing"]]
    sizes = ["varies" if size is None else f"{size:,}" if size else NOTHING for size in sizes]
    names = [printable(each["name"], "bold") for each in found["outgoing"]]

    def column(title: str, key: str, wraps: bool = False) -> Column:
        return Column(title, [printable(each[key]) for each in found["outgoing"]], wraps, justify="left")

    columns = [
        column("from", "sender"),
        column("to", "to"),
        Column("bytes", [Text(size) for size in sizes]),
        column("protected by", "protection", wraps=True),
        column("note", "note", wraps=True),
    ]
    forms = [ColumnTable([Column("what", names, justify="left"), *columns]), in_blocks(names, columns)]
    return Group(printable(f"What leaves in a round: {found['name']}", "italic"), FirstFitting(forms), Text())
