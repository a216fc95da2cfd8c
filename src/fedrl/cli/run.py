"""`fedrl run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

INTERRUPTED = 130


def run_command(
    config: Path | None,
    settings: Sequence[str],
    seeds: int | None,
    out: Path | None,
    resume: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run or resume, with progress on the terminal."""
    from fedrl.core.errors import ConfigError

    if (config is None) == (resume is None):
        raise ConfigError("Give either the path of an experiment.toml or --resume DIR, one of the two.")
    if resume is not None and (settings or seeds is not None or out is not None):
        raise ConfigError(
            "--resume goes on with the configuration in its run folder, so --set, --seeds and --out have no place "
            "beside it. Leave them out, or start a new run."
        )
    from fedrl.experiments import run as experiments
    from fedrl.experiments.events import Event
    from fedrl.experiments.folder import RunFolder
    from fedrl.experiments.progress import progress

    where = ""

    def note(event: Event) -> None:
        nonlocal where
        if event.get("event") == "end":
            where = str(event.get("folder"))

    with progress(quiet=quiet or as_json) as show:
        if resume is not None:
            summary = experiments.resume(resume, sinks=[note, show])
        else:
            assert config is not None
            changes = [*settings, *([] if seeds is None else [f"seeds={seeds}"])]
            summary = experiments.run(config, out, overrides=changes, sinks=[note, show])
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    if not RunFolder(Path(where)).complete:
        print(f"Interrupted. Continue with: fedrl run --resume {where}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
