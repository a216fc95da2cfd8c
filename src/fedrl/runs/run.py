"""Run an experiment: every seed of every method, with records, checkpoints and a summary.

Experiment --> for each method: [seed 0 | worker 0] [seed 1 | worker 1] ... --> RoundRecord --> records.jsonl, sinks
                                      |                                     --> checkpoint
                                      +--> final params --> greedy returns --> summary.json, params.safetensors, film,
                                                                               report

Seeds of one method share one compiled program; the first seed compiles it while the others wait. The results of a seed
do not depend on other seeds, on the number of workers or on the times of checkpoints, so a resumed run is bit-identical
to an uninterrupted one, unless its environment is stepped on the host.
"""

from __future__ import annotations

import contextlib
import threading
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.config import Config, dump, load, tables_of
from fedrl.config.build import build, placement_of
from fedrl.config.checking import check_measures
from fedrl.config.coordination import measure_names
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.errors import FedrlError, RunError
from fedrl.core.imports import importing
from fedrl.engines.executors.placement import Placement
from fedrl.launch import configure_jax
from fedrl.records import End, Sink, Start, Summary, checkpoint, folder
from fedrl.records.folder import RunFolder
from fedrl.runs.extending import extended, revision
from fedrl.runs.interruption import Signalled, interruptible
from fedrl.runs.policy_file import COMMON, facts_of, metadata_of
from fedrl.runs.post_training import AVERAGE_ONCE, FINE_TUNED, MIXTURE, averaged, fine_tuned, mixed
from fedrl.runs.privacy_statements import privacy_of, sentences
from fedrl.runs.reading import experiment_of
from fedrl.runs.result import RunResult
from fedrl.runs.run_film import film_of_run
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Session, Timing, reason_of
from fedrl.runs.simulations import in_one_program, in_one_simulation
from fedrl.runs.spending import begun, reopened
from fedrl.runs.starting import origins, read_start
from fedrl.runs.summary import summarise
from fedrl.runs.training import Program, all_seeds, simulations
from fedrl.sinks import tensorboard
from fedrl.sinks.verbosity import displaying, run_display


def run(
    source: Config | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    init: Path | str | Mapping[str, Any] | None = None,
    executor: Placement | Mapping[str, Any] | str | None = None,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
) -> RunResult:
    """Run an experiment and write its run folder.

    Ctrl-C and SIGTERM end it early with a complete folder, which `resume` continues. An error after the first round is
    raised after the summary, the parameters and the report of the rounds before it are written; an earlier error leaves
    no folder.

    Args:
        source: A configuration, a dictionary of its tables, or the path of an `experiment.toml`.
        out: The run folder to make; `runs/<name>-<time>` by default.
        overrides: Changes of the configuration, such as "learner.clip=0.1".
        init: The earlier run from which this one starts, instead of the one in the configuration: a run folder, a file
            of parameters, or a table such as `{"run": "runs/x", "seed": 0, "agent": 2}`.
        executor: Where agents train, instead of the one in the configuration: "process", this one, or "ray", worker
            processes on one or more machines, such as `fedrl.engines.distributed.choices.ray(workers=2)`.
        sinks: Functions that are called with each event of the run; `fedrl.sinks` has some.
        stop: An event that ends the run early when it is set, as Ctrl-C does; a sink may set it.
        verbose: 1 to show progress, as `fedrl run` does on a terminal or in a log, or in an output of a notebook; 0 to
            show nothing.

    Returns:
        The content of `summary.json` as a mapping, with the folder, the curves and the policy.

    Raises:
        ConfigError: The configuration is wrong.
        UnsoundError: Its parts can't be combined.
        RunError: The folder already contains a run, another process writes to it, or it is not writable.
    """
    configure_jax()
    started = time.perf_counter()
    tables = tables_of(source)
    if init is not None:
        tables["init"] = dict(init) if isinstance(init, Mapping) else str(init)
    # One that is made for this process alone, such as that of agents at other sites, can't stand in a file.
    alive = executor if isinstance(executor, Placement) and executor.live else None
    if executor is not None and alive is None:
        tables["executor"] = executor
    experiment, start = read_start(build(load(tables, overrides)))
    if alive is not None:
        experiment = replace(experiment, executor=alive)
    check_measures(experiment)
    out, stop = None if out is None else Path(out), stop or threading.Event()
    with (
        displaying(verbose, run_display) as shown,
        # Before the folder is made: from then on a signal ends the run in order.
        interruptible(stop) as heard,
        folder.create(out, experiment.config.name, dump(experiment.config)) as place,
    ):
        if start is not None:
            start.write(place)
        notes = origins(place, experiment)
        spending = begun(place, experiment)
        session = Session(experiment, place, [*sinks, *shown], Timing(started), stop, notes, spending)
        return RunResult(place.path, _conduct(session, heard))


