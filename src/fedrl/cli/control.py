"""`fedrl status`, `pause`, `resume`, `stop` and `optout`: what an operator says to a running coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

FOLDER = Annotated[Path, typer.Argument(metavar="DIR", help="The run folder, --state of `fedrl coordinator`.")]
UP_RUN = "run"


def _place(folder: Path) -> Path:
    """Return the run folder, also of a folder that `fedrl up` made."""
    return folder / UP_RUN if (folder / UP_RUN).is_dir() and (folder / "sites").is_dir() else folder


def _asked(folder: Path, command: str, **more: str) -> dict[str, Any]:
    from fedrl.runs.control import asked

    return asked(_place(folder), command, **more)


def status(
    folder: FOLDER, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False
) -> None:
    """Show what a running coordinator and its agents are doing."""
    import json

    found = _asked(folder, "status")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    state = "paused" if found["paused"] else "stopping" if found["stopping"] else "running"
    typer.echo(f"{found['name']}: {state}, round {found['round']} is done, listening at {found['address']}")
    privacy = found.get("privacy")
    if privacy:
        out = privacy.get("without_budget", 0)
        dropped = f"; {out:,} agents have no budget for another round" if out else ""
        typer.echo(f"  privacy: epsilon {privacy['epsilon']:.4g} spent, {privacy['remaining']:.4g} left{dropped}")
    for agent in found["agents"]:
        job = "" if agent["job"] is None else f", job {agent['job']} from version {agent['version']}"
        arrived = (
            "" if agent["reliability"] is None else f", {agent['reliability']:.0%} of {agent['jobs']} jobs arrived"
        )
        typer.echo(f"  {agent['number']:4d}  {agent['name'] or '-':20s}  {agent['state']}{job}{arrived}")
    sent_away = ", ".join(f"{count} {code}" for code, count in found["sent_away"].items())
    if sent_away:
        typer.echo(f"  connections sent away: {sent_away}")


def pause(folder: FOLDER) -> None:
    """Give no jobs any more, until `fedrl resume`."""
    typer.echo(_asked(folder, "pause")["said"])


def resume(folder: FOLDER) -> None:
    """Give jobs again, after `fedrl pause`."""
    typer.echo(_asked(folder, "resume")["said"])


def stop(folder: FOLDER) -> None:
    """Stop a coordinator in order, as Ctrl-C does."""
    typer.echo(_asked(folder, "stop")["said"])


def optout(folder: FOLDER, name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]) -> None:
    """End the part of an agent in this run."""
    typer.echo(_asked(folder, "optout", name=name)["said"])
