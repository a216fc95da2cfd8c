"""Methods without rounds of their own: they start from the final state of another method, and are evaluated once.

independent --mean of the parameters------> average_once
independent --mean of the policies--------> mixture
federated ----local iterations, alone-----> fine_tuned

Agents that learned nothing, or whose parameters are not finite, are left out of means and mixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedrl.config.methods import alone
from fedrl.config.objects import Experiment
from fedrl.core.keys import Stream, keys_below, keys_of
from fedrl.core.types import Params, PyTree
from fedrl.engines.state import RoundResult, Simulation
from fedrl.learners import mixture
from fedrl.records import RoundRecord
from fedrl.records.rejections import History, rejections_in
from fedrl.runs.environment_failures import FailureHistory
from fedrl.runs.measuring import greedy_values
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Policies, Session, seed_result
from fedrl.runs.simulations import simulation_of
from fedrl.runs.states import load_state

AVERAGE_ONCE, FINE_TUNED, MIXTURE = "average_once", "fine_tuned", "mixture"


def averaged(session: Session, independent: Sequence[SeedResult]) -> list[SeedResult]:
    """Evaluate the mean parameters of the independent agents that have learned, in the environment of each agent."""

    def mean(learned: Params) -> Policies:
        # In float64: sums of float32 over many agents would lose digits.
        params = jax.tree.map(lambda leaf: leaf.mean(0, dtype=np.float64).astype(leaf.dtype), learned)
        return Policies(params, False, params)

    return _put_together(session, AVERAGE_ONCE, independent, mean, copies=0)


def mixed(session: Session, independent: Sequence[SeedResult]) -> list[SeedResult]:
    """Evaluate the mixture of the policies of the independent agents that have learned, in each agent's environment.

    No parameters are averaged. Every agent sends its policy once and receives those of all agents.
    """
    together = mixture(session.experiment.learner)
    agents = session.experiment.config.federation.agents

    def all_of_them(learned: Params) -> Policies:
        return Policies(learned, False, learned, together)

    return _put_together(session, MIXTURE, independent, all_of_them, copies=agents)


def _put_together(
    session: Session,
    name: str,
    independent: Sequence[SeedResult],
    made_of: Callable[[Params], Policies],
    copies: int,
) -> list[SeedResult]:
    """Evaluate `made_of` the final policies of the independent agents, without those that never learned.

    Each policy is sent up once; the policies of all are sent down `copies` times.
    """
    method = next(m for m in session.experiment.methods if m.name == "independent")
    ended: list[SeedResult] = []
    for before in independent:
        if session.stopping:
            return ended
        agents = session.experiment.config.federation.agents
        learned = np.array([k for k in range(agents) if k not in before.unlearned], int)
        params = jax.tree.map(lambda leaf, learned=learned: np.asarray(leaf)[learned], before.params)
        if len(learned):
            policies = made_of(params)._replace(without=before.unlearned)
        else:
            policies = Policies(params, False, None, failed="no agent learned anything alone")
        after = seed_result(session, before.seed, before.round, policies)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        sent = Communicated(size, copies * size, len(learned), copies)
        _tell(session, name, after, before.round * method.steps_per_round, sent)
        ended.append(after)
    return ended


class Communicated(NamedTuple):
    """Bytes and messages of a method without rounds."""

    bytes_up: int = 0
    bytes_down: int = 0
    messages_up: int = 0
    messages_down: int = 0


def fine_tuned(session: Session, simulation: Simulation, federated: Sequence[SeedResult]) -> list[SeedResult]:
    """Fine-tune every agent of the federation alone, and evaluate it.

    Args:
        session: The run; `evaluation.fine_tune` of its configuration is the number of local iterations.
        simulation: Simulation of the federation.
        federated: Final results of its seeds; the states of agents are read from their checkpoints.
    """
    spent = {r["seed"]: r["environment_steps"] for r in session.folder.records() if r["method"] == "federated"}
    ended: list[SeedResult] = []
    for before in federated:
        run_state = session.first_state(session.experiment.methods[0], simulation, before.seed)
        run_state = load_state(session.folder.checkpoint("federated", before.seed), simulation, run_state)
        # Every agent starts from the last broadcast, like an agent that receives the final model.
        states = simulation.states_of(simulation.adopt(run_state))
        history = History(FINE_TUNED, before.seed, communicates=False)
        failures = session.failures(FINE_TUNED, before.seed)
        rejections: dict[str, list[int]] = {}

        def note(
            seen: RoundResult,
            history: History = history,
            rejections: dict[str, list[int]] = rejections,
            failures: FailureHistory = failures,
        ) -> None:
            history.add({"round": history.rounds + 1, "rejections": rejections_in(seen)})
            failures.add(history.rounds, seen)
            for reason, agents in rejections_in(seen).items():
                rejections.setdefault(reason, []).extend(agents)

        params = tuned(session.experiment, states, before.seed, note, lambda: session.stopping)
        if params is None:
            return ended
        policies = Policies(params, True, None, unlearned=history.unlearned)
        after = seed_result(session, before.seed, before.round, policies)._replace(ended=before.ended)
        steps = spent.get(before.seed, 0) + session.experiment.tuning_steps
        _tell(session, FINE_TUNED, after, steps, rejections=rejections)
        ended.append(after)
    return ended


def tuned(
    experiment: Experiment,
    states: PyTree,
    seed: int,
    note: Callable[[RoundResult], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Params | None:
    """Return the parameters with which each agent acts after `evaluation.fine_tune` local iterations alone.

    Agents learn as independent agents do, without communication and without corrections such as FedProx. Optimisers
    keep their state.

    Args:
        experiment: The experiment with the number of iterations.
        states: States of the agents' learners, a leading agent axis on every leaf.
        seed: Seed of the run.
        note: Function that is called with each round.
        stopping: Function that says before each round whether to end without a result, None.

    Reference: Yu et al. (2020), https://arxiv.org/abs/2002.04758
    """
    config, most = experiment.config, experiment.federation.local_steps
    whole, rest = divmod(config.evaluation.fine_tune, most)
    # A round of the federation has at most `most` local steps, so the rest needs a round of its own.
    for i, (steps, rounds) in enumerate([(most, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)):
        keys, work = keys_below(keys_of(seed), Stream.TUNING, i), (steps,) * config.federation.agents
        parts = experiment.environment, experiment.learner, experiment.federation, experiment.fleet
        method = alone(FINE_TUNED, config, *parts, work)
        with simulation_of(experiment, method) as simulation:
            run_state = simulation.with_states(simulation.init(seed)._replace(keys=keys), states)
            for _ in range(rounds):
                if stopping():
                    return None
                run_state, seen = simulation.round(run_state)
                if note is not None:
                    note(seen)
            states, params = simulation.states_of(run_state), simulation.params_of(run_state)
    return params


def _tell(
    session: Session,
    method: str,
    ended: SeedResult,
    environment_steps: int,
    sent: Communicated = Communicated(),
    rejections: Mapping[str, list[int]] | None = None,
) -> None:
    """Emit the only record of a method without rounds."""
    record: RoundRecord = {
        "seed": ended.seed,
        "method": method,
        "round": ended.round,
        "environment_steps": environment_steps,
        "return": None,
        "agents": [None] * session.experiment.config.federation.agents,
        "episodes": 0,
        "loss": None,
        "bytes_up": sent.bytes_up,
        "bytes_down": sent.bytes_down,
        "messages_up": sent.messages_up,
        "messages_down": sent.messages_down,  # each with the parameters of all agents
        "rejected": sum(map(len, rejections.values())) if rejections else 0,
        "seconds": 0.0,
        "greedy": ended.greedy,
    }
    with_return = np.array([value is not None for value in ended.greedy], bool)
    measured = greedy_values(session.experiment.learner, ended.sums, with_return)
    if measured:
        record["greedy_measures"] = measured
    if rejections:
        record["rejections"] = dict(rejections)
    session.tell(record)
