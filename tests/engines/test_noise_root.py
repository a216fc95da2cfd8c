"""Where calibrated noise comes from: the operating system, anew for every merge, and from a seed only on demand."""

from copy import deepcopy

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import (
    NoiseRoot,
    agent_secret,
    keys_of,
    noise_of_seed,
    server_secret,
)
from fedrl.core.stage import pipeline
from fedrl.core.types import Update, UpdateContext
from fedrl.engines import noise_source
from fedrl.engines.executors.executor import Executor
from fedrl.engines.halves import AgentHalf, ServerHalf
from fedrl.engines.simulate import simulate
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp
from fedrl.privacy import local_gaussian
from fedrl.records import checkpoint
from fedrl.server import poisson
from fedrl.server.scheduler import Scheduler
from fedrl.stages import clip
from fedrl.topologies import tree
from tests.support.noisy import at_rest, fleet_of, noise_of_agents, noise_of_the_server, noisy, of_agents, of_the_server
from tests.support.workers_here import here

AGENTS, SIZE, ROUNDS, SEED = 4, 3, 3, 5
FLEET = fleet_of(AGENTS)
BOTH, WITHOUT = noisy(SIZE), federate(at_rest(SIZE), mean("uniform"), clip(1.0))
KNOWN = NoiseRoot(bytes(range(100, 132)))


def ran(federation=BOTH, rounds=ROUNDS, seed=SEED, **options):
    """Ordinary noise, and noise of agents and of the server, in each round."""
    options = {"devices": jax.devices()[:1]} | options
    with simulate(federation, FLEET, **options) as simulation:
        run_state, seen = simulation.init(seed), []
        for _ in range(rounds):
            run_state, record = simulation.round(run_state)
            kept = simulation.whole(run_state)
            seen.append((record.metrics["loss"], of_agents(kept), of_the_server(kept)))
    return [np.stack(each) for each in zip(*seen, strict=True)]


def test_two_runs_with_one_seed_have_other_noise_and_agree_in_everything_else():
    one, other = ran(), ran()
    np.testing.assert_array_equal(one[0], other[0])
    for mine, theirs in zip(one[1:], other[1:], strict=True):
        assert not set(mine.ravel().tolist()) & set(theirs.ravel().tolist())


def test_a_state_that_is_continued_twice_gets_other_noise():
    with simulate(BOTH, FLEET, devices=jax.devices()[:1]) as simulation:
        first = simulation.init(SEED)
        ends = [simulation.round(deepcopy(first))[0] for _ in range(2)]
    for look in (of_agents, of_the_server):
        assert (look(ends[0]) != look(ends[1])).all()


EXECUTORS = {
    "blocks of one": {"block": 1},
    "blocks of three": {"block": 3},
    "two devices": {"block": 2, "devices": jax.devices()},
    "a clock": {"clock": clock(step_s=[1.0, 2.0, 3.0, 4.0])},
    "a tree of relays": {"topology": tree([2, 1])},
    "workers": {"block": 2},
}


def options_of(how):
    return EXECUTORS[how] | ({"executor": here(2)} if how == "workers" else {})


@pytest.fixture(scope="module")
def reproducible():
    return ran(reproducible_noise=True)


@pytest.mark.parametrize("how", EXECUTORS)
def test_reproducible_noise_is_the_same_however_it_is_computed(how, reproducible):
    for mine, theirs in zip(ran(reproducible_noise=True, **options_of(how)), reproducible, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("how", ["blocks of three", "a clock", "a tree of relays", "workers"])
def test_noise_of_the_system_reaches_every_executor(how, reproducible):
    found = ran(**options_of(how))
    np.testing.assert_array_equal(found[0], reproducible[0])
    for mine, theirs in zip(found[1:], reproducible[1:], strict=True):
        assert (mine != theirs).all()


def test_reproducible_noise_follows_from_the_seed(reproducible):
    for mine, theirs in zip(ran(reproducible_noise=True, seed=6), reproducible, strict=True):
        assert (mine != theirs).all()


@pytest.mark.parametrize("seeded", [True, False])
def test_a_simulation_says_whether_its_noise_follows_from_the_seed(seeded):
    simulation = simulate(BOTH, FLEET, reproducible_noise=seeded, devices=jax.devices()[:1])
    assert simulation.reproducible_noise is seeded


def test_environments_on_the_host_are_no_exception():
    learner = a2c(gymnasium("CartPole-v1", max_steps=5), network=mlp([4]), num_envs=2, num_steps=4)
    federation = federate(learner, mean("uniform"), local_gaussian(1.0, 1.0))
    like = learner.environment.params
    fleet, ends = jax.tree.map(lambda x: np.stack([np.asarray(x)] * 2), like), []
    for seeded in (True, True, False):
        with simulate(federation, fleet, reproducible_noise=seeded, workers=0) as simulation:
            run_state, _ = simulation.round(simulation.init(SEED))
            ends.append(jax.tree.leaves(run_state.server.params))
    for one, same, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != other).all()


def test_a_resumed_run_has_other_noise_and_a_reproducible_one_the_same(reproducible, tmp_path):
    for seeded in (True, False):
        with simulate(BOTH, FLEET, reproducible_noise=seeded, devices=jax.devices()[:1]) as simulation:
            run_state, _ = simulation.round(simulation.init(SEED))
            like = simulation.init(SEED)
            checkpoint.save(tmp_path / f"{seeded}", run_state, 1)
        with simulate(BOTH, FLEET, reproducible_noise=seeded, devices=jax.devices()[:1]) as simulation:
            again, _ = simulation.round(checkpoint.load(tmp_path / f"{seeded}", like))
        assert (of_the_server(again) == reproducible[2][1]).all() == seeded
        assert (of_agents(again) == reproducible[1][1]).all() == seeded


