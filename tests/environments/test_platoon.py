"""The platoon moves as the matrices of its paper say, pays what they say, and can be driven and learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments import fleet, platoon
from fedrl.environments.traffic.platoon import PlatoonState
from fedrl.learners import adam, ppo
from tests.learners.test_games import played as greedily_played
from tests.learners.test_games import trained

T = 0.1


class Twin:
    """One car by the matrices of Boin et al. (2022), in float64: x' = A x + B u + C u of the car in front."""

    def __init__(self, state, headway, tau, tau_ahead):
        self.state, self.before = np.array(state, float), np.array(state, float)
        self.A = np.array(
            [[1, T, -headway * T, 0], [0, 1, -T, T], [0, 0, 1 - T / tau, 0], [0, 0, 0, 1 - T / tau_ahead]]
        )
        self.B, self.C = np.array([0, 0, T / tau, 0]), np.array([0, 0, 0, T / tau_ahead])

    def step(self, u, u_ahead):
        e_p, e_v, a, _ = np.abs(self.state) - [0, 0, np.abs(self.state[2]) - self.state[2], 0]
        cost = 0.4 * e_p / 20 + 0.2 * e_v / 20 + 0.2 * abs(u) / 2.5 + 0.2 * abs(a - self.before[2]) / 5
        self.before, self.state = self.state, self.A @ self.state + self.B * u + self.C * u_ahead
        return -cost, (np.abs(self.state[:2]) > 20).any()


def inner(state):
    return inner(state.state) if hasattr(state, "state") else state


@pytest.mark.parametrize(("tau", "tau_leader", "headway"), [(0.1, 0.1, 1.0), (0.4, 0.25, 1.3)])
def test_a_platoon_is_its_twin_step_by_step(tau, tau_leader, headway):
    world = platoon(cars=3)
    params = world.params._replace(
        tau=jnp.float32(tau),
        tau_leader=jnp.float32(tau_leader),
        headway=jnp.float32(headway),
        leader_std=jnp.float32(0.7),
    )
    rng = np.random.default_rng(0)
    noise = world.draw_reset(jax.random.key(0), ())
    timestep, state = world.reset(noise, params)
    move = jax.jit(world.step)
    start = np.asarray(timestep.observation, float)
    np.testing.assert_allclose(start[0], 1.5 * noise[:3], rtol=1e-6)
    np.testing.assert_allclose(start[3], [0.0, *start[2, :2]])
    cars = [Twin(start[:, i], headway, tau, tau_leader if i == 0 else tau) for i in range(3)]
    for _ in range(200):
        u, draw = rng.uniform(-3.0, 3.0, 3), rng.normal()
        timestep, state = move(jnp.float32([draw]), params, state, jnp.float32(u[None]))
        u = np.clip(u, -2.5, 2.5)
        told = [car.step(mine, ahead) for car, mine, ahead in zip(cars, u, [0.7 * draw, *u], strict=False)]
        reward = [cost - 0.5 * far for cost, far in told]
        np.testing.assert_allclose(timestep.reward, reward, atol=2e-6)
        seen = np.stack([car.state for car in cars], 1)
        np.testing.assert_allclose(timestep.observation, seen, atol=1e-4)
        np.testing.assert_allclose(timestep.measures["position_error"], np.abs(seen[0]).mean(), atol=1e-4)
        jerk = np.mean([abs(car.state[2] - car.before[2]) for car in cars]) / T
        np.testing.assert_allclose(timestep.measures["jerk"], jerk, atol=1e-3)
        if timestep.terminated:
            break
    assert timestep.terminated == any(far for _, far in told)