def resume(
    path: Path | str,
    *,
    rounds: int | str | None = None,
    executor: Placement | Mapping[str, Any] | str | None = None,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    verbose: int = 1,
    trust: bool = False,
) -> RunResult:
    """Continue the run in a folder from its last checkpoints, bit-identical to an uninterrupted run.

    With `rounds` it goes on for more rounds than it was started with, also if it is complete, to the same bits as a run
    with so many rounds from the start. Baselines without rounds are evaluated again.

    The state of an environment outside compiled programs can't be saved: such a run continues from the same round with
    the same parameters and new episodes, so it differs from the uninterrupted run, but is reproducible.

    Args:
        path: The run folder.
        rounds: The number of rounds in all, such as 500, or of further ones, such as "+50"; by default those of its
            configuration.
        executor: Where agents train, as of `run`; by default in this process, wherever they have trained before.
        sinks: Functions that are called with each event of the run; `fedrl.sinks` has some.
        stop: An event that ends the run early when it is set, as Ctrl-C does; a sink may set it.
        verbose: 1 to show progress, as `fedrl run` does on a terminal or in a log, or in an output of a notebook; 0 to
            show nothing.
        trust: Whether to import components of one's own that the folder names; someone else's folder may name any.

    Returns:
        The content of `summary.json` as a mapping, with the folder, the curves and the policy.

    Raises:
        ConfigError: The configuration names code outside fedrl, and the folder is not trusted; or `rounds` is no
            number, or fewer than the run has done.
        RunError: The folder contains no run or one of another version, is damaged, or another process writes to it; or
            it is complete, and `rounds` is not given or it has no checkpoints.
    """
    configure_jax()
    started, stop = time.perf_counter(), stop or threading.Event()
    with (
        displaying(verbose, run_display) as shown,
        interruptible(stop) as heard,
        folder.reopen_folder(Path(path)) as place,
    ):
        experiment = experiment_of(place.path / folder.CONFIG, trust)
        notes: list[str] = []
        # Before anything in the folder changes, since records show how long the ledger has to be.
        spending = reopened(place, given_executor(experiment, executor))
        if rounds is not None:
            with importing(trust):
                experiment, notes = extended(place, experiment, rounds, spending)
        experiment = given_executor(experiment, executor)
        if place.complete:
            raise RunError(
                f"The run in {path} is complete. There is nothing to resume. Continue it for more rounds with --rounds "
                "+50, for example."
            )
        found = place.revise(revision(place, experiment))
        notes = [*origins(place, experiment), *notes, *found.notes()]
        session = Session(experiment, place, [*sinks, *shown], Timing(started), stop, notes, spending)
        return RunResult(place.path, _conduct(session, heard))


def given_executor(experiment: Experiment, executor: Placement | Mapping[str, Any] | str | None) -> Experiment:
    """Return the experiment with another executor, if one is given."""
    return experiment if executor is None else replace(experiment, executor=placement_of(executor))


def _conduct(session: Session, heard: Signalled) -> Summary:
    """Run all methods, then write the results; after a signal or a failure, those of the completed rounds."""
    place = session.folder
    session.sinks = [*session.sinks, *_tensorboard(session.experiment.config, place)]
    seed_results = _methods(session)
    if session.failure is None:
        return _finish(session, seed_results, heard)
    kept = False
    if place.records():
        with contextlib.suppress(Exception):  # the cause of the failure, such as a full disk, may affect this, too
            kept = bool(_finish(session, seed_results, heard))
    raise _told(session.failure, place, kept)


def _told(failure: Exception, place: RunFolder, kept: bool) -> Exception:
    """Return the error that ended a run, with the folder of the rounds before it."""
    if not kept:
        return failure
    where = f"The rounds before that are kept, with their summary, parameters and report, in {place.path}."
    if isinstance(failure, FedrlError):
        told = type(failure)(f"{failure} {where}")
        told.__cause__ = failure
        return told
    failure.add_note(where)
    return failure


