"""`fedrl sweep`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedrl.cli.devices import use_devices
from fedrl.cli.examples import say_which
from fedrl.cli.only_json import only_json
from fedrl.cli.resuming import (
    FAILED,
    FolderListener,
    check_resume,
    leave_early,
    leave_interrupted,
    leave_unmerged,
    overrides,
)
from fedrl.core.errors import ConfigError

if TYPE_CHECKING:
    from fedrl.studies import StudyResult


def sweep_command(
    config: Path | None,
    grid: Sequence[str],
    settings: Sequence[str],
    seeds: int | None,
    target: float | None,
    quantity: str | None,
    out: Path | None,
    resume: Path | None,
    trust: bool,
    again: bool,
    devices: int | None,
    quiet: bool,
    as_json: bool,
    on_environment_error: str | None = None,
    executor: Mapping[str, Any] | None = None,
) -> None:
    """Run or resume a study, with progress on the terminal."""
    options = {
        "--grid": grid,
        "--set": settings,
        "--seeds": seeds,
        "--target": target,
        "--quantity": quantity,
        "--out": out,
        "--on-environment-error": on_environment_error,
    }
    check_resume("study", config, resume, options)
    if again and resume is None:
        raise ConfigError("--retry-failed is about an earlier study. Add --resume DIR, or leave it out.")
    if executor is not None and devices is not None:
        raise ConfigError(
            f"--devices is {devices}, and each worker of --executor {executor['name']} has one device. Leave one of "
            "them out."
        )
    if config is not None:
        say_which(config, quiet=quiet)
    use_devices(devices)
    from fedrl.sinks.display import warnings_only
    from fedrl.studies import resume_sweep, sweep
    from fedrl.studies.grid import grid_of
    from fedrl.studies.progress import study_progress

    listener = FolderListener()
    with only_json(as_json), warnings_only() if as_json and not quiet else study_progress(quiet=quiet) as show:
        if resume is not None:
            study = resume_sweep(
                resume, retry_failed=again, executor=executor, sinks=[listener, show], verbose=0, trust=trust
            )
        else:
            assert config is not None
            study = sweep(
                config,
                grid_of(grid),
                out,
                overrides=overrides(settings, seeds, on_environment_error=on_environment_error),
                target=target,
                quantity=quantity,
                executor=executor,
                sinks=[listener, show],
                verbose=0,
            )
    if as_json:
        typer.echo(json.dumps(study.study, indent=2))
    _leave(study, listener)


def _leave(study: StudyResult, listener: FolderListener) -> None:
    """Print how a study ended, unless all of it is well, and end with the exit code for it."""
    from fedrl.records.notices import named

    failed = [i for i, result in enumerate(study["settings"], 1) if result["state"] == "failed"]
    waiting = any(result["state"] in ("interrupted", "waiting") for result in study["settings"])
    # A failure takes precedence over seeds that never merged, but not over an interruption.
    if failed:
        reason = study["settings"][failed[0] - 1]["reason"]
        print(
            f"error: {named(failed, 'setting')} of {len(study['settings'])} failed; "
            f"the reason of setting {failed[0]}: {reason} "
            f"Try again with: fedrl sweep --resume {listener.path} --retry-failed",
            file=sys.stderr,
        )
        # With settings left to run, the study was interrupted: the code below says that it can be resumed.
        if not waiting:
            raise typer.Exit(FAILED)
    if not study["complete"]:
        leave_interrupted("sweep", listener)
    early = [i for i, result in enumerate(study["settings"], 1) if result.get("ended")]
    if early:
        leave_early(f"A seed ended before its last round in {named(early, 'setting')}; the report says why.")
    unmerged = [i for i, result in enumerate(study["settings"], 1) if result.get("unmerged")]
    if unmerged:
        leave_unmerged(f"Nothing was ever merged in a seed of {named(unmerged, 'setting')}.")
