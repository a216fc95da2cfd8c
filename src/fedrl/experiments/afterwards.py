"""Methods that take no rounds of their own: they go on from what another one ended with, and are evaluated once.

independent --mean of the parameters------> average_once
independent --mean of the policies--------> mixture
federated ----local iterations, alone-----> fine_tuned
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedrl.core.keys import Purpose, run_key
from fedrl.core.types import Params, PyTree
from fedrl.engines.simulation import Simulation, going_on
from fedrl.experiments import checkpoint
from fedrl.experiments.build import Experiment
from fedrl.experiments.coordination import simulation_of
from fedrl.experiments.methods import alone
from fedrl.experiments.session import Outcome, Policies, Session, outcome
from fedrl.learners import mixture

AVERAGE_ONCE, FINE_TUNED, MIXTURE = "average_once", "fine_tuned", "mixture"


def averaged(session: Session, independent: Sequence[Outcome]) -> list[Outcome]:
    """The parameter mean of independent agents, evaluated in the environment of each."""

    def mean(before: Outcome) -> Policies:
        params = jax.tree.map(lambda leaf: leaf.mean(0, dtype=np.float64).astype(leaf.dtype), before.params)
        return Policies(params, False, params)

    return _put_together(session, AVERAGE_ONCE, independent, mean, copies=0)


def mixed(session: Session, independent: Sequence[Outcome]) -> list[Outcome]:
    """The policies of independent agents acting together in the environment of each; no parameters are averaged.

    Every agent sends its policy and gets those of all.
    """
    together = mixture(session.experiment.learner)
    agents = session.experiment.config.federation.agents

    def all_of_them(before: Outcome) -> Policies:
        return Policies(before.params, False, before.params, together)

    return _put_together(session, MIXTURE, independent, all_of_them, copies=agents)


def _put_together(
    session: Session,
    name: str,
    independent: Sequence[Outcome],
    made_of: Callable[[Outcome], Policies],
    copies: int,
) -> list[Outcome]:
    """Evaluate what is made of the policies that independent agents ended with.

    All of them travel up once, and so many times down.
    """
    method = next(m for m in session.experiment.methods if m.name == "independent")
    ended = []
    for before in independent:
        after = outcome(session, before.seed, before.round, made_of(before))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(before.params))
        _tell(session, name, after, before.round * method.steps_per_round, (size, copies * size))
        ended.append(after)
    return ended


def fine_tuned(session: Session, simulation: Simulation, federated: Sequence[Outcome]) -> list[Outcome]:
    """Every agent of the federation after so many more local iterations of its own.

    Args:
        session: Whose experiment says how many.
        simulation: Of the federation.
        federated: Where its seeds ended; their checkpoints have the agents.
    """
    spent = {r["seed"]: r["environment_steps"] for r in session.folder.records() if r["method"] == "federated"}
    ended = []
    for before in federated:
        population = simulation.init(before.seed)
        population = checkpoint.load(session.folder.checkpoint("federated", before.seed), population)
        states = simulation.states_of(simulation.adopt(population))
        params = tuned(session.experiment, states, before.seed)
        after = outcome(session, before.seed, before.round, Policies(params, True, None))
        _tell(session, FINE_TUNED, after, spent[before.seed] + session.experiment.tuning_steps, (0, 0))
        ended.append(after)
    return ended


def tuned(experiment: Experiment, states: PyTree, seed: int) -> Params:
    """What each agent acts with after `evaluation.fine_tune` local iterations, from what its learner remembers.

    Nothing is exchanged and nothing steers the agents any more: they learn as independent agents do. Optimisers go on
    from where they are.

    Args:
        experiment: Which says how many iterations.
        states: Of the agents' learners, a leading agent axis on every leaf.
        seed: Of the run.

    Reference: Yu et al. (2020), https://arxiv.org/abs/2002.04758
    """
    config, most = experiment.config, experiment.federation.local_steps
    whole, rest = divmod(config.evaluation.fine_tune, most)
    for i, (steps, rounds) in enumerate([(most, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)):
        key, work = jax.random.fold_in(run_key(seed, Purpose.TUNING), i), (steps,) * config.federation.agents
        method = alone(FINE_TUNED, config, experiment.learner, experiment.federation, experiment.fleet, work)
        with simulation_of(experiment, method) as simulation:
            population = going_on(simulation.init(seed)._replace(key=key), states)
            for _ in range(rounds):
                population, _ = simulation.round(population, talk=False)
            states, params = simulation.states_of(population), simulation.params_of(population)
    return params


def _tell(session: Session, method: str, ended: Outcome, environment_steps: int, sent: tuple[int, int]) -> None:
    """The one record of a method that takes no rounds."""
    session.tell(
        {
            "seed": ended.seed,
            "method": method,
            "round": ended.round,
            "environment_steps": environment_steps,
            "return": None,
            "agents": [None] * session.experiment.config.federation.agents,
            "episodes": 0,
            "loss": None,
            "bytes_up": sent[0],
            "bytes_down": sent[1],
            "messages_up": session.experiment.config.federation.agents if sent[0] else 0,
            "messages_down": sent[1] // sent[0] if sent[0] else 0,  # each with the parameters of all
            "refused": 0,
            "seconds": 0.0,
            "greedy": ended.greedy,
        }
    )
