"""What the seeds of a run share while it goes on, and what becomes of each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import FedrlError
from fedrl.core.learner import Learner
from fedrl.core.types import Params
from fedrl.engines.simulation import Round
from fedrl.experiments.build import Experiment
from fedrl.experiments.evaluate import returns_of
from fedrl.experiments.events import Event, RoundRecord, Sink
from fedrl.experiments.exchange import exchanged
from fedrl.experiments.folder import RunFolder
from fedrl.experiments.methods import Method
from fedrl.experiments.summary import Timing


class Policies(NamedTuple):
    """What is evaluated.

    Attributes:
        acting: What agents act with: parameters of one policy for all of them, or of one per agent (`stacked`).
        stacked: Whether every leaf has a leading agent axis.
        common: The policy of an agent that never trained, if there is one: what the server holds.
        actor: Whose `act` takes these parameters; by default the experiment's learner.
    """

    acting: Params
    stacked: bool
    common: Params | None
    actor: Learner | None = None


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
class Session:
    """What the seeds of a run share while it goes on.

    Attributes:
        experiment: What is run.
        folder: Where it is written down.
        sinks: Who is told.
        timing: Where the time went.
        stop: Set by whoever wants the run to end early.
        notes: What is wrong with the folder that is gone on with, a sentence each.
        failure: The first error of a seed; the others stop after their round, and what was done is kept.
    """

    experiment: Experiment
    folder: RunFolder
    sinks: Sequence[Sink]
    timing: Timing
    stop: threading.Event = field(default_factory=threading.Event)
    notes: Sequence[str] = ()
    failure: Exception | None = None
    talking: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    evaluating: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    @property
    def stopping(self) -> bool:
        """Whether seeds end after the round they are in."""
        return self.stop.is_set() or self.failure is not None

    def fail(self, fault: Exception) -> None:
        """Remember the first error, which ends the run."""
        with self.talking:
            self.failure = fault if self.failure is None else self.failure

    def tell(self, event: Event) -> None:
        """Hand an event to every sink; a round is written down first."""
        with self.talking:
            if "event" not in event:
                self.folder.append(event)
            for sink in self.sinks:
                sink(event)


def reason_of(fault: Exception) -> str:
    """An error in a sentence; one that fedrl did not raise on purpose, with its kind."""
    return str(fault) if isinstance(fault, FedrlError) else f"{type(fault).__name__}: {fault}"


def outcome(session: Session, seed: int, number: int, policies: Policies) -> Outcome:
    """Evaluate where a seed got to."""
    unseen = session.experiment.held_out
    own = greedy(session, seed, policies)
    held_out: list[float | None] = []
    if unseen is not None and policies.common is not None:
        held_out = greedy(session, seed, policies._replace(acting=policies.common, stacked=False), unseen)
    return Outcome(seed, number, policies.acting, policies.stacked, own, held_out)


def greedy(session: Session, seed: int, policies: Policies, fleet: Any = None) -> list[float | None]:
    """Mean greedy return in each environment of a fleet, by default the agents' own."""
    experiment = session.experiment
    episodes = experiment.config.evaluation.episodes
    where = experiment.fleet if fleet is None else fleet
    actor = experiment.learner if policies.actor is None else policies.actor
    with session.evaluating:
        returns = returns_of(actor, where, policies.acting, episodes, seed, policies.stacked)
    return [_known(value) for value in returns.mean(axis=1)]


def record_of(method: Method, seed: int, number: int, seen: Round, seconds: float) -> RoundRecord:
    """What is written down of one round."""
    nothing = np.zeros(len(method.local_steps))
    episodes = seen.metrics.get("episodes", nothing)
    returned = seen.metrics.get("episode_return", nothing)
    agents = [_known(r / n) if n else None for r, n in zip(returned, episodes, strict=True)]
    total = float(episodes.sum())
    loss = seen.metrics.get("loss")
    steps = np.asarray(method.local_steps) if seen.steps is None else seen.steps
    record: RoundRecord = {
        "seed": seed,
        "method": method.name,
        "round": number,
        "environment_steps": steps_until(method, number, seen),
        "return": _known(returned.sum() / total) if total else None,
        "agents": agents,
        "episodes": int(total),
        "loss": _known((loss[steps > 0] / steps[steps > 0]).mean()) if loss is not None and (steps > 0).any() else None,
        "bytes_up": seen.bytes_up,
        "bytes_down": seen.bytes_down,
        "messages_up": seen.messages_up,
        "messages_down": seen.messages_down,
        "refused": len(seen.refused),
        "seconds": round(seconds, 6),
    }
    return {**record, **exchanged(seen)} if method.talk else record


def steps_of(method: Method, seen: Round) -> int:
    """Environment steps of all agents in a round."""
    if seen.steps is None:
        return method.steps_per_round
    return method.federation.learner.samples * int(seen.steps.sum())


def steps_until(method: Method, number: int, seen: Round) -> int:
    """Environment steps of all agents since this seed of the method began."""
    if seen.iterations is None:
        return number * method.steps_per_round
    return method.federation.learner.samples * seen.iterations


def _known(value: float | np.floating) -> float | None:
    """A number for a file; one that is not finite is none."""
    return float(value) if np.isfinite(value) else None
