"""The standard work of the comparisons.

CartPole-v1; per agent and round 8 environments x 128 steps; PPO with 4 epochs x 4 minibatches of 256, actor and
critic of 2 x 64 tanh, Adam, gradient norm clipped at 0.5; averaged every round.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.aggregators import mean
from fedrl.core.environment import Environment
from fedrl.core.types import PyTree
from fedrl.engines.simulate import simulate
from fedrl.engines.state import Simulation, SimulationState
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.learners import ppo

SAMPLES = 8 * 128


def standard() -> tuple[Federation, Environment]:
    environment = cartpole()
    return federate(ppo(environment), mean()), environment


def alike(environment: Environment, agents: int) -> PyTree:
    """A fleet of equal agents."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (agents, *jnp.shape(leaf))), environment.params)


class Running:
    """A simulation under way: call it to take some rounds."""

    def __init__(self, simulation: Simulation, rounds: int) -> None:
        self.simulation, self.rounds = simulation, rounds
        self.run_state: SimulationState = simulation.init(0)

    def __call__(self) -> None:
        for _ in range(self.rounds):
            self.run_state, _ = self.simulation.round(self.run_state)
        jax.block_until_ready(self.run_state.blocks)


def federation_of(agents: int, rounds: int) -> Running:
    federation, environment = standard()
    return Running(simulate(federation, alike(environment, agents)), rounds)
