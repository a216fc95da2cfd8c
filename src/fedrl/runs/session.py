"""State that the seeds of a run share, the evaluation of each, and the record of a round."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import jax
import numpy as np

from fedrl.config.measures import Declared, declared
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.errors import FedrlError
from fedrl.core.learner import Learner
from fedrl.core.types import Params
from fedrl.engines.state import RoundResult, Simulation, SimulationState
from fedrl.records import Event, Notice, RoundRecord, Sink
from fedrl.records.folder import RunFolder
from fedrl.records.measured import OWN_KEYS
from fedrl.records.rejections import rejections_in
from fedrl.runs.communication import communicated
from fedrl.runs.environment_failures import FailureHistory, fault_of, records_of
from fedrl.runs.evaluate import Played, played
from fedrl.runs.measuring import known, sums_in, values_in
from fedrl.runs.seed_result import Omission, SeedResult
from fedrl.runs.spending import METHOD, Account, Spending, Unlimited
from fedrl.runs.starting import first_state

if TYPE_CHECKING:
    from fedrl.runs.seed_result import SeedResult

NOT_FINITE = "its parameters are not finite"
NO_RETURN = "its environment gave a return that is not finite"
NO_EVALUATION = "its environment failed in the evaluation"
EVALUATION = "evaluation"


class Policies(NamedTuple):
    """The policies to evaluate.

    Attributes:
        acting: Parameters with which agents act: of one policy for all of them, or of one per agent (`stacked`).
        stacked: Whether every leaf has a leading agent axis.
        common: Parameters of the server's policy, for agents that never trained; None if there is none.
        actor: The learner whose `act` takes these parameters; by default the experiment's.
        unlearned: Agents that have learned nothing, with the reason: they have no policy of this method.
        without: Agents that have no part in these policies, with the reason.
        failed: Why there is no policy at all; empty if there is one.
    """

    acting: Params
    stacked: bool
    common: Params | None
    actor: Learner | None = None
    unlearned: Mapping[int, str] = MappingProxyType({})
    without: Mapping[int, str] = MappingProxyType({})
    failed: str = ""


@dataclass
class Session:
    """State that the seeds of a run share. Seeds run in threads, so events and evaluations are behind locks.

    Attributes:
        experiment: The experiment.
        folder: The run folder.
        sinks: Functions that are called with each event.
        timing: Time spent compiling and training.
        stop: An event that ends the run after the current rounds.
        notes: Defects of a resumed folder, a sentence each.
        failure: The first error of a seed; the others then stop after their round, and their results are kept.
        recorded: Whether a round has ended since this process began or resumed the run.
        spending: The privacy budget of the federated method; None without one.
        whole: Whether every seed of every method so far has reached its end.
        measures: Declared measures of each method that has started to train.
        talking: Lock of events and records.
        evaluating: Lock of evaluations, which already use all devices.
    """

    experiment: Experiment
    folder: RunFolder
    sinks: Sequence[Sink]
    timing: Timing
    stop: threading.Event = field(default_factory=threading.Event)
    notes: Sequence[str] = ()
    spending: Spending | None = None
    failure: Exception | None = None
    recorded: bool = False
    whole: bool = True
    measures: dict[str, Declared] = field(default_factory=dict)
    talking: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    evaluating: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    def first_state(self, method: Method, simulation: Simulation, seed: int) -> SimulationState:
        """Return the state in which a seed of a method begins."""
        return first_state(self.folder, self.experiment, method, simulation, seed)

    def account(self, method: Method, seed: int) -> Account | Unlimited:
        """Return the privacy budget of a seed of a method."""
        return self.spending.account(seed) if self.spending is not None and method.name == METHOD else Unlimited()

    def notice(self, text: str) -> None:
        """Tell a sentence; nothing if it is empty."""
        if text:
            self.tell(Notice(event="notice", text=text))

    @property
    def stopping(self) -> bool:
        """Whether seeds end after their current round."""
        return self.stop.is_set() or self.failure is not None

    def fail(self, fault: Exception) -> None:
        """Store the first error, which ends the run."""
        with self.talking:
            self.failure = fault if self.failure is None else self.failure

    def failures(self, method: str, seed: int) -> FailureHistory:
        """Return an empty history of the failures of environments."""
        stops = self.experiment.config.on_environment_error == "stop"
        return FailureHistory(method, seed, stops, self.tell, self.fail)

    def tell(self, event: Event) -> None:
        """Pass an event to every sink, after writing it if it is a record of a round."""
        with self.talking:
            # The record is on file before a sink shows it, so a sink that fails loses nothing.
            if "event" not in event:
                self.folder.append(event)
                self.recorded = True
            elif event.get("event") == "notice":
                self.notes = [*self.notes, cast(Notice, event)["text"]]
            for sink in self.sinks:
                sink(event)


def reason_of(fault: Exception) -> str:
    """Return an error as a sentence; with its type, if it is not one of fedrl's own."""
    return str(fault) if isinstance(fault, FedrlError) else f"{type(fault).__name__}: {fault}"


