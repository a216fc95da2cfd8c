"""Run a study: one setting after the other, each a complete run, with `study.json` written after each of them.

Equal federations share their compiled programs (`fedrl.engines.program_cache`), so settings that differ only in the
number of agents, the fleet, rounds or seeds compile nothing, and such settings run one after the other. A setting is
bit-identical to `fedrl run` of its configuration. A setting that fails is recorded with its reason, and the others run.
Resuming the study goes on after it, and runs it again only if told to. A setting during which the process was killed,
as for lack of memory, is resumed after all others, so that it can't keep them from running.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fedrl.config import Config
from fedrl.core.errors import FedrlError, RunError
from fedrl.core.imports import allowed, importing
from fedrl.launch import configure_jax
from fedrl.records import SettingStart, Sink, StudyEnd
from fedrl.records.folder import CONFIG
from fedrl.records.notices import named
from fedrl.runs.interruption import Signalled, interruptible
from fedrl.runs.run import resume, run
from fedrl.runs.session import reason_of
from fedrl.sinks.verbosity import displaying
from fedrl.studies import folder
from fedrl.studies.folder import StudyFolder
from fedrl.studies.plan import StudySetting, plan_of, running_order
from fedrl.studies.programs import counted
from fedrl.studies.quantity import quantity_named
from fedrl.studies.records import Study
from fedrl.studies.result import _summarised, result_of, study_in
from fedrl.studies.study_result import StudyResult


def sweep(
    source: Config | Mapping[str, Any] | Path | str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    target: float | None = None,
    quantity: str | None = None,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
) -> StudyResult:
    """Run an experiment in every combination of the grid's values, and write a study folder.

    Ctrl-C and SIGTERM end it early with a readable folder, which `resume_sweep` continues.

    Args:
        source: A configuration, a dictionary of its tables, or the path of an `experiment.toml`. Its section `[study]`
            may contain `grid`, `target` and `quantity`.
        grid: The values of each varied key: `{"federation.agents": [10, 100]}`.
        out: The study folder to make; `runs/<name>-study-<time>` by default.
        overrides: Changes for all settings, such as "rounds=20".
        target: The value of `quantity` at which settings are timed.
        quantity: The measure by which settings are compared, such as "success"; the return by default.
        sinks: Functions that are called with each event of each run; `fedrl.sinks` has some.
        stop: An event that ends the study early when it is set, as Ctrl-C does; a sink may set it.
        verbose: 1 to show progress, as `fedrl sweep` does on a terminal or in a log, or in outputs of a notebook; 0 to
            show nothing.

    Returns:
        The content of `study.json` as a mapping, with the folder, the curves and the runs. A setting that failed has
        the state "failed" and a reason; the others have run.

    Raises:
        ConfigError: A setting is wrong; none has run.
        UnsoundError: The parts of a setting can't be combined; none has run.
        RunError: The folder already contains a study, another process writes to it, or it is not writable.
    """
    configure_jax()
    plan = plan_of(source, grid, overrides, target, quantity)
    order = running_order(plan)
    stop = stop or threading.Event()
    with (
        displaying(verbose, _display) as shown,
        interruptible(stop) as heard,
        folder.create(None if out is None else Path(out), plan) as place,
    ):
        return _conduct(place, order, [*sinks, *shown], stop, heard)


def resume_sweep(
    path: Path | str,
    *,
    retry_failed: bool = False,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
    trust: bool = False,
) -> StudyResult:
    """Continue the study in a folder: finished settings are kept, interrupted ones are resumed bit-identically.

    Args:
        path: The study folder.
        retry_failed: Whether the settings that failed are run again, from their last complete round.
        sinks: Functions that are called with each event of each run.
        stop: An event that ends the study early when it is set, as Ctrl-C does.
        verbose: 1 to show progress, 0 to show nothing.
        trust: Whether to import components of one's own that the folder names; someone else's folder may name any.

    Returns:
        The result, as of `sweep`.

    Raises:
        ConfigError: The folder names code outside fedrl, and it is not trusted.
        RunError: The folder contains no study or one with nothing left to run, is damaged, or another process writes to
            it.
    """
    configure_jax()
    stop = stop or threading.Event()
    with (
        displaying(verbose, _display) as shown,
        interruptible(stop) as heard,
        importing(trust),
        folder.reopen_folder(Path(path)) as place,
    ):
        written = place.read()
        # From the run folders, not from `study.json`, which a crash may have left behind them.
        study = study_in(place)
        _check_left(study, path, retry_failed)
        killed = {r["folder"] for r in written["settings"] if r["state"] == "running"} if written else set()
        order = sorted(running_order(place.plan), key=lambda setting: setting.folder in killed)
        failed = [result["folder"] for result in study["settings"] if result["state"] == "failed"]
        return _conduct(place, order, [*sinks, *shown], stop, heard, set() if retry_failed else set(failed))


def _display() -> AbstractContextManager[Sink]:
    from fedrl.studies.progress import study_progress

    return study_progress()


def _check_left(study: Study, path: Path | str, retry_failed: bool) -> None:
    """Refuse to resume a study of which nothing is left to run.

    Raises:
        RunError: It is complete, or all that is left has failed.
    """
    if study["complete"]:
        raise RunError(f"The study in {path} is complete. There is nothing to resume.")
    states = [result["state"] for result in study["settings"]]
    failed = [i for i, state in enumerate(states, 1) if state == "failed"]
    if not retry_failed and all(state in ("finished", "failed") for state in states):
        raise RunError(
            f"The study in {path} has nothing left to run but {named(failed, 'setting')}, which failed. Run "
            f"{'it' if len(failed) == 1 else 'them'} again with fedrl sweep --resume {path} --retry-failed."
        )


def _conduct(
    place: StudyFolder,
    order: Sequence[StudySetting],
    sinks: Sequence[Sink],
    stop: threading.Event,
    heard: Signalled,
    skipped: Set[str] = frozenset(),
) -> StudyResult:
    """Run the settings in this order, without the finished ones and those whose folders are in `skipped`."""
    study = study_in(place)
    place.write(study)
    for setting in order:
        result = study["settings"][setting.number - 1]
        if result["state"] == "finished" or setting.folder in skipped:
            continue
        if stop.is_set():
            break
        for sink in sinks:
            sink(SettingStart(event="setting", number=setting.number, of=len(order), label=setting.label))
        result["state"] = "running"
        place.write(study)  # found on resuming, if the process is killed from here on
        with counted() as programs:
            reason = _run(place, setting, sinks, stop)
        programs.update(result.get("programs", {}))  # plus those compiled before an interruption
        plan, place_of_run = place.plan, place.run_folder(setting)
        given = (setting, plan.config(setting), place_of_run, plan.target, programs, reason, plan.quantity)
        study["settings"][setting.number - 1] = result_of(*given)
        study["quantity"] = quantity_named(plan.quantity, _summarised(place))
        study["complete"] = all(each["state"] == "finished" for each in study["settings"])
        place.write(study)
    from fedrl.studies.page import write_study_report

    report = str(write_study_report(place.path))
    end = StudyEnd(event="study", study=study, folder=str(place.path), report=report)
    if heard.signal is not None:
        end["signal"] = heard.signal
    for sink in sinks:
        sink(end)
    return StudyResult(place.path, study)


def _run(place: StudyFolder, setting: StudySetting, sinks: Sequence[Sink], stop: threading.Event) -> str | None:
    """Run or resume a setting; return the reason if it failed."""
    path = place.path / setting.folder
    try:
        if (path / CONFIG).exists():
            resume(path, sinks=sinks, stop=stop, verbose=0, trust=allowed())
        else:
            run(place.plan.config(setting), path, sinks=sinks, stop=stop, verbose=0)
    except Exception as fault:  # one setting must not end the study
        # The reason is one sentence; for a bug of fedrl, its report needs the traceback, too.
        if not isinstance(fault, FedrlError):
            traceback.print_exception(fault)
        return reason_of(fault)
    return None
