"""Normalisation: the moments are those of everything all agents saw, exactly, and the learner sees what they imply."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.aggregator import on_time
from fedrl.core.double import sum_of
from fedrl.core.environment import Box, Environment, Spaces, Timestep, draw_nothing, draw_uniform, first
from fedrl.core.errors import ConfigError
from fedrl.core.keys import server_below, turn_below
from fedrl.core.learner import Learner, Trajectory, nothing_gathered
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import isolated
from fedrl.environments import gridworld, probe_match
from fedrl.federation.federate import federate
from fedrl.learners import a2c, apfl, dqn, mlp, normalize, ppo, q_table, reinforce, sgd
from fedrl.learners.parts.moments import Moments, both, count, joined, merged, parted, standardised, unseen
from fedrl.learners.wrappers.normalize import running_return

TIME, INSTANCES, DISCOUNT = 7, 3, 0.9


class SignalParams(NamedTuple):
    offset: jax.Array
    scale: jax.Array


def signal() -> Environment:
    """Two numbers around `offset`, of the spread `scale` and twice that; pays the first of them."""

    def seen(noise, params):
        return params.offset + params.scale * (noise - 0.5) * jnp.array([1.0, 2.0])

    def reset(noise, params):
        return first(seen(noise, params)), noise

    def step(noise, params, state, action):
        del state, action
        shown = seen(noise, params)
        return Timestep(shown, shown[0], noise[0] < 0.2, jnp.bool_(False)), noise

    draw = draw_uniform(2)
    params = SignalParams(jnp.float32(0.0), jnp.float32(1.0))
    return Environment(params, Spaces(Box((2,)), Box((1,))), draw, draw, reset, step, 100)


def looker(environment: Environment) -> Learner:
    """A learner that learns nothing; its state is the last trajectory it was given."""

    def learn(key, state, seen, context):
        del key, state, context
        return seen, {"loss": jnp.float32(0.0)}

    shape = (TIME, 2, INSTANCES)
    like = Trajectory(*(jnp.zeros(s) for s in (shape, (TIME, 1, INSTANCES), *((TIME, INSTANCES),) * 3, shape)))
    return Learner(
        init=lambda key, env_params: like._replace(terminated=like.terminated > 0, truncated=like.truncated > 0),
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.ones((1, observation.shape[-1])),
        params=lambda state: {"nothing": jnp.zeros(1)},
        adopt=lambda state, params: state,
        environment=environment,
        samples=TIME * INSTANCES,
        horizon=TIME,
        num_envs=INSTANCES,
    )


def experience(rng, offset):
    """A trajectory far from zero."""
    shape = (TIME, 2, INSTANCES)
    arrays = [rng.normal(offset, 3.0, shape), rng.normal(size=(TIME, 1, INSTANCES)), rng.normal(5, 1, shape[::2])]
    ends = [rng.random(shape[::2]) < 0.2, rng.random(shape[::2]) < 0.1]
    return Trajectory(*(jnp.asarray(x, jnp.float32) for x in arrays), *ends, jnp.asarray(arrays[0], jnp.float32))


def returns_by_loop(trajectories):
    """The running return before each reset, over the trajectories of one agent, one after the other."""
    found, running = [], np.zeros(INSTANCES)
    for seen in trajectories:
        for t in range(TIME):
            running = seen.reward[t] + DISCOUNT * running
            found.append(running)
            running = np.where(seen.terminated[t] | seen.truncated[t], 0.0, running)
    return np.stack(found)


@pytest.mark.parametrize("everybody", [True, False], ids=["everybody", "some"])
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_merged_moments_are_those_of_everything_all_agents_saw(weighting, everybody):
    learner = normalize(looker(signal()), gamma=DISCOUNT)
    federation = federate(learner, mean(weighting), local_steps=3)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    server = federation.init_server(key)
    steps = (1, 3, 2)
    agents = [federation.init_agent(key, jnp.int32(k), signal().params, jnp.int32(n)) for k, n in enumerate(steps)]
    seen = [[] for _ in steps]
    for number in range(3):
        sent = federation.broadcast(server)
        updates = []
        for k, n in enumerate(steps):
            if k == number and not everybody:
                continue  # sits this round out
            before = agents[k]
            task, agents[k] = federation.begin(turn_below(key), sent, before, jnp.int32(3))
            for step in range(n):
                seen[k].append(experience(rng, 100.0 * k))
                agents[k], _, _ = federation.work(task, agents[k], (), jnp.int32(step), seen[k][-1])
            update, agents[k], _ = federation.report(task, before, agents[k], (), {})
            updates.append(update)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates)
        server = federation.server(server_below(key), on_time(jnp.arange(len(updates))), server, stacked)
        found = server.params["moments"]
        observed = np.concatenate([np.moveaxis(s.observation, 1, 0).reshape(2, -1) for each in seen for s in each], 1)
        returned = np.concatenate([returns_by_loop(each).ravel() for each in seen if each])
        assert found["observation"].samples == observed.shape[1]
        np.testing.assert_allclose(found["observation"].mean, observed.mean(1), rtol=1e-5)
        np.testing.assert_allclose(found["observation"].variance, observed.var(1), rtol=1e-5)
        np.testing.assert_allclose(found["return"].mean, returned.mean(), rtol=1e-5)
        np.testing.assert_allclose(found["return"].variance, returned.var(), rtol=1e-5)


@pytest.fixture(scope="module")
def runs():
    """Three agents far apart, simulated in blocks of one and of two and with two kinds of weights."""
    fleet = SignalParams(jnp.array([-50.0, 0.0, 400.0]), jnp.array([1.0, 2.0, 3.0]))
    found = {}
    for block, weighting in ((1, "samples"), (2, "samples"), (2, "uniform")):
        federation = federate(normalize(looker(signal())), mean(weighting), local_steps=2)
        simulation = simulate(federation, fleet, block=block, local_steps=(1, 2, 2))
        run_state = simulation.init(0)
        for _ in range(3):
            run_state, seen = simulation.round(run_state)
            assert seen.rejected == ()
        found[block, weighting] = run_state.server.params["moments"]
    return found


def test_moments_do_not_depend_on_blocks_or_weights(runs):
    reference = runs[1, "samples"]
    assert reference["observation"].samples == 3 * 5 * TIME * INSTANCES
    assert reference["observation"].variance.min() > 1e4
    for other in runs.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), other, reference)


def test_after_a_round_the_learner_sees_standardised_numbers():
    fleet = SignalParams(jnp.array([1000.0]), jnp.array([200.0]))
    simulation = simulate(federate(normalize(looker(signal())), mean(), local_steps=5), fleet)
    run_state = simulation.init(0)
    for _ in range(6):
        run_state, _ = simulation.round(run_state)
    shown = np.asarray(run_state.blocks[0].learner.learner.observation)[0]
    assert np.abs(shown.mean((0, 2))).max() < 0.8
    assert 0.6 < shown.std((0, 2)).min() < shown.std((0, 2)).max() < 1.4
    paid = np.asarray(run_state.blocks[0].learner.learner.reward)
    assert 0.1 < np.abs(paid).mean() < 3.0


def test_agents_that_do_not_talk_merge_their_own_counts():
    fleet = SignalParams(jnp.array([-50.0, 400.0]), jnp.array([1.0, 1.0]))
    simulation = simulate(federate(normalize(looker(signal())), mean()), fleet, topology=isolated())
    run_state = simulation.init(0)
    for _ in range(3):
        run_state, _ = simulation.round(run_state)
    own = simulation.params_of(run_state)["moments"]["observation"]
    np.testing.assert_allclose(own.mean[:, 0], [-50.0, 400.0], atol=0.3)
    np.testing.assert_array_equal(own.samples, 2 * TIME * INSTANCES)
    assert run_state.server.params["moments"]["observation"].samples == 0


@pytest.mark.parametrize(
    ("center", "spread", "tolerance"),
    [(1e4, 1.0, 1e-4), (-3e4, 10.0, 1e-4), (1e12, 1e9, 1e-5), (0.0, 1e12, 1e-5), (1e-12, 1e-12, 1e-5), (5.0, 0.0, 0.0)],
)
def test_moments_are_right_from_the_first_round_on_however_far_from_zero_and_in_any_unit(center, spread, tolerance):
    rng, moments, seen = np.random.default_rng(0), unseen((2,)), []
    merge = jax.jit(lambda moments, stacked: merged(moments, joined(jax.tree.map(sum_of, stacked))))
    for _ in range(4):
        samples = jnp.asarray(rng.normal(center, spread, (3, 2, 50)), jnp.float32)  # of three agents
        counted = [parted(both(count(moments, each[:, :20]), count(moments, each[:, 20:]))) for each in samples]
        moments = merge(moments, jax.tree.map(lambda *leaves: jnp.stack(leaves), *counted))
        seen += [*np.asarray(samples, np.float64)]
        truth = np.concatenate(seen, axis=1)
        rounding = (2e-7 * center) ** 2  # of float32 itself
        np.testing.assert_allclose(moments.variance, truth.var(1), rtol=tolerance, atol=rounding)
        np.testing.assert_allclose(moments.mean, truth.mean(1), rtol=1e-5, atol=1e-6 * spread)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_moments_through_the_engine_know_no_unit(scale):
    simulation = simulate(
        federate(normalize(looker(signal())), mean(), local_steps=3),
        SignalParams(jnp.full(2, scale * 1e3), jnp.full(2, scale)),
        devices=jax.devices()[:1],
    )
    run_state = simulation.init(0)
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        assert seen.rejected == ()
    found = run_state.server.params["moments"]["observation"]
    np.testing.assert_allclose(found.mean / scale, 1e3, atol=0.2)
    # the first is uniform on [0.2, 1], below which an episode ends, and in one step of five of a new one on [0, 1]
    np.testing.assert_allclose(found.variance / scale**2, [0.0609, 4 / 12], rtol=0.2)
    shown = np.asarray(run_state.blocks[0].learner.learner.observation)[0]
    assert 0.6 < shown.std((0, 2)).min() < shown.std((0, 2)).max() < 1.4


def test_a_spread_below_the_rounding_of_float32_is_none():
    moments = Moments(jnp.float32(9.0), jnp.array([1e6]), jnp.array([1e-6]))
    assert abs(float(standardised(moments, jnp.array([[1e6 + 0.0625]]), 10.0)[0, 0])) < 1.0


def test_no_samples_leave_the_moments_as_they_are():
    moments = merged(unseen(()), count(unseen(()), jnp.array([1.0, 3.0])))
    same = merged(moments, count(moments, jnp.zeros((0,))))
    jax.tree.map(np.testing.assert_array_equal, same, moments)


def test_the_running_return_is_carried_across_calls_and_not_across_episodes():
    seen = experience(np.random.default_rng(1), 0.0)
    last, path = running_return(jnp.zeros(INSTANCES), seen, DISCOUNT)
    _, more = running_return(last, seen, DISCOUNT)
    np.testing.assert_allclose(np.concatenate([path, more]), returns_by_loop([seen, seen]), rtol=1e-5)


def test_a_policy_is_normalised_wherever_it_acts():
    plain = ppo(probe_match(), network=mlp((4,)))
    wrapped = normalize(plain, rewards=False)
    inner = plain.params(plain.init(jax.random.key(0), plain.environment.params))
    moments = merged(unseen((1,)), count(unseen((1,)), jnp.array([[90.0, 110.0]])))
    params = {"learner": inner, "moments": {"observation": moments}}
    raw = jnp.array([[90.0, 100.0, 130.0]])
    greedy = wrapped.act(jax.random.key(0), params, raw, True)
    np.testing.assert_array_equal(greedy, plain.act(jax.random.key(0), inner, (raw - 100.0) / 10.0, True))


def test_an_unscaled_problem_is_learned_only_when_normalised():
    """Observations 1000 +- 1, rewards of -1000 times a squared distance."""

    def reset(noise, params):
        shown = jnp.where(noise[0] < 0.5, -1.0, 1.0)
        return first(1000.0 + params * shown[None]), shown

    def step(noise, params, state, action):
        del noise
        paid = -1000.0 * (action[0] - state) ** 2
        return Timestep(1000.0 + params * state[None], paid, jnp.bool_(True), jnp.bool_(False)), state

    spaces = Spaces(Box((1,)), Box((1,), -2.0, 2.0))
    env = Environment(jnp.float32(1.0), spaces, draw_uniform(1), draw_nothing, reset, step, 1)
    plain = a2c(env, network=mlp((16,)), optimizer=sgd(0.05, max_norm=1.0), num_envs=32, num_steps=4)

    def missed(learner):
        simulation = simulate(federate(learner, mean(), local_steps=10), jnp.ones(1))
        run_state = simulation.init(0)
        for _ in range(25):
            run_state, _ = simulation.round(run_state)
        seen = jnp.array([[999.0, 1001.0]])
        action = learner.act(jax.random.key(0), run_state.server.params, seen, True)
        return float(jnp.abs(action[0] - jnp.array([-1.0, 1.0])).max())

    assert missed(normalize(plain)) < 0.35
    assert missed(plain) > 0.6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: normalize(reinforce(probe_match())), "learns from trajectories"),
        (lambda: normalize(normalize(ppo(probe_match()))), "learns from trajectories"),
        (lambda: normalize(ppo(probe_match()), observations=False, rewards=False), "both false"),
        (lambda: normalize(q_table(gridworld())), "observations = false"),
        (lambda: normalize(dqn(probe_match())), "keeps samples in a replay buffer"),
    ],
)
def test_what_cannot_be_normalised_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_both_policies_of_apfl_act_on_normalised_observations_each_in_its_copies():
    learner = normalize(apfl(a2c(probe_match(), network=mlp((4,)), num_envs=3, num_steps=2), share=0.5))
    state = learner.init(jax.random.key(0), learner.environment.params)
    sure = [jax.tree.map(lambda x: 0.0 * x, state.learner.private) for _ in range(2)]
    for action, params in enumerate(sure):
        params["actor"][-1]["bias"] = jnp.array([-1e3, -1e3]).at[action].set(1e3)
    # Half of each makes the mixture, which acts first: v = 2 mixture - w.
    private = jax.tree.map(lambda own, shared: 2.0 * own - shared, *sure)
    held = state.learner._replace(private=private)
    held = held._replace(global_state=held.global_state._replace(params=sure[1]))
    seen, _, _ = learner.collect(jax.random.key(1), state._replace(learner=held))
    np.testing.assert_array_equal(seen.action, [[0, 0, 0, 1, 1, 1]] * 2)
    acting = learner.behaviours(state._replace(learner=held))
    assert [sorted(each) for each in acting] == [["learner", "moments"]] * 2
