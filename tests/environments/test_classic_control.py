"""Classic control against Gymnasium, step by step, and LQR against the theory."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from fedrl.environments import acrobot, cartpole, lqr, mountain_car, mountain_car_continuous, pendulum
from fedrl.environments.classic.lqr import LQRParams, lqr_matrices, lqr_optimum, lqr_policy, lqr_return

TWINS = {
    "CartPole-v1": cartpole,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car_continuous,
    "Pendulum-v1": pendulum,
}
STEPS = 1200


def actions_for(name: str, space, generator) -> np.ndarray:
    """Random actions; held for a while, so that links swing, and beyond their bounds where they have some."""
    hold = 1 if name == "CartPole-v1" else 8
    if hasattr(space, "n"):
        return np.repeat(generator.integers(0, space.n, STEPS // hold), hold).astype(np.int32)
    drawn = generator.uniform(1.5 * space.low, 1.5 * space.high, (STEPS // hold, 1))
    return np.repeat(drawn, hold, axis=0).astype(np.float32)


def energetic(name: str, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Actions that pump energy into the systems that random actions rarely bring to their goal."""
    if name == "MountainCar-v0":
        return np.int32(2 if state[1] >= 0 else 0)
    if name == "MountainCarContinuous-v0":
        return np.where(state[1] >= 0, np.abs(action), -np.abs(action)).astype(np.float32)
    if name == "Acrobot-v1":
        return np.int32(2 if state[3] >= 0 else 0)
    return action


@pytest.mark.parametrize("name", TWINS)
def test_steps_are_those_of_gymnasium(name):
    ours = TWINS[name]()
    theirs = gymnasium.make(name).unwrapped
    reset, step = jax.jit(ours.reset), jax.jit(ours.step)
    generator = np.random.default_rng(0)
    theirs.reset(seed=0)
    actions = actions_for(name, theirs.action_space, generator)
    noise = np.asarray(ours.draw_reset(jax.random.key(0), (STEPS,)))
    state, episodes, terminations = None, 0, 0
    for i in range(STEPS):
        if state is None:
            opening, state = reset(noise[:, i], ours.params)
            before = np.asarray(state.state, np.float64)
            theirs.state = before
            seen = theirs._get_obs() if name == "Pendulum-v1" else before
            seen = theirs._get_ob() if name == "Acrobot-v1" else seen
            np.testing.assert_allclose(opening.observation, seen, atol=1e-6)
            episodes += 1
        before = np.asarray(state.state, np.float64)
        theirs.state = before.copy()
        if name == "CartPole-v1":
            theirs.steps_beyond_terminated = None
        action = energetic(name, before, actions[i]) if i > STEPS // 2 else actions[i]
        observation, reward, terminated, _, _ = theirs.step(action)
        timestep, state = step((), ours.params, state, jnp.asarray(action))
        np.testing.assert_allclose(timestep.observation, observation, rtol=2e-5, atol=2e-5, err_msg=f"step {i}")
        np.testing.assert_allclose(timestep.reward, reward, rtol=1e-5, atol=1e-5, err_msg=f"step {i}")
        assert bool(timestep.terminated) == terminated, f"step {i}"
        terminations += int(timestep.terminated)
        if timestep.terminated or timestep.truncated:
            state = None
    assert episodes > 1, "the episode never ended, so resets were not compared"
    assert terminations > 0 or name == "Pendulum-v1"


@pytest.mark.parametrize("name", TWINS)
def test_episodes_are_as_long_as_gymnasiums(name):
    assert TWINS[name]().max_steps == gymnasium.spec(name).max_episode_steps


@pytest.mark.parametrize("name", TWINS)
def test_starts_are_spread_as_gymnasiums(name):
    ours, theirs = TWINS[name](), gymnasium.make(name).unwrapped
    noise = ours.draw_reset(jax.random.key(0), (4000,))
    _, state = jax.jit(jax.vmap(ours.reset, (-1, None), -1))(noise, ours.params)
    sample = np.stack([_state_after_reset(theirs, seed) for seed in range(300)])
    for mine, other in zip(state.state, sample.T, strict=True):
        tolerance = float(0.05 * np.ptp(other) + 1e-6)
        assert mine.min() == pytest.approx(other.min(), abs=tolerance)
        assert mine.max() == pytest.approx(other.max(), abs=tolerance)


def _state_after_reset(environment, seed):
    environment.reset(seed=seed)
    return np.asarray(environment.state)


