"""Run a study: one setting after the other, each a complete run, with `study.json` written after each of them.

Equal federations share their compiled programs (`fedrl.engines.program_cache`), so settings that differ only in the
number of agents, the fleet, rounds or seeds compile nothing, and such settings run one after the other. A setting is
bit-identical to `fedrl run` of its configuration. A setting that fails is recorded with its reason, and the others run;
resuming the study runs it again.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fedrl.config import Config
from fedrl.core.errors import FedrlError, RunError
from fedrl.core.imports import allowed, importing
from fedrl.launch import configure_jax
from fedrl.records import SettingStart, Sink, StudyEnd
from fedrl.records.folder import CONFIG
from fedrl.runs.interruption import interruptible
from fedrl.runs.run import resume, run
from fedrl.runs.session import reason_of
from fedrl.sinks.verbosity import displaying
from fedrl.studies import folder
from fedrl.studies.folder import StudyFolder
from fedrl.studies.plan import StudySetting, plan_of, running_order
from fedrl.studies.programs import counted
from fedrl.studies.quantity import quantity_named
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
    with (
        displaying(verbose, _display) as shown,
        folder.create(None if out is None else Path(out), plan) as place,
    ):
        return _conduct(place, order, [*sinks, *shown], stop)


def resume_sweep(
    path: Path | str,
    *,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
    trust: bool = False,
) -> StudyResult:
    """Continue the study in a folder: finished settings are kept, interrupted ones are resumed bit-identically.

    A setting that failed is run again.

    Args:
        path: The study folder.
        sinks: Functions that are called with each event of each run.
        stop: An event that ends the study early when it is set, as Ctrl-C does.
        verbose: 1 to show progress, 0 to show nothing.
        trust: Whether to import components of one's own that the folder names; someone else's folder may name any.

    Returns:
        The result, as of `sweep`.

    Raises:
        ConfigError: The folder names code outside fedrl, and it is not trusted.
        RunError: The folder contains no study or a complete one, is damaged, or another process writes to it.
    """
    configure_jax()
    with displaying(verbose, _display) as shown, importing(trust), folder.reopen_folder(Path(path)) as place:
        # From the run folders, not from `study.json`, which a crash may have left behind them.
        if study_in(place)["complete"]:
            raise RunError(f"The study in {path} is complete. There is nothing to resume.")
        return _conduct(place, running_order(place.plan), [*sinks, *shown], stop)


def _display() -> AbstractContextManager[Sink]:
    from fedrl.studies.progress import study_progress

    return study_progress()


def _conduct(
    place: StudyFolder, order: Sequence[StudySetting], sinks: Sequence[Sink], stop: threading.Event | None
) -> StudyResult:
    stop = stop or threading.Event()
    study = study_in(place)
    place.write(study)
    with interruptible(stop) as heard:
        for setting in order:
            result = study["settings"][setting.number - 1]
            if result["state"] == "finished":
                continue
            for sink in sinks:
                sink(SettingStart(event="setting", number=setting.number, of=len(order), label=setting.label))
            with counted() as programs:
                reason = _run(place, setting, sinks, stop)
            programs.update(result.get("programs", {}))  # plus those compiled before an interruption
            plan, place_of_run = place.plan, place.run_folder(setting)
            given = (setting, plan.config(setting), place_of_run, plan.target, programs, reason, plan.quantity)
            study["settings"][setting.number - 1] = result_of(*given)
            study["quantity"] = quantity_named(plan.quantity, _summarised(place))
            study["complete"] = all(each["state"] == "finished" for each in study["settings"])
            place.write(study)
            if stop.is_set():
                break
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
