"""The self-test of `fedrl doctor`: a few seconds of training with a known result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from fedrl.aggregators import mean
from fedrl.core.types import Params
from fedrl.engines.simulate import simulate
from fedrl.environments import gridworld
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import q_table
from fedrl.runs.evaluate import greedy_returns

AGENTS, ROUNDS, BEST = 3, 12, 0.96


def self_test() -> list[str]:
    """Return a sentence for each fault; an empty list if the test passed.

    Three agents learn to walk along a corridor. The result has to be finite, optimal, and bit-identical for another
    order of agents on another device.
    """
    environment = gridworld("S...G")
    learner = q_table(environment, learning_rate=0.5, epsilon=0.5, num_envs=4, num_steps=16)
    federation = federate(learner, mean())
    agents = fleet(environment, AGENTS, {"slip": 0.0})
    devices = jax.local_devices()

    def train(order: Sequence[int], places: Sequence[jax.Device]) -> Params:
        simulation = simulate(federation, agents, order=order, devices=places)
        run_state = simulation.init(0)
        for _ in range(ROUNDS):
            run_state, _ = simulation.round(run_state)
        return jax.tree.map(np.asarray, run_state.server.params)

    # The reverse order on the last device: exact sums make both irrelevant, unless the compiler breaks them.
    params, again = train(range(AGENTS), devices[:1]), train(range(AGENTS)[::-1], devices[-1:])
    faults = []
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        faults.append("Trained parameters are not finite. The compiler or the processor gives wrong results.")
    if _digest(params) != _digest(again):
        faults.append("Training in another order of agents gave other parameters. Results will not be reproducible.")
    earned = float(greedy_returns(learner, agents, params, 8, 0).mean())
    if not abs(earned - BEST) < 1e-3:
        faults.append(f"The agents' return is {earned:g}, and the optimum is {BEST}. They do not learn.")
    return faults


def _digest(params: Params) -> str:
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))).hexdigest()
