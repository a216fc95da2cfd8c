"""`fedrl run`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from fedrl.cli.devices import use_devices
from fedrl.cli.examples import say_which
from fedrl.cli.only_json import only_json
from fedrl.cli.resuming import FolderListener, check_resume, leave_early, leave_interrupted, leave_unmerged, overrides


def run_command(
    config: Path | None,
    settings: Sequence[str],
    seeds: int | None,
    rounds: str | None,
    out: Path | None,
    resume: Path | None,
    trust: bool,
    measures: Sequence[str],
    devices: int | None,
    quiet: bool,
    as_json: bool,
    on_environment_error: str | None = None,
    executor: Mapping[str, Any] | None = None,
) -> None:
    """Run or resume an experiment, with progress on the terminal."""
    options = {"--set": settings, "--seeds": seeds, "--out": out, "--on-environment-error": on_environment_error}
    # Before JAX is imported, so that a wrong command line is refused at once.
    check_resume("run", config, resume, options)
    if config is not None:
        say_which(config, quiet=quiet)
    use_devices(devices)
    from fedrl.records.folder import RunFolder
    from fedrl.records.notices import ended_in, unmerged_in
    from fedrl.runs import run as experiments
    from fedrl.sinks.display import progress, warnings_only

    listener = FolderListener()
    with (
        only_json(as_json),
        warnings_only() if as_json and not quiet else progress(quiet=quiet, measures=measures) as show,
    ):
        if resume is not None:
            result = experiments.resume(
                resume, rounds=rounds, trust=trust, executor=executor, sinks=[listener, show], verbose=0
            )
        else:
            assert config is not None
            changes = overrides(settings, seeds, rounds, on_environment_error)
            result = experiments.run(
                config, out, overrides=changes, executor=executor, sinks=[listener, show], verbose=0
            )
    if as_json:
        typer.echo(json.dumps(result.summary, indent=2))
    # An interruption takes precedence over "never merged": the rounds to come may still merge an update.
    if not RunFolder(result.folder).complete:
        leave_interrupted("run", listener)
    for sentence in ended_in(result):
        leave_early(sentence)
    for sentence in unmerged_in(result):
        leave_unmerged(sentence)
