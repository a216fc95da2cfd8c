"""Run a study: one setting after the other, each a complete run, with `study.json` written after each of them.

Equal federations share their compiled programs (`fedrl.engines.program_cache`), so settings that differ only in the
number of agents, the fleet, rounds or seeds compile nothing, and such settings run one after the other. A setting is
bit-identical to `fedrl run` of its configuration. A setting that fails is recorded with its reason, and the others run.
Resuming the study goes on after it, and runs it again only if told to. A setting during which the process was killed,
as for lack of memory, is resumed after all others, so that it can't keep them from running.

    settings --> one after the other, in this process (`run_setting`) --> outcomes --> study.json, report
             +-> several at a time, in processes of Ray (`on_ray`)   --+
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from fedrl.config import Config
from fedrl.config.build import placement_of
from fedrl.core.errors import RunError
from fedrl.core.imports import allowed, importing
from fedrl.engines.executors.placement import Placement
from fedrl.launch import configure_jax
from fedrl.records import Event, SettingEnd, SettingStart, Sink, StudyEnd
from fedrl.records.notices import named
from fedrl.runs.interruption import Signalled, interruptible
from fedrl.sinks.verbosity import displaying
from fedrl.studies import folder
from fedrl.studies.folder import StudyFolder
from fedrl.studies.on_ray import connected
from fedrl.studies.one_setting import SettingOutcome, run_setting
from fedrl.studies.plan import StudySetting, in_order, plan_of, program_groups
from fedrl.studies.quantity import quantity_named
from fedrl.studies.ray_study import Cluster
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
    executor: Placement | Mapping[str, Any] | str | None = None,
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
        executor: Where settings run at the same time: "ray", a table such as `{"name": "ray", "workers": 2}`, or what
            `fedrl.engines.distributed.choices.ray` returns; by default one after the other in this process. Results
            have the same bits.
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
        RunError: The folder already contains a study, another process writes to it, or it is not writable; or no worker
            can run settings, or see the folder.
    """
    placement = None if executor is None else placement_of(executor)
    configure_jax()
    plan = plan_of(source, grid, overrides, target, quantity)
    groups = program_groups(plan)
    stop = stop or threading.Event()
    with (
        connected(placement, plan, groups) as cluster,
        displaying(verbose, _display) as shown,
        interruptible(stop) as heard,
        folder.create(None if out is None else Path(out), plan) as place,
    ):
        return _conduct(place, in_order(groups), [*sinks, *shown], stop, heard, cluster)


def resume_sweep(
    path: Path | str,
    *,
    retry_failed: bool = False,
    executor: Placement | Mapping[str, Any] | str | None = None,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
    trust: bool = False,
) -> StudyResult:
    """Continue the study in a folder: finished settings are kept, interrupted ones are resumed bit-identically.

    Args:
        path: The study folder.
        retry_failed: Whether the settings that failed are run again, from their last complete round.
        executor: Where settings run at the same time: "ray", a table such as `{"name": "ray", "workers": 2}`, or what
            `fedrl.engines.distributed.choices.ray` returns; by default one after the other in this process. It
            need not be what the study was started with.
        sinks: Functions that are called with each event of each run.
        stop: An event that ends the study early when it is set, as Ctrl-C does.
        verbose: 1 to show progress, 0 to show nothing.
        trust: Whether to import components of one's own that the folder names; someone else's folder may name any.

    Returns:
        The result, as of `sweep`.

    Raises:
        ConfigError: The folder names code outside fedrl, and it is not trusted.
        RunError: The folder contains no study or one with nothing left to run, is damaged, or another process writes to
            it; or no worker can run settings, or see the folder.
    """
    placement = None if executor is None else placement_of(executor)
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
        groups = program_groups(place.plan)
        order = sorted(in_order(groups), key=lambda setting: setting.folder in killed)
        failed = [result["folder"] for result in study["settings"] if result["state"] == "failed"]
        with connected(placement, place.plan, groups) as cluster:
            given = (place, order, [*sinks, *shown], stop, heard, cluster)
            return _conduct(*given, skipped=set() if retry_failed else set(failed))


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
    cluster: Cluster | None = None,
    skipped: Set[str] = frozenset(),
) -> StudyResult:
    """Run the settings in this order, without the finished ones and those whose folders are in `skipped`."""
    study = study_in(place)
    over = {result["folder"] for result in study["settings"] if result["state"] == "finished"} | skipped
    left = [setting for setting in order if setting.folder not in over]
    at_once = 1 if cluster is None else min(cluster.workers, len(left))

    def tell(event: Event) -> None:
        for sink in sinks:
            sink(event)

    def begin(setting: StudySetting) -> None:
        start = SettingStart(event="setting", number=setting.number, of=len(order), label=setting.label)
        if at_once > 1:
            start["at_once"] = at_once
        tell(start)
        study["settings"][setting.number - 1]["state"] = "running"
        place.write(study)  # found on resuming, if the process is killed from here on

    running = _in_this_process if cluster is None else cluster.running
    with running(place, left, begin, tell, stop) as outcomes:
        place.write(study)
        for outcome in outcomes:
            _keep(place, study, outcome)
            result = study["settings"][outcome.number - 1]
            ended = SettingEnd(event="setting-end", number=outcome.number, state=result["state"])
            if "reason" in result:
                ended["reason"] = result["reason"]
            tell(ended)
    from fedrl.studies.page import write_study_report

    report = str(write_study_report(place.path))
    end = StudyEnd(event="study", study=study, folder=str(place.path), report=report)
    if heard.signal is not None:
        end["signal"] = heard.signal
    tell(end)
    return StudyResult(place.path, study)


def _keep(place: StudyFolder, study: Study, outcome: SettingOutcome) -> None:
    """Write the result of a setting into `study.json`."""
    if outcome.traceback:
        print(outcome.traceback, end="", file=sys.stderr)
    plan, before = place.plan, study["settings"][outcome.number - 1]
    setting = plan.settings[outcome.number - 1]
    programs = Counter(outcome.programs)
    programs.update(before.get("programs", {}))  # plus those compiled before an interruption
    given = (setting, plan.config(setting), place.run_folder(setting), plan.target)
    study["settings"][outcome.number - 1] = result_of(*given, programs, outcome.reason, plan.quantity)
    study["quantity"] = quantity_named(plan.quantity, _summarised(place))
    study["complete"] = all(each["state"] == "finished" for each in study["settings"])
    place.write(study)


@contextmanager
def _in_this_process(
    place: StudyFolder,
    settings: Sequence[StudySetting],
    begin: Callable[[StudySetting], None],
    tell: Sink,
    stop: threading.Event,
) -> Iterator[Iterator[SettingOutcome]]:
    """Yield the outcomes of settings, each of which runs when it is asked for."""

    def one(setting: StudySetting) -> SettingOutcome:
        begin(setting)
        given = (setting.number, lambda: place.plan.config(setting), place.path / setting.folder, [tell], stop)
        return run_setting(*given, trust=allowed())

    # Whether to stop is asked before each setting, not when the list is made.
    yield map(one, itertools.takewhile(lambda _: not stop.is_set(), settings))