def seed_result(session: Session, seed: int, number: int, policies: Policies) -> SeedResult:
    """Evaluate the final policies of a seed."""
    unseen = session.experiment.held_out
    policies = sound(policies)
    own, sums, failed = evaluated(session, seed, policies, number)
    left_out = _omissions(policies, own, failed)
    held_out: list[float | None] = []
    unseen_left_out: tuple[Omission, ...] = ()
    if unseen is not None and policies.common is not None:
        # Held-out environments have no agent, so reasons about single agents do not apply to them.
        common = policies._replace(acting=policies.common, stacked=False, unlearned={}, without={})
        held_out, _, failed = evaluated(session, seed, common, number, unseen)
        unseen_left_out = _omissions(common, held_out, failed)
    acting, stacked, unlearned = policies.acting, policies.stacked, policies.unlearned
    beside = policies.common if stacked else None
    return SeedResult(seed, number, acting, stacked, own, held_out, unlearned, left_out, unseen_left_out, sums, beside)


def sound(policies: Policies) -> Policies:
    """Return the policies, with those that are not finite marked as unlearned.

    If each agent has its own policy, zeros replace those that are not finite, so that all can be played in one program.
    """
    if policies.failed:
        return policies
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(policies.acting)]
    if not policies.stacked:
        finite = all(np.isfinite(leaf).all() for leaf in leaves)
        return policies if finite else policies._replace(failed="the parameters are not finite")
    each = np.all([np.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in leaves], axis=0)
    if each.all():
        return policies
    broken = {int(agent): NOT_FINITE for agent in np.flatnonzero(~each)}
    acting = jax.tree.map(lambda x: np.where(each.reshape(-1, *[1] * (np.ndim(x) - 1)), x, 0), policies.acting)
    return policies._replace(acting=acting, unlearned=broken | dict(policies.unlearned))


def greedy(session: Session, seed: int, policies: Policies, fleet: Any = None) -> list[float | None]:
    """Return the mean greedy return in each environment of a fleet, by default the agents' own.

    It is None where there is no policy, and where the return of an episode is not finite.
    """
    return evaluation(session, seed, policies, fleet)[0]


def evaluation(
    session: Session, seed: int, policies: Policies, fleet: Any = None
) -> tuple[list[float | None], dict[str, np.ndarray]]:
    """Return greedy returns as `greedy` does, and the sums of measures as in `Played`; empty without a policy."""
    return evaluated(session, seed, policies, 0, fleet)[:2]


def evaluated(
    session: Session, seed: int, policies: Policies, number: int, fleet: Any = None
) -> tuple[list[float | None], dict[str, np.ndarray], dict[int, str]]:
    """Return the same, and the reasons of agents whose environments failed; tell of those after round `number`."""
    experiment = session.experiment
    episodes = experiment.config.evaluation.episodes
    where = experiment.fleet if fleet is None else fleet
    actor = experiment.learner if policies.actor is None else policies.actor
    policies = sound(policies)
    if policies.failed:
        return [None] * jax.tree.leaves(where)[0].shape[0], {}, {}
    # One at a time: an evaluation already uses all devices.
    with session.evaluating:
        given = (actor, where, policies.acting, episodes, seed, policies.stacked)
        # Only where it has a meaning, so that a function in its place need not know it.
        found: Played = played(*given, experiment.config.restarts) if experiment.config.restarts else played(*given)
    failed = {each.agent: each for each in reversed(found.failures) if not each.repeated}
    session.failures(EVALUATION, seed).tell(number, found.failures, evaluating=True)
    if failed and experiment.config.on_environment_error == "stop":
        session.fail(fault_of(next(iter(failed.values())), f"Evaluation after round {number}: "))
    means = enumerate(mean_returns(found.returns))
    return (
        [None if k in policies.unlearned else known(value) for k, value in means],
        found.sums,
        {k: f"{NO_EVALUATION}: {each.reason}" for k, each in failed.items()},
    )


