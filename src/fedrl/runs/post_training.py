"""Methods that take no rounds of their own: they go on from what another one ended with, and are evaluated once.

independent --mean of the parameters------> average_once
independent --mean of the policies--------> mixture
federated ----local iterations, alone-----> fine_tuned

An agent that learned nothing by itself, or holds what is not finite, has no part in a mean or a mixture.
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
from fedrl.records import RoundRecord, checkpoint
from fedrl.records.rejections import History, rejections_in
from fedrl.runs.measuring import greedy_values
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Policies, Session, seed_result
from fedrl.runs.simulations import simulation_of

AVERAGE_ONCE, FINE_TUNED, MIXTURE = "average_once", "fine_tuned", "mixture"


def averaged(session: Session, independent: Sequence[SeedResult]) -> list[SeedResult]:
    """The parameter mean of independent agents that have learned, evaluated in the environment of each."""

    def mean(learned: Params) -> Policies:
        params = jax.tree.map(lambda leaf: leaf.mean(0, dtype=np.float64).astype(leaf.dtype), learned)
        return Policies(params, False, params)

    return _put_together(session, AVERAGE_ONCE, independent, mean, copies=0)


def mixed(session: Session, independent: Sequence[SeedResult]) -> list[SeedResult]:
    """The policies of independent agents that have learned acting together in the environment of each.

    No parameters are averaged. Every agent sends its policy and gets those of all.
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
    """Evaluate what is made of the policies that independent agents ended with, those left out that never learned.

    All of them travel up once, and so many times down.
    """
    method = next(m for m in session.experiment.methods if m.name == "independent")
    ended = []
    for before in independent:
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
    """What a method sends that takes no rounds."""

    bytes_up: int = 0
    bytes_down: int = 0
    messages_up: int = 0
    messages_down: int = 0


def fine_tuned(session: Session, simulation: Simulation, federated: Sequence[SeedResult]) -> list[SeedResult]:
    """Every agent of the federation after so many more local iterations of its own.

    Args:
        session: Whose experiment says how many.
        simulation: Of the federation.
        federated: Where its seeds ended; their checkpoints have the agents.
    """
    spent = {r["seed"]: r["environment_steps"] for r in session.folder.records() if r["method"] == "federated"}
    ended = []
    for before in federated:
        run_state = simulation.init(before.seed)
        run_state = checkpoint.load(session.folder.checkpoint("federated", before.seed), run_state)
        states = simulation.states_of(simulation.adopt(run_state))
        history = History(FINE_TUNED, before.seed, communicates=False)
        rejections: dict[str, list[int]] = {}

        def note(seen: RoundResult, history: History = history, rejections: dict[str, list[int]] = rejections) -> None:
            history.add({"round": history.rounds + 1, "rejections": rejections_in(seen)})
            for reason, agents in rejections_in(seen).items():
                rejections.setdefault(reason, []).extend(agents)

        params = tuned(session.experiment, states, before.seed, note)
        policies = Policies(params, True, None, unlearned=history.unlearned)
        after = seed_result(session, before.seed, before.round, policies)
        steps = spent[before.seed] + session.experiment.tuning_steps
        _tell(session, FINE_TUNED, after, steps, rejections=rejections)
        ended.append(after)
    return ended


def tuned(
    experiment: Experiment, states: PyTree, seed: int, note: Callable[[RoundResult], None] | None = None
) -> Params:
    """What each agent acts with after `evaluation.fine_tune` local iterations, from what its learner remembers.

    Nothing is exchanged and nothing steers the agents any more: they learn as independent agents do. Optimisers go on
    from where they are.

    Args:
        experiment: Which says how many iterations.
        states: Of the agents' learners, a leading agent axis on every leaf.
        seed: Of the run.
        note: Told of each round.

    Reference: Yu et al. (2020), https://arxiv.org/abs/2002.04758
    """
    config, most = experiment.config, experiment.federation.local_steps
    whole, rest = divmod(config.evaluation.fine_tune, most)
    for i, (steps, rounds) in enumerate([(most, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)):
        keys, work = keys_below(keys_of(seed), Stream.TUNING, i), (steps,) * config.federation.agents
        method = alone(FINE_TUNED, config, experiment.learner, experiment.federation, experiment.fleet, work)
        with simulation_of(experiment, method) as simulation:
            run_state = simulation.with_states(simulation.init(seed)._replace(keys=keys), states)
            for _ in range(rounds):
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
    """The one record of a method that takes no rounds."""
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
        "messages_down": sent.messages_down,  # each with the parameters of all
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