class TestPhysics:
    def test_a_heavier_first_link_keeps_the_acrobot_lower(self):
        environment = acrobot()
        _, state = environment.reset(jnp.full(4, 0.5), environment.params)
        push = jnp.int32(2)
        _, light = environment.step((), environment.params, state, push)
        _, heavy = environment.step((), environment.params._replace(mass_1=jnp.float32(3.0)), state, push)
        assert abs(float(heavy.state.theta_1)) < abs(float(light.state.theta_1))

    def test_stronger_gravity_lets_the_pendulum_fall_faster(self):
        environment = pendulum()
        _, state = environment.reset(jnp.array([0.6, 0.5]), environment.params)
        _, slow = environment.step((), environment.params._replace(gravity=jnp.float32(1.0)), state, jnp.zeros(1))
        _, fast = environment.step((), environment.params, state, jnp.zeros(1))
        assert float(fast.state.theta_dot) > float(slow.state.theta_dot) > 0

    def test_a_goal_further_up_ends_the_drive_later(self):
        environment = mountain_car()
        _, state = environment.reset(jnp.array([0.5]), environment.params)
        at = state._replace(state=state.state._replace(position=jnp.float32(0.52), velocity=jnp.float32(0.05)))
        far = environment.params._replace(goal_position=jnp.float32(0.58))
        assert bool(environment.step((), environment.params, at, jnp.int32(2))[0].terminated)
        assert not bool(environment.step((), far, at, jnp.int32(0))[0].terminated)


class TestLQR:
    GAMMA = 0.95

    def test_optimum_solves_the_riccati_equation(self):
        params = LQRParams(mass=2.0, friction=0.3, stiffness=0.5, action_cost=0.2)
        a, b, q, r, _ = (np.asarray(m, np.float64) for m in lqr_matrices(params))
        root = np.sqrt(self.GAMMA)
        exact = scipy.linalg.solve_discrete_are(root * a, root * b, q, r)
        np.testing.assert_allclose(lqr_optimum(params, self.GAMMA).cost, exact, rtol=1e-4)

    def test_optimal_gain_has_the_value_the_optimum_claims(self):
        params = lqr().params
        best = lqr_optimum(params, self.GAMMA)
        valued = lqr_policy(params, best.gain, self.GAMMA)
        np.testing.assert_allclose(valued.cost, best.cost, rtol=1e-4)
        for change in ([[0.3, 0.0]], [[0.0, -0.3]], [[-0.2, 0.2]]):
            assert lqr_return(lqr_policy(params, best.gain + jnp.array(change), self.GAMMA)) < lqr_return(best)

    @pytest.mark.parametrize("factor", [1.0, 0.6])
    def test_what_a_policy_earns_is_what_the_theory_says(self, factor):
        environment = lqr()
        params = environment.params._replace(noise=jnp.float32(0.3), stiffness=jnp.float32(0.4))
        gain = lqr_optimum(params, self.GAMMA).gain * factor
        predicted = float(lqr_return(lqr_policy(params, gain, self.GAMMA)))
        episodes = 4000

        def earn(key):
            seen, state = jax.vmap(environment.reset, (-1, None), -1)(
                environment.draw_reset(jax.random.fold_in(key, 0), (episodes,)), params
            )
            noise = environment.draw_step(jax.random.fold_in(key, 1), (200, episodes)).swapaxes(0, 1)

            def step(carry, noise):
                state, observation = carry
                moved = jax.vmap(environment.step, (-1, None, -1, -1), -1)
                timestep, state = moved(noise, params, state, -gain @ observation)
                return (state, timestep.observation), timestep.reward

            _, reward = jax.lax.scan(step, (state, seen.observation), noise)
            return self.GAMMA ** jnp.arange(200) @ reward

        earned = np.asarray(jax.jit(earn)(jax.random.key(0)))
        error = earned.std() / np.sqrt(episodes)
        assert abs(earned.mean() - predicted) < 4 * error
        assert error < 0.03 * abs(predicted)

    def test_a_fleet_has_a_fleet_of_optima(self):
        fleet = LQRParams(*(jnp.full(3, leaf) for leaf in LQRParams()))._replace(mass=jnp.array([0.5, 1.0, 2.0]))
        many = lqr_optimum(fleet, self.GAMMA)
        one = lqr_optimum(LQRParams(mass=2.0), self.GAMMA)
        jax.tree.map(lambda whole, part: np.testing.assert_allclose(whole[2], part, rtol=1e-4), many, one)