def test_an_error_above_twenty_ends_the_episode_for_all_and_costs_only_the_car_that_has_it():
    world = platoon(cars=2)
    _, state = world.reset(jnp.zeros(6), world.params)
    still = jnp.zeros(2)
    calm, costs = PlatoonState(still, still, still, still, jnp.float32(0.0)), []
    for error in (19.9, 20.1):
        far = state._replace(state=calm._replace(e_p=jnp.array([0.0, error])))
        timestep, _ = world.step(jnp.zeros(1), world.params, far, jnp.zeros((1, 2)))
        assert timestep.terminated == (error > 20.0)
        assert not timestep.truncated
        assert timestep.measures["ended"] == (error > 20.0)
        costs.append(-np.asarray(timestep.reward))
    np.testing.assert_allclose(costs, [[0.0, 0.398], [0.0, 0.902]], atol=1e-5)


def by_hand(seen, uniform):
    """A linear controller; of 400 that were drawn at random, the best one."""
    e_p, e_v, own, ahead = seen
    return 0.57 * e_p + 0.87 * e_v + 0.11 * own + 0.02 * ahead


def standing_by(seen, uniform):
    return jnp.zeros_like(uniform)


def at_random(seen, uniform):
    return 5.0 * uniform - 2.5


POLICIES = (by_hand, standing_by, at_random)


def played(world, episodes=64):
    """Of each policy, the mean return over episodes and cars, and the share of episodes that end early."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def play(key, number):
        def step(carry, given):
            timestep, state, over, returned = carry
            noise, uniform = given
            wishes = jnp.stack([policy(timestep.observation, uniform) for policy in POLICIES])
            action = wishes[number][None]
            timestep, state = jax.vmap(world.step, (-1, None, -1, -1), -1)(noise, world.params, state, action)
            returned += jnp.where(over, 0.0, timestep.reward.mean(0))
            return (timestep._replace(measures={}), state, over | timestep.terminated, returned), None

        for_reset, for_step, for_actions = jax.random.split(key, 3)
        noise = world.draw_reset(for_reset, (episodes,))
        noises = jnp.moveaxis(world.draw_step(for_step, (world.max_steps, episodes)), 1, 0)
        uniform = jax.random.uniform(for_actions, (world.max_steps, world.players, episodes))
        begin = jax.vmap(world.reset, (-1, None), -1)(noise, world.params)
        none = jnp.zeros(episodes, bool), jnp.zeros(episodes)
        (_, _, over, returned), _ = jax.lax.scan(step, (*begin, *none), (noises, uniform))
        return returned.mean(), over.mean()

    means = np.asarray(play(jax.random.key(1), jnp.arange(len(POLICIES)))).T
    return {policy.__name__: mean for policy, mean in zip(POLICIES, means, strict=True)}


def test_a_controller_keeps_the_gaps_and_neither_standing_by_nor_chance_does():
    found = played(platoon())
    for name, (earned, ended) in found.items():
        print(f"\n{name}: {earned:.2f}, {ended:.0%} of the episodes end early")
    assert found["by_hand"][0] > -4.0
    assert found["by_hand"][1] == 0.0
    assert max(found["standing_by"][0], found["at_random"][0]) < -15.0


def test_platoons_of_a_fleet_may_have_other_cars_and_no_unstable_ones():
    cars = fleet(platoon(), 3, {"tau": {"range": [0.1, 0.5]}, "headway": [0.8, 1.0, 1.2]}, jax.random.key(0))
    assert (np.asarray(cars.tau) >= 0.1).all()
    np.testing.assert_allclose(cars.headway, [0.8, 1.0, 1.2])
    with pytest.raises(ConfigError, match=r"tau is 0\.0399.* above 0\.05"):
        fleet(platoon(), 1, {"tau": 0.04}, jax.random.key(0))


def test_shared_parameters_learn_to_keep_the_gaps():
    learner = ppo(platoon(), optimizer=adam(0.002, max_norm=0.5), num_envs=8, num_steps=250)
    params, sums = trained(learner, iterations=25, seeds=2)
    error = np.asarray(sums["position_error"] / sums["steps"])
    assert (error[:, 0] > 4.0).all()
    assert (error[:, -5:].mean(1) < 2.0).all()
    assert (greedily_played(learner, params, episodes=20) > -12.0).all()  # standing by earns -22
