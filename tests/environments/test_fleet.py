"""Fleets of parameters and held-out settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Box, Discrete, Environment, Spaces, draw_nothing
from fedrl.core.errors import ConfigError
from fedrl.environments import cartpole, fleet, gridworld, held_out, random_mdp, tabular, windy_cliff, windy_cliffs
from fedrl.environments.settings import values_of

KEY = jax.random.key(4)


class Mixed(NamedTuple):
    rate: jax.Array
    count: jax.Array
    table: jax.Array


def mixed() -> Environment:
    params = Mixed(jnp.float32(0.5), jnp.int32(3), jnp.zeros(2))
    spaces = Spaces(Box((1,)), Discrete(2))
    return Environment(params, spaces, draw_nothing, draw_nothing, lambda *_: None, lambda *_: None, 1)


class TestFleet:
    def test_what_is_not_set_is_the_default_for_all(self):
        params = fleet(cartpole(), 3)
        assert jax.tree.map(lambda leaf: leaf.tolist(), params).gravity == [pytest.approx(9.8)] * 3
        assert {leaf.shape for leaf in params} == {(3,)}

    @pytest.mark.parametrize(
        ("setting", "agents", "expected"),
        [
            (0.25, 2, [0.25, 0.25]),
            (2, 2, [2, 2]),
            ([0.1, 0.7, 0.4], 3, [0.1, 0.7, 0.4]),
            ({"range": [1, 2]}, 5, [1, 1.25, 1.5, 1.75, 2]),
            ({"range": [1, 2]}, 1, [1.5]),
        ],
    )
    def test_values_are_as_set(self, setting, agents, expected):
        np.testing.assert_allclose(fleet(cartpole(), agents, {"length": setting}).length, expected, rtol=1e-6)

    def test_uniform_draws_fill_their_range(self):
        drawn = np.asarray(fleet(cartpole(), 2000, {"length": {"uniform": [0.2, 0.6]}}, KEY).length)
        assert 0.2 <= drawn.min() < 0.202
        assert 0.598 < drawn.max() <= 0.6
        assert drawn.mean() == pytest.approx(0.4, abs=0.01)

    def test_normal_draws_have_their_mean_and_deviation(self):
        drawn = np.asarray(fleet(cartpole(), 2000, {"length": {"normal": [3.0, 0.5]}}, KEY).length)
        assert drawn.mean() == pytest.approx(3.0, abs=0.05)
        assert drawn.std() == pytest.approx(0.5, abs=0.04)

    def test_grids_combine(self):
        settings = {"length": {"grid": [0.4, 0.6]}, "force": {"grid": [8, 9, 10]}, "gravity": 9.0}
        params = fleet(cartpole(), 6, settings)
        np.testing.assert_allclose(params.length, [0.4, 0.4, 0.4, 0.6, 0.6, 0.6], rtol=1e-6)
        np.testing.assert_allclose(params.force, [8, 9, 10, 8, 9, 10])

    def test_neither_more_agents_nor_more_settings_change_a_draw(self):
        few = fleet(cartpole(), 3, {"length": {"uniform": [0, 1]}}, KEY)
        settings = {"gravity": {"uniform": [0, 1]}, "length": {"uniform": [0, 1]}}
        many = fleet(cartpole(), 7, settings, KEY)
        np.testing.assert_array_equal(few.length, many.length[:3])
        assert not np.allclose(many.length, many.gravity)

    def test_dtypes_are_those_of_the_defaults(self):
        settings = {"rate": [1, 2], "count": {"range": [1, 2]}, "table": [[1, 2], [3, 4]]}
        for params in (fleet(mixed(), 2, settings), fleet(mixed(), 2)):
            assert [leaf.dtype for leaf in params] == [jnp.float32, jnp.int32, jnp.float32]
            assert not any(leaf.weak_type for leaf in params)
            assert params.table.shape == (2, 2)

    def test_whole_parameters_get_whole_draws_with_both_ends(self):
        counts = np.asarray(fleet(mixed(), 300, {"count": {"uniform": [1, 3]}}, KEY).count)
        assert set(counts) == {1, 2, 3}
        assert np.bincount(counts)[1:].min() > 70

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"lenght": 0.5}, ["'lenght' is no parameter of cartpole()", "Did you mean 'length'?"]),
            ({"length": {"rnage": [0, 1]}}, ["rnage", "Did you mean 'range'?"]),
            ({"length": {}}, ["length is {}", "Allowed: grid"]),
            ({"length": {"range": [0, 1], "grid": [1]}}, ["has one key"]),
            ({"length": [0.5, 0.6]}, ["(2,)", "With 4 agents it needs (4,)"]),
            ({"length": {"range": [1, 0]}}, ["[lowest, highest]"]),
            ({"length": {"range": [1, 2, 3]}}, ["[lowest, highest]"]),
            ({"length": {"normal": [1, -1]}}, ["standard deviation"]),
            ({"length": {"uniform": [0, 1]}}, ["needs a key"]),
            ({"length": "long"}, ["length is 'long'", "finite numbers"]),
            ({"length": float("nan")}, ["finite numbers"]),
            ({"length": [[1], [1, 2]]}, ["finite numbers"]),
            (
                {"length": {"grid": [1, 2]}, "force": {"grid": [1, 2, 3]}},
                ["length (2) x force (3) has 6 combinations for 4 agents", "Set the number of agents to 6"],
            ),
        ],
    )
    def test_what_does_not_fit_is_refused_with_its_cure(self, settings, words):
        with pytest.raises(ConfigError) as rejected:
            fleet(cartpole(), 4, settings)
        for word in words:
            assert word in str(rejected.value)

    def test_fractions_of_whole_parameters_are_refused(self):
        with pytest.raises(ConfigError, match="is an integer"):
            fleet(mixed(), 2, {"count": [1, 1.5]})

    def test_one_number_for_a_table_is_refused(self):
        with pytest.raises(ConfigError, match=r"table has shape \(2,\)"):
            fleet(mixed(), 2, {"table": 1.0})


class TestTabularFleets:
    def test_winds_are_set_by_the_argument_of_the_constructor(self):
        params = fleet(windy_cliff(), 3, {"theta": {"range": [0, 1]}})
        jax.tree.map(np.testing.assert_array_equal, params, windy_cliffs(jnp.array([0.0, 0.5, 1.0])))

    def test_a_family_of_random_processes_is_set_by_its_arguments(self):
        params = fleet(random_mdp(seed=5), 3, {"kappa": 0.4, "agent": {"range": [0, 2]}})
        for agent in range(3):
            one = random_mdp(seed=5, kappa=0.4, agent=agent).params
            jax.tree.map(lambda leaf, own, k=agent: np.testing.assert_array_equal(leaf[k], own), params, one)

    def test_tables_are_set_by_a_list_of_tables(self):
        two = tabular([[[0, 1]], [[1, 0]]], [[0], [1]])
        params = fleet(two, 2, {"reward": [[[0], [1]], [[5], [6]]]})
        np.testing.assert_array_equal(params.reward[1], [[5], [6]])

    def test_other_spaces_are_refused(self):
        with pytest.raises(ConfigError, match="width would change the number of states"):
            fleet(windy_cliff(), 2, {"width": [4, 5]})

    def test_the_length_of_an_episode_is_no_setting(self):
        with pytest.raises(ConfigError, match="max_steps"):
            fleet(windy_cliff(), 2, {"max_steps": 7})

    def test_a_wind_out_of_range_is_refused(self):
        with pytest.raises(ConfigError, match="theta is 2"):
            fleet(windy_cliff(), 2, {"theta": {"range": [0, 2]}})


class TestHeldOut:
    def test_draws_are_others_than_the_fleets(self):
        settings = {"length": {"uniform": [0.2, 0.6]}, "force": 9.0}
        trained = fleet(cartpole(), 5, settings, KEY)
        tested = held_out(cartpole(), 5, settings, KEY)
        assert not np.isclose(trained.length[:, None], tested.length).any()
        np.testing.assert_array_equal(tested.force, trained.force)

    @pytest.mark.parametrize("setting", [{"range": [0.2, 0.6]}, [0.6, 0.2, 0.3], {"grid": [0.2, 0.6]}])
    def test_values_lie_between_the_ends_of_what_was_set(self, setting):
        slip = np.asarray(held_out(gridworld(), 200, {"slip": setting}, KEY).slip)
        assert 0.2 <= slip.min() < 0.22
        assert 0.58 < slip.max() <= 0.6

    def test_a_list_of_arrays_has_no_ends(self):
        with pytest.raises(ConfigError, match="Give held-out settings of your own"):
            held_out(mixed(), 2, {"table": [[1, 2], [3, 4]]}, KEY)


def test_a_whole_number_beyond_its_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="2147483647"):
        values_of("site", [1, 2**32 + 1], 2, np.asarray(0, np.int32), None)
