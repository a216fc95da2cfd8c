"""Agents at other sites against the same federation in one simulation, to the last bit."""

import asyncio

import jax
import numpy as np
import pytest

from fedrl.engines.network.bridge import Bridge
from fedrl.engines.network.choices import sites
from fedrl.engines.simulate import simulate
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Stop
from tests.engines.test_halves import AGENTS, CASES, fleet_of
from tests.support.distant_agents import DistantAgent

SEED, ROUNDS = 3, 6
DONE = Stop("The run is complete.", "done", False)


class Sited:
    """A federation whose agents are tasks of the bridge's event loop."""

    def __init__(self, federation, fleet, seed=SEED, scheduler=None, behaviour=None, **options):
        self.bridge = Bridge(LocalTransport(), f"test-{id(self)}")
        self.before(self.bridge)
        placement = sites(self.bridge, lambda name: int(name.split("-")[1]), **options)
        self.simulation = simulate(federation, fleet, executor=placement, scheduler=scheduler)
        self.agents = [
            DistantAgent(federation, fleet, k, seed, self.bridge.address, **(behaviour or {}).get(k, {}))
            for k in range(self.simulation.agents)
        ]
        self.tasks = [asyncio.run_coroutine_threadsafe(agent.live(), self.bridge._loop) for agent in self.agents]
        self.state = self.simulation.init(seed)

    def before(self, bridge):
        """What a subclass does before the simulation is built."""

    def rounds(self, count):
        seen = []
        for _ in range(count):
            self.state, found = self.simulation.round(self.state)
            seen.append(found)
        return seen

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for task in self.tasks:
            if task.done() and task.exception():
                raise task.exception()
        self.bridge.close(DONE)
        self.simulation.close()


def params(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.server.params)]


@pytest.mark.parametrize("case", CASES)
def test_agents_at_other_sites_have_the_bits_of_a_simulation(case):
    learner, fleet, make = CASES[case]
    federation, fleet = make(learner), fleet_of(learner, fleet)
    alone = simulate(federation, fleet, block=1)
    state = alone.init(SEED)
    for _ in range(ROUNDS):
        state, seen = alone.round(state)
    with Sited(federation, fleet) as sited:
        found = sited.rounds(ROUNDS)[-1]
    assert found.bytes_up == seen.bytes_up
    assert found.bytes_down >= seen.bytes_down
    assert found.weight == seen.weight
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(len(agent.trained) == ROUNDS for agent in sited.agents)
    assert len(sited.agents) == AGENTS
