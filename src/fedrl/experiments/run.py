"""Run an experiment: every seed of every method, with records, checkpoints and a summary on the way.

Experiment --> for each method: [seed 0 | worker 0] [seed 1 | worker 1] ... --> RoundRecord --> records.jsonl, sinks
                                      |                                     --> checkpoint
                                      +--> final params --> greedy returns --> summary.json, params.safetensors, report

Seeds of one method share one compiled program; the first seed compiles it while the others wait. Nothing a seed
computes depends on the others, on the number of workers or on when checkpoints are written, so a resumed run is
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.errors import RunError
from fedrl.core.types import Params
from fedrl.engines.blocks import simulate
from fedrl.engines.simulation import Population, Round, Simulation
from fedrl.experiments import checkpoint, folder
from fedrl.experiments.build import Experiment, Method, build
from fedrl.experiments.config import Config, dump, load
from fedrl.experiments.evaluate import returns_of
from fedrl.experiments.events import Compile, Event, RoundRecord, Sink, Start, Summary
from fedrl.experiments.folder import RunFolder
from fedrl.experiments.summary import Timing, summarise
from fedrl.launch import prepare

AVERAGE_ONCE = "average_once"


class Outcome(NamedTuple):
    """Where one seed of one method got to.

    Attributes:
        seed: Of the run.
        round: The last one.
        params: Of one policy for all agents, or of one per agent (`stacked`).
        stacked: Whether every leaf has a leading agent axis.
        greedy: Mean greedy return of each agent in its own environment.
        held_out: The same in each environment that no agent trained in.
    """

    seed: int
    round: int
    params: Params
    stacked: bool
    greedy: list[float | None]
    held_out: list[float | None]


@dataclass
class Program:
    """A method's simulation on certain devices, and whether its program is compiled yet."""

    simulation: Simulation
    compiled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Session:
    """What the seeds of a run share while it goes on."""

    experiment: Experiment
    folder: RunFolder
    sinks: Sequence[Sink]
    timing: Timing
    stop: threading.Event = field(default_factory=threading.Event)
    talking: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    evaluating: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    def tell(self, event: Event) -> None:
        """Hand an event to every sink; a round is written down first."""
        with self.talking:
            if "event" not in event:
                self.folder.append(event)
            for sink in self.sinks:
                sink(event)


def run(
    source: Config | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    sinks: Sequence[Sink] = (),
) -> Summary:
    """Run an experiment and write its run folder.

    Ctrl-C ends it early with a complete folder; `resume` goes on from there.

    Args:
        source: A configuration, a dictionary of the same shape, or the path of an `experiment.toml`.
        out: The run folder to make; `runs/<name>-<time>` by default.
        overrides: Such as "learner.clip=0.1".
        sinks: Functions that are told each event of the run.

    Returns:
        What `summary.json` holds.

    Raises:
        ConfigError: The configuration is wrong.
        UnsoundError: The parts do not go together.
        RunError: The folder holds a run already.
    """
    prepare()
    started = time.perf_counter()
    experiment = build(load(source, overrides))
    place = folder.create(None if out is None else Path(out), experiment.config.name, dump(experiment.config))
    return _conduct(experiment, place, sinks, started)


def resume(path: Path | str, *, sinks: Sequence[Sink] = ()) -> Summary:
    """Continue the run in a folder from its last checkpoints, bit for bit as if it had never stopped.

    Raises:
        RunError: The folder holds no run, or that of another version.
    """
    prepare()
    started = time.perf_counter()
    place = folder.opened(Path(path))
    experiment = build(load(place.path / folder.CONFIG))
    reached = {
        (method.name, seed): _reached(experiment, place, method.name, seed)
        for method in experiment.methods
        for seed in experiment.config.seed_list
    }
    if place.complete:
        raise RunError(f"The run in {path} is complete. There is nothing to resume.")
    place.keep(lambda record: record["round"] <= reached.get((record["method"], record["seed"]), 0))
    return _conduct(experiment, place, sinks, started)


def _reached(experiment: Experiment, place: RunFolder, method: str, seed: int) -> int:
    """The round to go on from. What a host environment remembers can't be saved, so there a seed starts over."""
    done = checkpoint.round_of(place.checkpoint(method, seed))
    return done if experiment.environment.host is None or done == experiment.config.rounds else 0


