"""`fedrl sweep`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import typer

INTERRUPTED = 130


def sweep_command(
    config: Path | None,
    grid: Sequence[str],
    settings: Sequence[str],
    seeds: int | None,
    target: float | None,
    out: Path | None,
    resume: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run or resume a study, with progress on the terminal."""
    from fedrl.core.errors import ConfigError

    if (config is None) == (resume is None):
        raise ConfigError("Give either the path of an experiment.toml or --resume DIR, one of the two.")
    given = (grid, settings, seeds is not None, target is not None, out is not None)
    if resume is not None and any(given):
        raise ConfigError(
            "--resume goes on with the study.toml in its folder, so --grid, --set, --seeds, --target and --out have no "
            "place beside it. Leave them out, or start a new study."
        )
    from fedrl.experiments.events import Event, StudyEnd
    from fedrl.experiments.study import resume_sweep, sweep
    from fedrl.experiments.study.grid import grid_of
    from fedrl.experiments.study.progress import study_progress

    where = ""

    def note(event: Event) -> None:
        nonlocal where
        if event.get("event") == "study":
            where = cast(StudyEnd, event)["folder"]

    with study_progress(quiet=quiet or as_json) as show:
        if resume is not None:
            study = resume_sweep(resume, sinks=[note, show])
        else:
            assert config is not None
            changes = [*settings, *([] if seeds is None else [f"seeds={seeds}"])]
            study = sweep(config, grid_of(grid), out, overrides=changes, target=target, sinks=[note, show])
    if as_json:
        typer.echo(json.dumps(study, indent=2))
    if not study["complete"]:
        print(f"Interrupted. Continue with: fedrl sweep --resume {where}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