def mean_returns(returns: np.ndarray) -> np.ndarray:
    """Return the mean over the episodes of each agent, in float64; not finite where one of them is not."""
    with np.errstate(invalid="ignore"):  # infinities of both signs have no sum
        return returns.mean(axis=1, dtype=np.float64)


def _omissions(
    policies: Policies, returns: Sequence[float | None], failed: Mapping[int, str] = MappingProxyType({})
) -> tuple[Omission, ...]:
    """Return the agents without a return, or without a part in the policy, by reason."""
    if policies.failed:
        return (Omission("everything", (), policies.failed),)
    missing = {
        k: policies.unlearned.get(k, failed.get(k, NO_RETURN)) for k, value in enumerate(returns) if value is None
    }
    parts: tuple[tuple[Literal["return", "policy"], Mapping[int, str]], ...]
    parts = (("policy", policies.without), ("return", missing))
    return tuple(
        Omission(what, tuple(k for k, its in who.items() if its == reason), reason)
        for what, who in parts
        for reason in dict.fromkeys(who.values())
    )


def record_of(
    method: Method, seed: int, number: int, seen: RoundResult, seconds: float, measures: Declared | None = None
) -> RoundRecord:
    """Return the record of one round.

    Means over agents leave out rejected agents: the engine sets their metrics to zero.
    """
    learner = method.federation.learner
    measures = declared(learner, {}) if measures is None else measures
    nothing = np.zeros(len(method.local_steps))
    episodes = seen.metrics.get("episodes", nothing)
    returned = seen.metrics.get("episode_return", nothing)
    agents = [known(r / n) if n else None for r, n in zip(returned, episodes, strict=True)]
    rejections, steps = rejections_in(seen), np.array(method.local_steps if seen.steps is None else seen.steps)
    sums = sums_in(measures, learner, seen, steps)
    values = values_in(measures.all, sums)
    record: RoundRecord = {
        "seed": seed,
        "method": method.name,
        "round": number,
        "environment_steps": steps_until(method, number, seen),
        "return": values["return"],
        "agents": agents,
        "episodes": int(sums["return"]["episodes"]),
        "loss": _loss(seen, steps),
        "bytes_up": seen.bytes_up,
        "bytes_down": seen.bytes_down,
        "messages_up": seen.messages_up,
        "messages_down": seen.messages_down,
        "rejected": len(seen.rejected),
        "seconds": round(seconds, 6),
        "measures": {name: value for name, value in values.items() if name not in OWN_KEYS},
        "sums": sums,
    }
    if measures.silent:
        del record["episodes"]  # not zero, but unknown
    if rejections:
        record["rejections"] = rejections
    if seen.failures:
        record["environment_failures"] = records_of(seen.failures)
    if method.communicates and not seen.weight > 0.0:
        record["merged"] = False
    if seen.skipped:
        record["skipped"] = seen.skipped
    return {**record, **communicated(seen)} if method.communicates else record


def _loss(seen: RoundResult, steps: np.ndarray) -> float | None:
    """Return the mean loss over the agents that trained and were not rejected."""
    loss = seen.metrics.get("loss")
    if loss is None:
        return None
    steps = steps.copy()
    steps[[rejection.agent for rejection in seen.rejected]] = 0
    trained = steps > 0
    return known((loss[trained] / steps[trained]).mean(dtype=np.float64)) if trained.any() else None


def steps_of(method: Method, seen: RoundResult) -> int:
    """Return the environment steps of all agents in a round."""
    if seen.steps is None:
        return method.steps_per_round
    return method.federation.learner.samples * int(seen.steps.sum())


def steps_until(method: Method, number: int, seen: RoundResult) -> int:
    """Return the environment steps of all agents since this seed of the method began."""
    if seen.iterations is None:
        return number * method.steps_per_round
    return method.federation.learner.samples * seen.iterations


@dataclass
class Timing:
    """Time that a run has spent compiling and training, in seconds."""

    started: float
    compile_s: float = 0.0
    training_s: float = 0.0
    steps: int = 0
    _lock: AbstractContextManager[Any] = field(default_factory=threading.Lock, repr=False)

    def add_steps(self, steps: int) -> None:
        """Count the environment steps of a round without a compilation."""
        with self._lock:
            self.steps += steps