def test_a_noise_root_is_in_no_state_and_is_not_shown(monkeypatch):
    monkeypatch.setattr(noise_source, "noise_of_system", lambda keys: KNOWN)
    seen = []

    def noted(self, keys, *given):
        seen.append(keys.noise)
        return asked(self, keys, *given)

    asked = Executor._asked
    monkeypatch.setattr(Executor, "_asked", noted)
    with simulate(BOTH, FLEET, devices=jax.devices()[:1]) as simulation:
        run_state, _ = simulation.round(simulation.init(SEED))
    assert set(seen) == {KNOWN}  # it was in use
    assert run_state.keys.noise is None
    held = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run_state))
    assert bytes(KNOWN) not in held
    for shown in (repr(KNOWN), str(KNOWN), f"{KNOWN}", repr(keys_of(0)._replace(noise=KNOWN))):
        assert KNOWN.hex() not in shown
        assert repr(bytes(KNOWN))[2:-1] not in shown


def test_a_federation_without_noise_draws_no_root_and_gets_no_further_keys(monkeypatch):
    def fail(keys):
        raise AssertionError("a root was drawn")

    seen = []

    def noted(self, keys, *given):
        seen.append(asked(self, keys, *given))
        return seen[-1]

    asked = Executor._asked
    for name in ("noise_of_system", "noise_of_seed"):
        monkeypatch.setattr(noise_source, name, fail)
    monkeypatch.setattr(Executor, "_asked", noted)
    with simulate(WITHOUT, FLEET, devices=jax.devices()[:1]) as simulation:
        _, record = simulation.round(simulation.init(SEED))
    assert [each.noise for each in seen] == [None] * len(seen)
    assert len(seen) > 0
    assert not record.metrics["local_noise"].any()
    with simulate(BOTH, FLEET, devices=jax.devices()[:1]) as simulation, pytest.raises(AssertionError, match="drawn"):
        simulation.round(simulation.init(SEED))


def test_ordinary_keys_draw_no_calibrated_noise():
    pipe, number = pipeline([noise_of_agents(), noise_of_the_server()]), np.int32(1)
    states = pipe.init(np.zeros(SIZE, np.float32))
    update = Update(np.zeros(SIZE, np.float32), np.float32(1.0), number)
    with pytest.raises(UnsoundError, match=r"noise_of_agents\(.*ordinary keys"):
        pipe.encode(jax.random.key(0), UpdateContext(number, number, number, number), *states, update)
    with pytest.raises(UnsoundError, match=r"noise_of_the_server\(.*ordinary keys"):
        pipe.finish(jax.random.key(0), states[0], update)


# --- halves ----------------------------------------------------------------------------------------------------------


def halves(noise):
    """A server and its agents after some versions: the noise of agents and of the server in each."""
    keys = keys_of(SEED)
    run = keys.run.tobytes()
    setting = jax.tree.map(lambda x: x[0], FLEET)
    server = ServerHalf(BOTH, setting, [1] * AGENTS, run, server_secret(keys), noise)
    agents = [AgentHalf(BOTH, k, setting, run, agent_secret(keys, k), noise=noise) for k in range(AGENTS)]
    at, runs, seen = server.start(), [agent.start() for agent in agents], []
    for _ in range(ROUNDS):
        version = server.open(at)
        for k, agent in enumerate(agents):
            turn = agent.train(runs[k], version.broadcast, version.orders[k])
            assert version.take(k, turn.update) == ""
            runs[k] = turn.run
        closed = version.close()
        runs = [agent.settle(runs[k], closed.verdicts[k]) for k, agent in enumerate(agents)]
        at = closed.run
        added = np.concatenate([np.asarray(each.agents.blocks[0].stage_states[1]) for each in runs])
        seen.append((added, np.asarray(at.server.stage_states[-1])))
    return [np.stack(each) for each in zip(*seen, strict=True)]


def test_halves_replay_the_noise_of_a_simulation_with_its_root():
    expected = ran(reproducible_noise=True, block=1)[1:]
    for mine, theirs in zip(halves(noise_of_seed(keys_of(SEED))), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_halves_draw_noise_of_their_own_by_default():
    one, other = halves(None), halves(None)
    for mine, theirs in zip(one, other, strict=True):
        drawn = np.concatenate([mine.ravel(), theirs.ravel()])
        assert len(np.unique(drawn)) == len(drawn)


def test_a_root_of_noise_that_is_none_or_that_of_another_purpose_is_refused():
    keys, setting = keys_of(SEED), jax.tree.map(lambda x: x[0], FLEET)
    run, secret = keys.run.tobytes(), agent_secret(keys, 0)
    for wrong, why in ((b"short", "noise is 5 bytes"), (run, "the same bytes")):
        with pytest.raises(ConfigError, match=why):
            AgentHalf(BOTH, 0, setting, run, secret, noise=wrong)


# --- Poisson sampling ------------------------------------------------------------------------------------------------


def cohorts(rounds=30, **options):
    plan = Scheduler(selection=poisson(0.5))
    with simulate(WITHOUT, FLEET, scheduler=plan, devices=jax.devices()[:1], **options) as simulation:
        run_state, seen = simulation.init(SEED), []
        for _ in range(rounds):
            run_state, record = simulation.round(run_state)
            seen.append(record.steps > 0)
    return np.stack(seen)


def test_cohorts_are_drawn_from_the_system_and_from_the_seed_on_demand():
    assert (cohorts() != cohorts()).any()
    np.testing.assert_array_equal(cohorts(reproducible_noise=True), cohorts(reproducible_noise=True))
