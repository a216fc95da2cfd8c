"""Agents at other sites against the same federation in one simulation, to the last bit."""

import asyncio

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median, q_ffl
from fedrl.engines.down_messages import DIFFERENCE, WHOLE
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.network.bridge import Bridge
from fedrl.network.choices import sites
from fedrl.privacy import central_gaussian
from fedrl.server import greedy
from fedrl.server.scheduler import Scheduler
from fedrl.stages import error_feedback, hard_threshold, quantize, random_k, scaffold, sign, top_k
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Stop
from tests.engines.test_halves import AGENTS, CASES, FLEET, STEERED, VALLEY, fleet_of
from tests.support.certified import credentials
from tests.support.distant_agents import DistantAgent
from tests.support.noting import Noting

SEED, ROUNDS = 3, 6
DONE = Stop("The run is complete.", "done", False)


class Sited:
    """A federation whose agents are tasks of the bridge's event loop."""

    def __init__(self, federation, fleet, seed=SEED, scheduler=None, behaviour=None, replayable=False, **options):
        self.observer = Noting()
        certificates = options.pop("certificates", None)
        own = None if certificates is None else credentials(certificates, "hub")
        transport = LocalTransport(credentials=own)
        self.bridge = Bridge(transport, f"test-{id(self)}", observer=self.observer, replayable=replayable)
        placement = sites(self.bridge, lambda name: int(name.split("-")[1]), **options)
        self.simulation = simulate(federation, fleet, executor=placement, scheduler=scheduler)
        budget = getattr(scheduler, "upload_budget", None)
        bids = None if budget is None else budget.requested
        self.agents = [
            self.agent(federation, fleet, k, seed, self.bridge.address, bids, **(behaviour or {}).get(k, {}))
            for k in range(self.simulation.agents)
        ]
        self.tasks = [asyncio.run_coroutine_threadsafe(agent.live(), self.bridge._loop) for agent in self.agents]
        for task in self.tasks:
            task.add_done_callback(self.ended)
        self.state, self.seen = self.simulation.init(seed), []

    def ended(self, task):
        """Wait for no agent any more if one has failed, so that a test fails and does not hang."""
        if not task.cancelled() and task.exception():
            self.bridge.stopping.set()

    agent = DistantAgent

    @property
    def simulation_clock(self):
        return self.observer.clock

    def rounds(self, count):
        seen = []
        for _ in range(count):
            self.state, found = self.simulation.round(self.state)
            seen.append(found)
        self.seen += seen
        return seen

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for task in self.tasks:
            if task.done() and not task.cancelled() and task.exception():
                self.bridge.close(DONE)
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
    assert found.bytes_down == seen.bytes_down
    assert found.weight == seen.weight
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(len(agent.trained) == ROUNDS for agent in sited.agents)
    assert len(sited.agents) == AGENTS


@pytest.mark.parametrize("replayable", [True, False])
def test_the_coordinator_draws_noise_from_the_system_unless_the_run_is_replayable(replayable):
    federation = federate(VALLEY, mean("uniform"), central_gaussian(1.0, 2.0, AGENTS))
    alone = simulate(federation, FLEET, block=1, reproducible_noise=True)
    state, _ = alone.round(alone.init(SEED))
    with Sited(federation, FLEET, replayable=replayable) as sited:
        sited.rounds(1)
    assert sited.simulation.reproducible_noise is replayable
    same = [np.array_equal(one, other) for one, other in zip(params(state), params(sited.state), strict=True)]
    assert same == [replayable] * len(same)


BUDGETS = {
    "mean, by norm": lambda: (federate(VALLEY, mean(), local_steps=2, reports=["norm"]), greedy(90)),
    "median of few, by loss": lambda: (
        federate(VALLEY, median(), error_feedback(top_k(0.3)), reports=["loss"]),
        greedy(90, "loss"),
    ),
    "SCAFFOLD, with patience": lambda: (
        federate(STEERED, mean(), scaffold(0.1), reports=["loss"]),
        greedy(340, "loss", patience=2),
    ),
    "sizes that vary": lambda: (federate(VALLEY, mean(), hard_threshold(0.05), reports=["norm"]), greedy(120)),
    "other reports beside": lambda: (federate(VALLEY, q_ffl(2.0), reports=["norm"]), greedy(100)),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_an_upload_budget_selects_by_bids_what_it_selects_in_a_simulation(case):
    federation, budget = BUDGETS[case]()
    plan = Scheduler(upload_budget=budget)
    alone = simulate(federation, FLEET, scheduler=plan, block=1)
    state, seen = alone.init(SEED), []
    for _ in range(ROUNDS):
        state, found = alone.round(state)
        seen.append(found)
    with Sited(federation, FLEET, scheduler=plan) as sited:
        rounds = sited.rounds(ROUNDS)
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)
    for mine, theirs in zip(rounds, seen, strict=True):
        assert mine.selected.tolist() == theirs.selected.tolist()
        assert 0 < len(mine.selected) < AGENTS
        assert (mine.bytes_up, mine.messages_up) == (theirs.bytes_up, theirs.messages_up)
        assert mine.uploads.size_bytes.tolist() == theirs.uploads.size_bytes.tolist()
        for name, said in theirs.uploads.report.items():
            np.testing.assert_array_equal(mine.uploads.report[name], said)
    for agent in sited.agents:
        # What was not selected has never left.
        assert [job - 1 for job, _ in agent.asked] == [
            n for n, each in enumerate(rounds) if agent.number in each.selected
        ]
        assert len(agent.sent) == ROUNDS
        if agent.number in rounds[-1].selected:  # what is counted is what was sent
            assert rounds[-1].uploads.size_bytes[agent.number] == len(agent.kept[1].update)


DOWN = {
    "sign": (sign(),),
    "few": (top_k(0.3),),
    "8 bits": (quantize(8),),
    "few in 8 bits": (top_k(0.3), quantize(8)),
    "drawn": (random_k(0.3, unbiased=False),),
}


@pytest.mark.parametrize("stages", DOWN)
def test_differences_travel_in_the_bytes_that_a_simulation_counts(stages):
    federation, rounds = federate(VALLEY, mean(), down_stages=DOWN[stages]), 20
    alone, seen = simulate(federation, FLEET, block=1), []
    state = alone.init(SEED)
    for _ in range(rounds):
        before = state.server.down
        state, found = alone.round(state)
        seen.append(found.bytes_down)
    with Sited(federation, FLEET) as sited:
        assert [found.bytes_down for found in sited.rounds(rounds)] == seen
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)
    contents = [agent.contents for agent in sited.agents]
    assert [sum(map(len, each)) for each in zip(*contents, strict=True)] == seen
    for agent in sited.agents:
        assert [content[0] for content in agent.contents] == [WHOLE] + [DIFFERENCE] * (rounds - 1)
        assert agent.copy.number == rounds - 1
        for mine, server in zip(*map(jax.tree.leaves, (agent.copy.held, before.held)), strict=True):
            np.testing.assert_array_equal(mine, np.asarray(server))
