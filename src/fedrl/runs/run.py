"""Run an experiment: every seed of every method, with records, checkpoints and a summary on the way.

Experiment --> for each method: [seed 0 | worker 0] [seed 1 | worker 1] ... --> RoundRecord --> records.jsonl, sinks
                                      |                                     --> checkpoint
                                      +--> final params --> greedy returns --> summary.json, params.safetensors, report

Seeds of one method share one compiled program; the first seed compiles it while the others wait. Nothing a seed
computes depends on the others, on the number of workers or on when checkpoints are written, so a resumed run is
bit-identical to an uninterrupted one, unless its environment is stepped on the host.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.config import Config, dump, load
from fedrl.config.build import build
from fedrl.config.checking import check_measures
from fedrl.config.coordination import measure_names
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.errors import FedrlError, RunError
from fedrl.launch import configure_jax
from fedrl.records import End, Sink, Start, Summary, checkpoint, folder
from fedrl.records.folder import RunFolder
from fedrl.runs.interruption import Signalled, interruptible
from fedrl.runs.post_training import AVERAGE_ONCE, FINE_TUNED, MIXTURE, averaged, fine_tuned, mixed
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Session, Timing, reason_of
from fedrl.runs.simulations import in_one_program, in_one_simulation
from fedrl.runs.summary import summarise
from fedrl.runs.training import Program, all_seeds, simulations


def run(
    source: Config | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
) -> Summary:
    """Run an experiment and write its run folder.

    Ctrl-C and SIGTERM end it early with a complete folder; `resume` goes on from there.

    Args:
        source: A configuration, a dictionary of the same shape, or the path of an `experiment.toml`.
        out: The run folder to make; `runs/<name>-<time>` by default.
        overrides: Such as "learner.clip=0.1".
        sinks: Functions that are told each event of the run.
        stop: Set it to end the run early, as Ctrl-C does.

    Returns:
        What `summary.json` holds.

    Raises:
        ConfigError: The configuration is wrong.
        UnsoundError: The parts do not go together.
        RunError: The folder holds a run already, another process writes to it, or it can't be written to.

    An error after the first round is raised when the summary, the parameters and the report of the rounds before it
    are written; one before that leaves no folder.
    """
    configure_jax()
    started = time.perf_counter()
    experiment = build(load(source, overrides))
    check_measures(experiment)
    out = None if out is None else Path(out)
    with folder.create(out, experiment.config.name, dump(experiment.config)) as place:
        return _conduct(experiment, place, sinks, started, stop)


def resume(path: Path | str, *, sinks: Sequence[Sink] = (), stop: threading.Event | None = None) -> Summary:
    """Continue the run in a folder from its last checkpoints, bit for bit as if it had never stopped.

    What an environment outside of compiled programs remembers can't be saved: there the run goes on from the same
    round with the same parameters and new episodes, so it is another run than the uninterrupted one, though always
    the same.

    Raises:
        RunError: The folder holds no run or that of another version, is damaged, or another process writes to it.
    """
    configure_jax()
    started = time.perf_counter()
    with folder.reopen_folder(Path(path)) as place:
        experiment = build(load(place.path / folder.CONFIG))
        if place.complete:
            raise RunError(f"The run in {path} is complete. There is nothing to resume.")
        rounds = {
            (method.name, seed): checkpoint.round_of(place.checkpoint(method.name, seed))
            for method in experiment.methods
            for seed in experiment.config.seed_list
        }
        found = place.keep(lambda record: record["round"] <= rounds.get((record["method"], record["seed"]), 0))
        return _conduct(experiment, place, sinks, started, stop, found.notes())


def _conduct(
    experiment: Experiment,
    place: RunFolder,
    sinks: Sequence[Sink],
    started: float,
    stop: threading.Event | None,
    notes: Sequence[str] = (),
) -> Summary:
    """Run all methods, then write down what came of it; on a signal or a failure, as far as they got."""
    listeners = [*sinks, *_tensorboard(experiment.config, place)]
    session = Session(experiment, place, listeners, Timing(started), stop or threading.Event(), notes)
    with interruptible(session.stop) as heard:
        seed_results = _methods(session)
        if session.failure is None:
            return _finish(session, seed_results, heard)
        kept = False
        if place.records():
            with contextlib.suppress(Exception):  # what has stopped the run may also stop this, as a full disk does
                kept = bool(_finish(session, seed_results, heard))
        raise _told(session.failure, place, kept)


def _told(failure: Exception, place: RunFolder, kept: bool) -> Exception:
    """The error that ended a run, and where that which was done before is."""
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
    """Run one method after the other."""
    experiment, config = session.experiment, session.experiment.config
    session.tell(
        Start(
            event="start",
            name=config.name,
            rounds=config.rounds,
            seeds=config.seed_list,
            methods=[method.name for method in experiment.methods],
            agents=config.federation.agents,
            environment_steps_per_round=experiment.methods[0].steps_per_round,
            measures={
                name: measure.unit
                for name, measure in measure_names(experiment.learner, experiment.coordination).items()
            },
        )
    )
    seed_results: dict[str, list[SeedResult]] = {}
    programs: list[tuple[Method, list[Program]]] = []
    try:
        for method in experiment.methods:
            shared = [ready for known, ready in programs if in_one_simulation(known, method)]
            ready = shared[0] if shared else [Program(each) for each in simulations(experiment, method)]
            if any(in_one_program(experiment, known, method) for known, _ in programs):
                for program in ready:
                    program.compiled.set()
            programs.append((method, ready))
            seed_results[method.name] = all_seeds(session, method, ready)
            if session.stopping:
                break
            if method.name == "federated" and config.evaluation.fine_tune:
                seed_results[FINE_TUNED] = fine_tuned(session, ready[0].simulation, seed_results["federated"])
            if method.name == "independent" and config.baselines.average_once:
                seed_results[AVERAGE_ONCE] = averaged(session, seed_results["independent"])
            if method.name == "independent" and config.baselines.mixture:
                seed_results[MIXTURE] = mixed(session, seed_results["independent"])
    except Exception as fault:
        session.fail(fault)
    finally:
        for _, open_folder in programs:
            for program in open_folder:
                program.simulation.close()
    return seed_results


def _finish(session: Session, seed_results: dict[str, list[SeedResult]], heard: Signalled) -> Summary:
    place = session.folder
    found = place.read()
    summary = summarise(session.experiment, found.records, seed_results, session.timing, session.measures)
    notes = [*session.notes, *found.notes()]
    if notes:
        summary["notes"] = notes
    if session.failure is not None:
        summary["failure"] = reason_of(session.failure)
    params: dict[str, np.ndarray] = {}
    for seed_result in seed_results.get("federated", []):
        params |= checkpoint.named(seed_result.params, f"seed{seed_result.seed}")
    place.write_params(params)
    place.write_summary(summary)
    report = None
    if found.records:
        from fedrl.report import write_report

        report = str(write_report([place.path], place.path / folder.REPORT))
    if not session.stopping:
        place.forget_checkpoints()
    end = End(event="end", summary=summary, folder=str(place.path), report=report)
    if heard.signal is not None:
        end["signal"] = heard.signal
    session.tell(end)
    return summary


def _tensorboard(config: Config, place: RunFolder) -> list[Sink]:
    if not config.tensorboard:
        return []
    from fedrl.runs.tensorboard import tensorboard

    return [tensorboard(place.path / "tensorboard")]