def _conduct(experiment: Experiment, place: RunFolder, sinks: Sequence[Sink], started: float) -> Summary:
    """Run all methods, then write down what came of it."""
    config = experiment.config
    listeners = [*sinks, *_tensorboard(config, place)]
    session = Session(experiment, place, listeners, Timing(started))
    session.tell(
        Start(
            event="start",
            name=config.name,
            rounds=config.rounds,
            seeds=config.seed_list,
            methods=[method.name for method in experiment.methods],
            agents=config.federation.agents,
            environment_steps_per_round=experiment.methods[0].steps_per_round,
        )
    )
    outcomes: dict[str, list[Outcome]] = {}
    programs: list[tuple[Method, list[Program]]] = []
    for method in experiment.methods:
        shared = [ready for known, ready in programs if known.federation is method.federation]
        ready = shared[0] if shared else [Program(s) for s in _simulations(experiment, method)]
        programs.append((method, ready))
        outcomes[method.name] = _all_seeds(session, method, ready)
        if session.stop.is_set():
            break
        if method.name == "independent" and config.baselines.average_once:
            outcomes[AVERAGE_ONCE] = [_averaged(session, outcome) for outcome in outcomes["independent"]]
    return _finish(session, outcomes)


def _finish(session: Session, outcomes: dict[str, list[Outcome]]) -> Summary:
    place = session.folder
    records = place.records()
    summary = summarise(session.experiment, records, outcomes, session.timing)
    params: dict[str, np.ndarray] = {}
    for outcome in outcomes.get("federated", []):
        params |= checkpoint.named(outcome.params, f"seed{outcome.seed}")
    place.write_params(params)
    place.write_summary(summary)
    report = None
    if records:
        from fedrl.experiments.report import write_report

        report = str(write_report([place.path], place.path / folder.REPORT))
    if not session.stop.is_set():
        place.forget_checkpoints()
    session.tell({"event": "end", "summary": summary, "folder": str(place.path), "report": report})
    return summary


def _simulations(experiment: Experiment, method: Method) -> list[Simulation]:
    """One simulation on all devices; for a single block of agents, which uses only one of them, one per device."""
    if experiment.environment.host is not None:
        from fedrl.engines.host import simulate_host

        return [simulate_host(method.federation, method.fleet, local_steps=method.local_steps)]
    devices = jax.local_devices()
    whole = simulate(method.federation, method.fleet, local_steps=method.local_steps)
    seeds = len(experiment.config.seed_list)
    if whole.agents > whole.block or seeds == 1 or len(devices) == 1:
        return [whole]
    return [
        simulate(method.federation, method.fleet, local_steps=method.local_steps, devices=[device])
        for device in devices[:seeds]
    ]


def _all_seeds(session: Session, method: Method, programs: Sequence[Program]) -> list[Outcome]:
    """Run every seed of a method, as many at a time as there are devices."""
    if not all(program.compiled.is_set() for program in programs):
        session.tell(Compile(event="compile", method=method.name))
    seeds = session.experiment.config.seed_list
    workers = 1 if session.experiment.environment.host is not None else len(jax.local_devices())
    started, waited = time.perf_counter(), session.timing.compile_s
    with ThreadPoolExecutor(max_workers=workers) as pool:
        jobs: list[Future[Outcome | None]] = []
        for i, seed in enumerate(seeds):
            jobs.append(pool.submit(_guarded, session, method, programs[i % len(programs)], seed, i < len(programs)))
        outcomes = _patiently(session, jobs)
    took = time.perf_counter() - started - (session.timing.compile_s - waited)
    session.timing.training_s += max(took, 0.0)
    return outcomes


def _patiently(session: Session, jobs: Sequence[Future[Outcome | None]]) -> list[Outcome]:
    """Wait for every job. On Ctrl-C they end after their current round; a second one is not waited out."""
    outcomes: list[Outcome] = []
    for job in jobs:
        try:
            outcome = job.result()
        except KeyboardInterrupt:
            session.stop.set()
            outcome = job.result()
        if outcome is not None:
            outcomes.append(outcome)
    return outcomes


def _guarded(session: Session, method: Method, program: Program, seed: int, first: bool) -> Outcome | None:
    """One seed; if it fails, the others stop, too."""
    try:
        if not first:
            program.compiled.wait()
        return None if session.stop.is_set() else _seed(session, method, program, seed)
    except BaseException:
        session.stop.set()
        raise
    finally:
        program.compiled.set()