def _methods(session: Session) -> dict[str, list[SeedResult]]:
    """Run one method after the other, and those that start from its final state."""
    experiment, config = session.experiment, session.experiment.config
    start = Start(
        event="start",
        name=config.name,
        rounds=config.rounds,
        seeds=config.seed_list,
        methods=[method.name for method in experiment.methods],
        agents=config.federation.agents,
        environment_steps_per_round=experiment.methods[0].steps_per_round,
        measures={
            name: measure.unit for name, measure in measure_names(experiment.learner, experiment.coordination).items()
        },
    )
    if experiment.in_real_time:
        start["real_time"] = True
    if session.spending is not None:
        start["epsilon"] = session.spending.guarantee.budget.epsilon
    session.tell(start)
    for sentence in (*experiment.environment.notes, *sentences(experiment)):
        session.notice(sentence)
    seed_results: dict[str, list[SeedResult]] = {}
    programs: list[tuple[Method, list[Program]]] = []
    try:
        for method in experiment.methods:
            # Independent agents may run in the federation's simulation, or at least reuse its compiled program.
            shared = [ready for known, ready in programs if in_one_simulation(known, method)]
            ready = shared[0] if shared else [Program(each) for each in simulations(experiment, method)]
            if any(in_one_program(experiment, known, method) for known, _ in programs):
                # The federation has compiled this program already, so no seed has to wait for it.
                for program in ready:
                    program.compiled.set()
            programs.append((method, ready))
            for name, step in _steps(session, method, ready, seed_results).items():
                if session.stopping:
                    session.whole = False
                    return seed_results
                seed_results[name] = step()
                session.whole = session.whole and _reached_the_end(config, seed_results[name])
    except Exception as fault:
        session.fail(fault)
    finally:
        # Host environments have worker processes, which have to end also after an error.
        for _, open_folder in programs:
            for program in open_folder:
                program.simulation.close()
    return seed_results


def _steps(
    session: Session, method: Method, ready: list[Program], seed_results: Mapping[str, list[SeedResult]]
) -> dict[str, Callable[[], list[SeedResult]]]:
    """Return what to do for a method, by the name of the result: its training, and what starts from its final state."""
    config = session.experiment.config
    steps: dict[str, Callable[[], list[SeedResult]]] = {method.name: lambda: all_seeds(session, method, ready)}
    if method.name == "federated" and config.evaluation.fine_tune:
        steps[FINE_TUNED] = lambda: fine_tuned(session, ready[0].simulation, seed_results["federated"])
    if method.name == "independent" and config.baselines.average_once:
        steps[AVERAGE_ONCE] = lambda: averaged(session, seed_results["independent"])
    if method.name == "independent" and config.baselines.mixture:
        steps[MIXTURE] = lambda: mixed(session, seed_results["independent"])
    return steps


def _reached_the_end(config: Config, ended: Sequence[SeedResult]) -> bool:
    """Return whether every seed of a method took part to its end; after a signal some may not."""
    return len(ended) == len(config.seed_list) and all(each.round == config.rounds or each.ended for each in ended)


def _finish(session: Session, seed_results: dict[str, list[SeedResult]], heard: Signalled) -> Summary:
    place, experiment = session.folder, session.experiment
    unchanged = session.stopping and not (session.whole or session.recorded or session.failure)
    if unchanged and (earlier := place.summary()):
        # A resumed run that was stopped before its next round: the results of the rounds before it stand.
        return _ended(session, typing.cast(Summary, earlier), place.report(), heard)
    found = place.read()
    summary = summarise(session.experiment, found.records, seed_results, session.timing, session.measures)
    if session.spending is not None:
        summary["privacy"] = privacy_of(session.spending, session.experiment)
        summary["epsilon"] = summary["privacy"]["epsilon"]
    notes = [*session.notes, *found.notes()]
    if notes:
        summary["notes"] = notes
    if session.failure is not None:
        summary["failure"] = reason_of(session.failure)
    params: dict[str, np.ndarray] = {}
    for seed_result in seed_results.get("federated", []):
        params |= checkpoint.named(seed_result.params, f"seed{seed_result.seed}")
        if seed_result.common is not None:
            params |= checkpoint.named(seed_result.common, f"{COMMON}seed{seed_result.seed}")
    place.write_params(params, metadata_of(facts_of(session.experiment)))
    place.write_summary(summary)
    if session.failure is None and not session.stopping:
        film = film_of_run(
            session.experiment, [each for each in seed_results.get("federated", []) if each.round], place, session.stop
        )
        if film is not None:
            summary["film"] = film
            place.write_summary(summary)
    report = None
    if found.records or session.whole:
        from fedrl.report import write_report

        report = str(write_report([place.path], place.path / folder.REPORT))
    # Last of all: a folder with a summary and without `checkpoints/` counts as complete.
    if session.whole and session.failure is None:
        place.close_checkpoints(bool(experiment.config.keep_checkpoints))
    return _ended(session, summary, report, heard)


def _ended(session: Session, summary: Summary, report: str | None, heard: Signalled) -> Summary:
    """Pass the last event to the sinks."""
    end = End(event="end", summary=summary, folder=str(session.folder.path), report=report)
    if heard.signal is not None:
        end["signal"] = heard.signal
    session.tell(end)
    return summary


def _tensorboard(config: Config, place: RunFolder) -> list[Sink]:
    if not config.tensorboard:
        return []
    return [tensorboard(place.path / "tensorboard")]
