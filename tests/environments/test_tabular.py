"""Finite processes: their tables, their sampling, and what planning says of them."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments import gridworld, random_mdp, random_mdps, tabular, windy_cliff, windy_cliffs
from fedrl.environments.tabular.gridworld import LAYOUTS, GridworldParams, GridworldState, gridworld_model
from fedrl.environments.tabular.model import TabularState
from fedrl.environments.tabular.planning import bellman, greedy, model_of, optimal_q, policy_return, policy_value
from fedrl.environments.time_limit import Timed


def sampled(environment, params, state_type, state, action, count=20_000):
    """Frequencies of the successors and the mean reward of one state and action."""
    states = environment.spaces.observation.n
    at = Timed(state_type(jnp.int32(state)), jnp.int32(0))
    step = jax.jit(jax.vmap(environment.step, (-1, None, None, None), -1))
    noise = environment.draw_step(jax.random.key(1), (count,))
    timestep, _ = step(noise, params, at, jnp.int32(action))
    return np.bincount(timestep.observation, minlength=states) / count, float(timestep.reward.mean())


@functools.cache
def family_of_three():
    return random_mdps(jax.random.key(3), 3, 0.3)


class TestTabular:
    def test_successors_are_sampled_with_their_probabilities(self):
        rows = [[[0.2, 0.0, 0.5, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]] * 5
        environment = tabular(rows, [[1.0, 2.0]] * 5)
        frequency, reward = sampled(environment, environment.params, TabularState, 3, 0)
        np.testing.assert_allclose(frequency, rows[0][0], atol=0.015)
        assert (frequency[[1, 4]] == 0).all()
        assert reward == 1.0
        assert sampled(environment, environment.params, TabularState, 3, 1) == (pytest.approx([0, 0, 0, 0, 1]), 2.0)

    def test_impossible_successors_are_never_sampled_at_the_edges_of_the_noise(self):
        environment = tabular([[[0.0, 0.1, 0.2, 0.7 / 3, 0.7 / 3, 0.7 / 3, 0.0]]] * 7, [[0.0]] * 7)
        at = Timed(TabularState(jnp.int32(0)), jnp.int32(0))
        for uniform, reached in ((0.0, 1), (1.0 - 2.0**-23, 5)):
            timestep, _ = environment.step(jnp.array([uniform]), environment.params, at, jnp.int32(0))
            assert int(timestep.observation) == reached

    def test_starts_follow_the_initial_distribution(self):
        environment = tabular([[[1.0, 0.0, 0.0]]] * 3, [[0.0]] * 3, [0.25, 0.75, 0.0])
        noise = environment.draw_reset(jax.random.key(0), (20_000,))
        timestep, _ = jax.vmap(environment.reset, (-1, None), -1)(noise, environment.params)
        np.testing.assert_allclose(np.bincount(timestep.observation, minlength=3) / 20_000, [0.25, 0.75, 0], atol=0.015)

    @pytest.mark.parametrize(
        ("transition", "reward", "initial", "word"),
        [
            ([[[0.5, 0.4]], [[1.0, 0.0]]], [[0.0], [0.0]], None, "transition has a row"),
            ([[[1.5, -0.5]], [[1.0, 0.0]]], [[0.0], [0.0]], None, "transition has a row"),
            ([[[1.0, 0.0]]], [[0.0]], None, "transition has shape"),
            ([[[1.0, 0.0]], [[1.0, 0.0]]], [0.0, 0.0], None, "reward has shape"),
            ([[[1.0, 0.0]], [[1.0, 0.0]]], [[0.0], [0.0]], [0.5, 0.6], "initial has a row"),
        ],
    )
    def test_tables_that_are_no_process_are_refused(self, transition, reward, initial, word):
        with pytest.raises(ConfigError, match=word):
            tabular(transition, reward, initial)


class TestRandomMDPs:
    def test_kappa_is_the_total_variation_from_the_first_agent(self):
        family = family_of_three()
        distance = np.abs(family.transition - family.transition[0]).sum(-1) / 2
        np.testing.assert_allclose(distance[0], 0.0, atol=1e-6)
        np.testing.assert_allclose(distance[1:], 0.3, atol=1e-6)
        np.testing.assert_allclose(family.transition.sum(-1), 1.0, atol=1e-6)
        assert not np.allclose(family.transition[1], family.transition[2])

    def test_all_agents_share_rewards_and_start(self):
        family = family_of_three()
        assert (family.reward == family.reward[0]).all()
        assert 0 <= family.reward.min() < 0.2
        assert 0.8 < family.reward.max() <= 1
        np.testing.assert_allclose(family.initial, 0.2)

    def test_one_agent_of_a_family_is_that_of_the_whole(self):
        one = random_mdp(kappa=0.3, agent=2, seed=3).params
        jax.tree.map(lambda whole, part: np.testing.assert_array_equal(whole[2], part), family_of_three(), one)

    def test_half_of_all_transitions_are_possible_at_the_centre(self):
        possible = np.mean([random_mdp(seed=seed).params.transition > 0 for seed in range(10)])
        assert 0.45 < possible < 0.55

    @pytest.mark.parametrize(("kappa", "published"), [(0.0, 35.42), (0.4, 34.80), (0.8, 33.29)])
    def test_averaged_values_of_heterogeneous_agents_earn_what_is_published(self, kappa, published):
        """Jin et al. (2022), Table 1, QAvg: averaging Q has the fixed point Q* of the mean process."""
        earned = np.asarray(_earned_by_the_mean_process(jnp.float32(kappa)))
        error = earned.std() / np.sqrt(len(earned))
        assert error < 0.3
        assert abs(earned.mean() - published) < 3 * error


@functools.cache
def _program():
    keys = jax.random.split(jax.random.key(0), 1000)

    def one(key, kappa):
        family = random_mdps(key, 5, kappa)
        mean = jax.tree.map(lambda leaf: leaf.mean(0), family)
        centre = jax.tree.map(lambda leaf: leaf[0], family)
        return 10 * (policy_return(centre, greedy(optimal_q(mean, 0.9)), 0.9) - 0.5 / (1 - 0.9))

    return jax.jit(lambda kappa: jax.vmap(one, (0, None))(keys, kappa))


def _earned_by_the_mean_process(kappa):
    return _program()(kappa)


class TestWindyCliffs:
    def test_best_value_is_the_published_one(self):
        model = windy_cliff(theta=0.5).params
        best = optimal_q(model, 0.95)
        assert float(best[0].max()) == pytest.approx(133.965, abs=1e-3)
        assert float(policy_return(model, greedy(best), 0.95)) == pytest.approx(133.965, abs=1e-3)

    def test_wind_blows_down_with_a_third_of_theta(self):
        model = windy_cliffs(jnp.array([0.0, 0.6]))
        for theta, table in zip((0.0, 0.6), model.transition, strict=True):
            blown = theta / 3
            right = np.zeros(16)
            right[10], right[5] = 1 - blown, blown
            np.testing.assert_allclose(table[9, 3], right, atol=1e-6)
            assert table[9, 1, 5] == pytest.approx(1.0)
            assert table[0, 3, 1] == pytest.approx(1 - blown)
            assert table[0, 3, 0] == pytest.approx(blown)

    def test_cliff_and_goal_lead_back_to_the_start_and_pay_where_one_stands(self):
        model = windy_cliffs(0.7)
        np.testing.assert_allclose(model.transition[1:4, :, 0], 1.0, atol=1e-6)
        np.testing.assert_array_equal(model.reward[:5, 0], [-1, -100, -100, 100, -1])

    def test_mixing_processes_mixes_winds(self):
        mixed = 0.4 * windy_cliffs(0.9).transition + 0.6 * windy_cliffs(0.5).transition
        np.testing.assert_allclose(mixed, windy_cliffs(0.5 + 0.4 * (0.9 - 0.5)).transition, atol=1e-6)


class TestGridworld:
    @pytest.mark.parametrize("name", ["4x4", "8x8"])
    @pytest.mark.parametrize("slip", [0.0, 2 / 3])
    def test_dynamics_are_those_of_frozen_lake(self, name, slip):
        lake = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slip > 0).unwrapped
        model = gridworld_model(name, GridworldParams(jnp.float32(slip), 0.0, 1.0, 0.0))
        transition, reward = np.zeros(model.transition.shape), np.zeros(model.reward.shape)
        for state, actions in lake.P.items():
            for action, outcomes in actions.items():
                for probability, reached, paid, _ in outcomes:
                    transition[state, action, reached] += probability
                    reward[state, action] += probability * paid
        np.testing.assert_allclose(model.transition, transition, atol=1e-6)
        np.testing.assert_allclose(model.reward, reward, atol=1e-6)

    def test_steps_follow_the_model(self):
        environment = gridworld("maze")
        params = GridworldParams(*(jnp.float32(x) for x in (0.4, 0.1, 2.0, -3.0)))
        model = model_of(environment, params)
        for cell, action in ((0, 1), (8, 2), (13, 0), (27, 3)):
            frequency, reward = sampled(environment, params, GridworldState, cell, action)
            np.testing.assert_allclose(frequency, model.transition[cell, action], atol=0.015)
            assert reward == pytest.approx(float(model.reward[cell, action]), abs=0.05)

    def test_goals_and_pits_pay_and_end_the_episode(self):
        environment = gridworld("SGO")
        sure = environment.params._replace(slip=jnp.float32(0.0))
        _, start = environment.reset(jnp.zeros(1), sure)
        won, _ = environment.step(jnp.zeros(1), sure, start, jnp.int32(2))
        assert (float(won.reward), bool(won.terminated)) == (pytest.approx(0.99), True)
        environment = gridworld("GSO")
        _, start = environment.reset(jnp.zeros(1), sure)
        lost, _ = environment.step(jnp.zeros(1), sure, start, jnp.int32(2))
        assert (float(lost.reward), bool(lost.terminated)) == (pytest.approx(-1.01), True)
        stayed, _ = environment.step(jnp.zeros(1), sure, start, jnp.int32(1))
        assert (float(stayed.reward), bool(stayed.terminated)) == (pytest.approx(-0.01), False)

    def test_without_a_mark_episodes_start_anywhere_on_the_floor(self):
        environment = gridworld("..#G\n.O..")
        noise = environment.draw_reset(jax.random.key(0), (1000,))
        timestep, _ = jax.vmap(environment.reset, (-1, None), -1)(noise, environment.params)
        assert set(np.asarray(timestep.observation)) == {0, 1, 3, 5, 6}

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_the_goal_of_every_built_in_map_can_be_reached(self, name):
        model = gridworld_model(name, GridworldParams(0.0, 0.0, 1.0, 0.0))
        assert float(model.initial @ optimal_q(model, 0.99).max(-1)) > 0.5

    def test_a_fleet_has_a_fleet_of_models(self):
        environment = gridworld()
        fleet = jax.tree.map(lambda leaf: jnp.full(3, leaf), environment.params)
        fleet = fleet._replace(slip=jnp.array([0.0, 0.2, 0.6]))
        models = model_of(environment, fleet)
        one = model_of(environment, jax.tree.map(lambda leaf: leaf[2], fleet))
        jax.tree.map(lambda many, single: np.testing.assert_allclose(many[2], single), models, one)

    @pytest.mark.parametrize(("layout", "word"), [("9x9", "8x8"), ("S.\n.", "equally"), ("S..", "lacks"), ("", "map")])
    def test_what_is_no_map_is_refused(self, layout, word):
        with pytest.raises(ConfigError, match=word):
            gridworld(layout)


class TestPlanning:
    def test_a_two_state_process_has_the_values_worked_out_by_hand(self):
        """State 0 pays 1 to stay; state 1 pays 2 and stays. Moving over pays nothing at once: V* = (gamma 20, 20)."""
        model = tabular([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [[1, 0], [2, 2]], [1, 0]).params
        np.testing.assert_allclose(optimal_q(model, 0.9), [[17.2, 18.0], [20.0, 20.0]], rtol=1e-5)
        stay = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        np.testing.assert_allclose(policy_value(model, stay, 0.9), [10.0, 20.0], rtol=1e-5)
        half = jnp.full((2, 2), 0.5)
        np.testing.assert_allclose(policy_return(model, half, 0.9), (0.5 + 0.45 * 20) / (1 - 0.45), rtol=1e-5)

    def test_best_values_solve_the_optimality_equation_for_every_agent(self):
        model = family_of_three()
        best = optimal_q(model, 0.9)
        np.testing.assert_allclose(bellman(model, best, 0.9), best, rtol=1e-5)
        np.testing.assert_allclose(policy_value(model, greedy(best), 0.9), best.max(-1), rtol=1e-4)

    def test_a_discount_without_limit_is_refused(self):
        with pytest.raises(ConfigError, match=r"gamma is 1\.0"):
            optimal_q(windy_cliffs(0.5), 1.0)

    def test_an_environment_without_a_model_says_so(self):
        from fedrl.environments import cartpole

        with pytest.raises(ConfigError, match=r"cartpole\(\) has no exact model"):
            model_of(cartpole())
