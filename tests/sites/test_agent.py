"""Agents and a coordinator over links in this process: the simulation to the last bit, whatever is cut or killed."""

import asyncio
import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean, median, q_ffl
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, add_correction, chain, mlp, sgd
from fedrl.privacy import central_gaussian, local_gaussian
from fedrl.server import fedadam
from fedrl.sites.agent import Backoff, SiteAgent
from fedrl.sites.jobs import RunJobs
from fedrl.sites.policy import MayLeave
from fedrl.stages import error_feedback, quantize, scaffold, top_k
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Sent
from tests.support.coordinating import FragileTransport, KilledError, Moments, ScriptedCoordinator
from tests.support.quadratic import Valley, quadratic

AGENTS, SIZE, SEED = 3, 8, 5
draws = np.random.default_rng(1)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
VALLEY = quadratic(sgd(0.1), size=SIZE)
ALL = MayLeave(
    reports=("loss",), statistics=("scaffold",), payload=("delta", "gradient"), sizes=True, capacity=True, reasons=True
)
QUICK = Backoff(0.01, 0.02)
POLE = a2c(cartpole(max_steps=20), network=mlp([4]), num_envs=2, num_steps=6)
CASES = {
    "mean": lambda: federate(VALLEY, mean(), local_steps=2),
    "FedAdam": lambda: federate(VALLEY, mean(), server_optimizer=fedadam(0.05)),
    "median of few": lambda: federate(VALLEY, median(), error_feedback(top_k(0.3))),
    "q-FFL": lambda: federate(VALLEY, q_ffl(2.0), local_steps=2),
    "8 bits": lambda: federate(VALLEY, mean(), quantize(8), local_steps=2),
    "down": lambda: federate(VALLEY, mean(), quantize(8), down_stages=(quantize(4),)),
    "SCAFFOLD": lambda: federate(quadratic(chain(add_correction(), sgd(0.1)), size=SIZE), mean(), scaffold(0.1)),
    "noise of agents": lambda: federate(VALLEY, mean("uniform"), local_gaussian(1.0, 2.0)),
    "noise of the server": lambda: federate(VALLEY, mean("uniform"), central_gaussian(1.0, 2.0, AGENTS)),
    "pole": lambda: federate(POLE, mean(), error_feedback(top_k(0.5)), local_steps=2),
}


def fleet_of(federation):
    like = federation.learner.environment.params
    if isinstance(like, Valley):
        return FLEET
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (AGENTS, *jnp.shape(x))), like)


def agent_of(federation, coordinator, number, folder, transport=None, notices=None, **options):
    fleet = fleet_of(federation)
    given = {"may_leave": ALL, "seed": SEED, "backoff": QUICK} | options
    return SiteAgent(
        federation,
        lambda k: jax.tree.map(lambda x: x[k], fleet),
        LocalTransport(f"site-{number}") if transport is None else transport,
        coordinator.address,
        folder / f"site-{number}",
        notice=(lambda notice: None) if notices is None else notices.append,
        **given,
    )


def simulated(federation, rounds, **options):
    options |= {"block": 1, "devices": jax.devices()[:1], "reproducible_noise": True}
    with simulate(federation, fleet_of(federation), **options) as simulation:
        state = simulation.init(SEED)
        for _ in range(rounds):
            state, _ = simulation.round(state)
        return state


