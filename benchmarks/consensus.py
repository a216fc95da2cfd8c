"""Agents without a server agree as fast as the spectrum of their weights says, through the engine, with 64 agents.

Agents are scattered at random, learn nothing, and meet: what is left is pure consensus. The factor by which their
disagreement shrinks in a step is measured over the second half of the rounds, where the slowest mode is all there is.

    python -m benchmarks.consensus
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Figure, emit
from fedrl.aggregators import mean
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.learner import Learner, nothing_gathered, same_stream
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.federation.federate import federate
from fedrl.topologies import (
    average,
    column_stochastic,
    complete,
    erdos_renyi,
    exponential,
    laplacian,
    metropolis,
    push_sum,
    ring,
    star,
    time_varying,
    torus,
    uniform_neighbours,
)
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.spectrum import distances, long_run_contraction, measured_contraction

AGENTS, SIZE = 64, 32


class Scattered(NamedTuple):
    """Parameters, and whether the agent is still where all begin."""

    params: jax.Array
    fresh: jax.Array


def nowhere() -> Environment:
    """An environment that nobody steps."""

    def step(noise, params, state, action):  # type: ignore[no-untyped-def]
        del noise, action, params
        return Timestep(jnp.zeros(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)), state

    spaces = Spaces(Box((1,)), Discrete(1))
    return Environment(
        jnp.zeros(1), spaces, draw_nothing, draw_nothing, lambda n, p: (first(jnp.zeros(1)), ()), step, 1
    )


def scattering() -> Learner:
    """A learner that goes somewhere at random once, and learns nothing after."""

    def learn(key, state, experience, context):  # type: ignore[no-untyped-def]
        del experience, context
        params = jnp.where(state.fresh, jax.random.normal(key, (SIZE,)), state.params)
        return Scattered(params, jnp.bool_(False)), {"loss": jnp.float32(0.0)}

    return Learner(
        init=lambda key, env_params: Scattered(jnp.zeros(SIZE), jnp.bool_(True)),
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=nowhere(),
        samples=1,
        split_key=same_stream,
    )


@dataclass(frozen=True)
class Case:
    """A graph and how agents meet on it, for so many rounds."""

    name: str
    graph: Graph
    mixing: MixingMatrix
    rounds: int
    rule: Rule


UNDIRECTED = [
    Case("ring, metropolis", ring(), metropolis(), 2000, average()),
    Case("torus 8 x 8, metropolis", torus(), metropolis(), 60, average()),
    Case("complete, laplacian(1/128)", complete(), laplacian(0.5 / AGENTS), 16, average()),
]
DIRECTED = [
    Case("one-way ring, push-sum", ring(directed=True), column_stochastic(), 4000, push_sum()),
    Case("exponential, push-sum", exponential(), column_stochastic(), 30, push_sum()),
    Case("random one-way edges, push-sum", erdos_renyi(0.12, 1, True), column_stochastic(), 24, push_sum()),
]
VARYING = [Case("ring and star in turn", time_varying(ring(), star()), laplacian(), 480, average())]
AT_ONCE = [
    Case("complete, metropolis: 1 step", complete(), metropolis(), 1, average()),
    Case("one peer at a time, exponential: 6 steps", exponential(one_peer=True), uniform_neighbours(), 6, average()),
]


def disagreement(case: Case) -> tuple[list[float], float]:
    """Root mean square distance from the mean, before and after every round, and how far the mean has moved at last.

    Both in units of the distance at the start.
    """
    fleet, places = np.zeros((AGENTS, 1), np.float32), jax.devices()[:1]
    federation, meeting = federate(scattering(), mean()), gossip(case.graph, case.mixing, case.rule)
    alone = simulate(federation, fleet, topology=isolated(), block=16, devices=places)
    simulation = simulate(federation, fleet, topology=meeting, block=16, devices=places)
    scattered, _ = alone.round(alone.init(0))
    run_state = simulation.with_states(simulation.init(0), alone.states_of(scattered))
    run_state = run_state._replace(server=run_state.server._replace(params=alone.held(scattered)))
    centre = np.asarray(run_state.server.params, np.float64).mean(0)
    path = [float(np.sqrt(np.square(distances(run_state.server.params)).mean()))]
    for _ in range(case.rounds):
        run_state, seen = simulation.round(run_state)
        path.append(float(np.sqrt(np.square(seen.metrics["consensus_distance"]).mean())))
    moved = np.linalg.norm(np.asarray(run_state.server.params, np.float64).mean(0) - centre)
    return [value / path[0] for value in path], float(moved) / path[0]


def worst(cases: list[Case]) -> tuple[float, float]:
    """The largest relative error of the measured factor, and how far a mean has moved."""
    errors, shifts = [], []
    for case in cases:
        expected = long_run_contraction(case.graph, case.mixing, AGENTS)
        assert expected is not None
        path, moved = disagreement(case)
        measured = measured_contraction(path)
        gap = (1.0 - measured) / (1.0 - expected) - 1.0
        errors.append(abs(measured / expected - 1.0))
        shifts.append(moved)
        print(
            f"{case.name:<42} {expected:>9.6f} {measured:>9.6f} {errors[-1]:>9.2%} {gap:>9.2%} "
            f"{path[-1]:>9.1e} {moved:>9.1e}"
        )
    return max(errors), max(shifts)


def main() -> None:
    head = ("1 - gap", "measured", "error", "of gap", "left", "mean moved")
    print(f"{'':<42} {' '.join(f'{name:>9}' for name in head)}")
    undirected, _ = worst(UNDIRECTED)
    directed, bias = worst(DIRECTED)
    varying, _ = worst(VARYING)
    for case in AT_ONCE:
        path, _ = disagreement(case)
        print(f"{case.name:<42} {path[-1]:.1e} of the disagreement is left")
    emit(
        Figure("ring, torus, complete, N = 64: factor against 1 - gap", undirected, 0.02, at_least=False),
        Figure("directed graphs, push-sum: the same", directed, 0.02, at_least=False),
        Figure("directed graphs, push-sum: how far the mean moved", bias, 1e-5, at_least=False),
        Figure("ring and star in turn: factor a step, over the period", varying, 0.02, at_least=False),
    )


if __name__ == "__main__":
    main()
