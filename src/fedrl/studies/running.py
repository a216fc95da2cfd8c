"""Run a study: one setting after the other, each a complete run, with the study readable after each of them.

Equal federations share their compiled programs (`fedrl.engines.program_cache`), so settings that differ in the number
of agents, the fleet, rounds or seeds compile nothing anew; settings that do are run side by side. A setting is the run
that `fedrl run` would make of its configuration, bit for bit. One that fails is noted with its reason, and the others
run; resuming the study tries it again.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrl.config import Config
from fedrl.core.errors import FedrlError, RunError
from fedrl.launch import configure_jax
from fedrl.records import SettingStart, Sink, StudyEnd
from fedrl.records.folder import CONFIG
from fedrl.runs.interruption import interruptible
from fedrl.runs.run import resume, run
from fedrl.runs.session import reason_of
from fedrl.studies import folder
from fedrl.studies.folder import StudyFolder
from fedrl.studies.plan import StudySetting, plan_of, running_order
from fedrl.studies.programs import counted
from fedrl.studies.quantity import quantity_named
from fedrl.studies.records import Study
from fedrl.studies.result import _summarised, result_of, study_in


def sweep(
    source: Config | Mapping[str, Any] | Path | str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    target: float | None = None,
    quantity: str | None = None,
    sinks: Sequence[Sink] = (),
) -> Study:
    """Run an experiment in every combination of the grid's values, and write a study folder.

    Ctrl-C and SIGTERM end it early with a folder that can be read; `resume_sweep` goes on from there.

    Args:
        source: A configuration, a dictionary of the same shape, or the path of an `experiment.toml`. A section
            `[study]` in it may hold `grid`, `target` and `quantity`.
        grid: The values of each key that is varied: `{"federation.agents": [10, 100]}`.
        out: The study folder to make; `runs/<name>-study-<time>` by default.
        overrides: Changes for all settings, such as "rounds=20".
        target: The return at which settings are timed, or what `quantity` has to come to.
        quantity: The measure by which settings are compared, such as "success"; the return by default.
        sinks: Functions that are told each event of each run.

    Returns:
        What `study.json` holds. A setting that failed while it ran has the state "failed" and the reason; the others
        have run all the same.

    Raises:
        ConfigError: A setting is wrong; none has run.
        UnsoundError: The parts of a setting do not go together; none has run.
        RunError: The folder holds a study already, another process writes to it, or it can't be written to.
    """
    configure_jax()
    plan = plan_of(source, grid, overrides, target, quantity)
    order = running_order(plan)
    with folder.create(None if out is None else Path(out), plan) as place:
        return _conduct(place, order, sinks)


def resume_sweep(path: Path | str, *, sinks: Sequence[Sink] = ()) -> Study:
    """Continue the study in a folder: what has run stays, what was interrupted goes on bit for bit.

    A setting that has failed is tried again.

    Raises:
        RunError: The folder holds no study or one that is complete, is damaged, or another process writes to it.
    """
    configure_jax()
    with folder.reopen_folder(Path(path)) as place:
        if study_in(place)["complete"]:
            raise RunError(f"The study in {path} is complete. There is nothing to resume.")
        return _conduct(place, running_order(place.plan), sinks)


def _conduct(place: StudyFolder, order: Sequence[StudySetting], sinks: Sequence[Sink]) -> Study:
    stop = threading.Event()
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
            programs.update(result.get("programs", {}))  # before it was interrupted
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
    return study


def _run(place: StudyFolder, setting: StudySetting, sinks: Sequence[Sink], stop: threading.Event) -> str | None:
    """Run a setting, or go on with it; why that failed, if it did."""
    path = place.path / setting.folder
    try:
        if (path / CONFIG).exists():
            resume(path, sinks=sinks, stop=stop)
        else:
            run(place.plan.config(setting), path, sinks=sinks, stop=stop)
    except Exception as fault:  # the other settings may still be well
        if not isinstance(fault, FedrlError):
            traceback.print_exception(fault)
        return reason_of(fault)
    return None