def equal(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


async def served(coordinator, runs, rounds, **options):
    """Run so many rounds; return why each agent has ended."""
    async with coordinator.listening():
        tasks = [asyncio.ensure_future(run) for run in runs]
        for _ in range(rounds):
            working = asyncio.ensure_future(coordinator.round(**options))
            await asyncio.wait([working, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=300)
            for task in tasks:
                if task.done():
                    task.result()
            assert working.done(), coordinator.heard
            working.result()
        await coordinator.done()
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)


@pytest.mark.parametrize("name", CASES)
def test_agents_and_coordinator_are_the_simulation_to_the_last_bit(name, tmp_path):
    federation, rounds = CASES[name](), 6
    coordinator = ScriptedCoordinator(federation, fleet_of(federation), SEED)
    runs = [agent_of(federation, coordinator, k, tmp_path).run() for k in range(AGENTS)]
    ends = asyncio.run(served(coordinator, runs, rounds))
    assert {end.code for end in ends} == {"done"}
    equal(simulated(federation, rounds).server, coordinator.state.server)


def test_so_are_agents_in_gymnasium(tmp_path):
    learner = a2c(gymnasium("CartPole-v1", max_steps=12), network=mlp([4]), num_envs=2, num_steps=6)
    federation, rounds = federate(learner, mean(), error_feedback(top_k(0.5)), local_steps=2), 3
    coordinator = ScriptedCoordinator(federation, fleet_of(federation), SEED)
    runs = [agent_of(federation, coordinator, k, tmp_path, options={"workers": 0}).run() for k in range(AGENTS)]
    assert {end.code for end in asyncio.run(served(coordinator, runs, rounds))} == {"done"}
    equal(simulated(federation, rounds, workers=0).server, coordinator.state.server)


ERRING = federate(VALLEY, mean(), error_feedback(top_k(0.3)), local_steps=2)
"""Its stage remembers what it has not sent, so that a job that is trained twice, or not at all, shows in all bits."""


async def again(federation, coordinator, number, folder, moments, notices, **options):
    """An agent that is started again whenever it is killed."""
    while True:
        transport = FragileTransport(f"site-{number}", moments)
        with contextlib.suppress(KilledError):
            return await agent_of(federation, coordinator, number, folder, transport, notices, **options).run()


def moments_of(rounds):
    """Connect, Hello, Welcome, Ready, and Task, Sent of each round; sending has two."""
    return 1 + 2 + 1 + 2 + rounds * (1 + 2)


def disturbed(folder, moments, rounds=3, losing=0):
    notices = []
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)
    coordinator.losing = losing
    runs = [agent_of(ERRING, coordinator, k, folder).run() for k in range(1, AGENTS)]
    runs.append(again(ERRING, coordinator, 0, folder, moments, notices))
    ends = asyncio.run(served(coordinator, runs, rounds))
    assert {end.code for end in ends} == {"done"}
    return coordinator, notices


@pytest.mark.parametrize("action", ["cut", "kill"])
def test_cut_or_killed_at_any_message_it_is_the_same_run_and_nothing_is_trained_twice(action, tmp_path):
    expected, counted = simulated(ERRING, 3), Moments()
    disturbed(tmp_path / "calm", counted)
    assert counted.count >= moments_of(3)
    for at in range(moments_of(3)):
        coordinator, notices = disturbed(tmp_path / f"{action}-{at}", Moments(at, action))
        equal(expected.server, coordinator.state.server)
        for copies in coordinator.updates.values():
            assert len(set(copies)) == 1
        trained = [notice.job for notice in notices if notice.event == "training"]
        # After its Task has come an agent that is killed before it has stored the job trains that one again.
        assert trained == [1, 2, 3] or action == "kill", at
        assert sorted(set(trained)) == [1, 2, 3]


@pytest.mark.parametrize("action", ["cut", "kill"])
def test_an_update_that_was_lost_is_sent_again_as_the_same_bytes(action, tmp_path):
    # Connect, Hello, Welcome, Ready, Task: so the update of the first job has just left.
    coordinator, notices = disturbed(tmp_path, Moments(8 if action == "kill" else None, action), losing=1)
    assert coordinator.lost == coordinator.updates[0, 1]
    assert [notice.job for notice in notices if notice.event == "training"] == [1, 2, 3]
    assert sum(isinstance(message, Sent) for agent, message in coordinator.heard if agent == 0) == 4
    equal(simulated(ERRING, 3).server, coordinator.state.server)


def test_the_tests_see_a_job_that_is_trained_twice(tmp_path, monkeypatch):
    """What the tests of cuts are for: without the file, the job would be trained again, from another state."""
    monkeypatch.setattr(RunJobs, "check", lambda self, task: True)
    with pytest.raises(AssertionError):
        test_an_update_that_was_lost_is_sent_again_as_the_same_bytes("cut", tmp_path)