def _seed(session: Session, method: Method, program: Program, seed: int) -> Outcome:
    """Train one seed of one method, from its checkpoint if there is one."""
    config, simulation = session.experiment.config, program.simulation
    path = session.folder.checkpoint(method.name, seed)
    began = time.perf_counter()
    done = _reached(session.experiment, session.folder, method.name, seed)
    population = simulation.init(seed)
    if done:
        population = checkpoint.load(path, population)
    saved = time.perf_counter()
    for number in range(done + 1, config.rounds + 1):
        started = time.perf_counter()
        population, seen = simulation.round(population, talk=method.talk)
        seconds = time.perf_counter() - started
        if not program.compiled.is_set():
            session.timing.add_compile(time.perf_counter() - began)
            program.compiled.set()
        else:
            session.timing.add_steps(method.steps_per_round)
        record = _record(method, seed, number, seen, seconds)
        last = number == config.rounds
        if last or (config.evaluation.every and number % config.evaluation.every == 0):
            record["greedy"] = _greedy(session, seed, *_policy(method, simulation, population))
        session.tell(record)
        done = number
        stopping = session.stop.is_set()
        if last or stopping or time.perf_counter() - saved >= config.checkpoint_s:
            session.folder.sync()
            checkpoint.save(path, population, number)
            saved = time.perf_counter()
        if stopping:
            break
    return _outcome(session, seed, done, *_policy(method, simulation, population))


def _policy(method: Method, simulation: Simulation, population: Population) -> tuple[Params, bool]:
    """The parameters to evaluate, and whether there is one set per agent."""
    if method.talk:
        return jax.tree.map(np.asarray, population.server.params), False
    held = simulation.params_of(population)
    if method.name == "centralised":
        return jax.tree.map(lambda leaf: leaf[0], held), False
    return held, True


def _outcome(session: Session, seed: int, number: int, params: Params, stacked: bool) -> Outcome:
    unseen = session.experiment.held_out
    greedy = _greedy(session, seed, params, stacked)
    held_out = [] if unseen is None or stacked else _greedy(session, seed, params, False, unseen)
    return Outcome(seed, number, params, stacked, greedy, held_out)


def _averaged(session: Session, outcome: Outcome) -> Outcome:
    """The parameter mean of independent agents, evaluated in the environment of each."""
    params = jax.tree.map(lambda leaf: leaf.mean(0, dtype=np.float64).astype(leaf.dtype), outcome.params)
    averaged = _outcome(session, outcome.seed, outcome.round, params, False)
    method = next(m for m in session.experiment.methods if m.name == "independent")
    agents = session.experiment.config.federation.agents
    session.tell(
        {
            "seed": outcome.seed,
            "method": AVERAGE_ONCE,
            "round": outcome.round,
            "environment_steps": outcome.round * method.steps_per_round,
            "return": None,
            "agents": [None] * agents,
            "episodes": 0,
            "loss": None,
            "bytes_up": sum(leaf.nbytes for leaf in jax.tree.leaves(outcome.params)),
            "bytes_down": 0,
            "refused": 0,
            "seconds": 0.0,
            "greedy": averaged.greedy,
        }
    )
    return averaged


def _greedy(session: Session, seed: int, params: Params, stacked: bool, fleet: Any = None) -> list[float | None]:
    """Mean greedy return in each environment of a fleet, by default the agents' own."""
    experiment = session.experiment
    episodes = experiment.config.evaluation.episodes
    where = experiment.fleet if fleet is None else fleet
    with session.evaluating:
        returns = returns_of(experiment.learner, where, params, episodes, seed, stacked)
    return [float(value) for value in returns.mean(axis=1)]


def _record(method: Method, seed: int, number: int, seen: Round, seconds: float) -> RoundRecord:
    """What is written down of one round."""
    nothing = np.zeros(len(method.local_steps))
    episodes = seen.metrics.get("episodes", nothing)
    returned = seen.metrics.get("episode_return", nothing)
    agents = [float(r / n) if n else None for r, n in zip(returned, episodes, strict=True)]
    total = float(episodes.sum())
    loss = seen.metrics.get("loss")
    return {
        "seed": seed,
        "method": method.name,
        "round": number,
        "environment_steps": number * method.steps_per_round,
        "return": float(returned.sum() / total) if total else None,
        "agents": agents,
        "episodes": int(total),
        "loss": _finite(loss / np.asarray(method.local_steps)) if loss is not None else None,
        "bytes_up": seen.bytes_up,
        "bytes_down": seen.bytes_down,
        "refused": seen.refused,
        "seconds": round(seconds, 6),
    }


def _finite(values: np.ndarray) -> float | None:
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None


def _tensorboard(config: Config, place: RunFolder) -> list[Sink]:
    if not config.tensorboard:
        return []
    from fedrl.experiments.tensorboard import tensorboard

    return [tensorboard(place.path / "tensorboard")]
