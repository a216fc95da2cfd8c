"""The games have their known optima, and no simulator is won by standing still."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments import (
    cartpole,
    climbing,
    exploitability,
    fleet,
    foraging,
    matching_pennies,
    navigation,
    penalty,
    player_returns,
    pursuit,
    rock_paper_scissors,
    stag_hunt,
)
from fedrl.environments.worlds.foraging import LOAD, ForagingParams, ForagingState, lifted
from fedrl.environments.worlds.grids import MOVES, distinct_cells
from fedrl.environments.worlds.navigation import contact_forces

EPISODES = 64


def inner(state):
    return inner(state.state) if hasattr(state, "state") else state


def episode_return(environment, policy, seed=0):
    """The mean return over episodes and players, of a policy `(state, random numbers) -> actions [players, copies]`."""
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    reset = jax.jit(jax.vmap(environment.reset, (-1, None), -1))
    step = jax.jit(jax.vmap(environment.step, (-1, None, -1, -1), -1))
    _, state = reset(environment.draw_reset(key, (EPISODES,)), environment.params)
    returned, over = np.zeros(EPISODES), np.zeros(EPISODES, bool)
    for time in range(environment.max_steps):
        action = jnp.asarray(policy(jax.device_get(inner(state)), rng), jnp.int32)
        noise = environment.draw_step(jax.random.fold_in(key, time + 1), (EPISODES,))
        timestep, state = step(noise, environment.params, state, action)
        returned += np.where(over, 0.0, np.asarray(timestep.reward).mean(0))
        over |= np.asarray(timestep.terminated | timestep.truncated)
    assert over.all()
    return returned.mean()


def toward(cells, target, rng):
    """The moves that bring players nearest to cells, at random among equals."""
    left = [np.abs(target - cells - np.array(move)[:, None, None]).sum(0) for move in MOVES]
    return (np.stack(left) + 0.1 * rng.random((len(MOVES), *cells.shape[1:]))).argmin(0)


def chasing(state, rng):
    return toward(state.hunters, state.prey[:, None], rng)


def covering(state, rng):
    """Every player goes to a landmark of its own, with the shortest way for all together."""
    del rng
    count = state.position.shape[1]
    apart = np.sqrt(np.square(state.position[:, :, None] - state.landmark[:, None]).sum(0))
    orders = np.array(list(itertools.permutations(range(count))))
    cost = np.stack([sum(apart[i, order[i]] for i in range(count)) for order in orders])
    goal = np.take_along_axis(state.landmark, orders[cost.argmin(0)].T[None].repeat(2, 0), 1)
    error = goal - state.position - 0.3 * state.velocity  # where it will be when it brakes
    axis = np.abs(error).argmax(0)
    along = np.take_along_axis(error, axis[None], 0)[0]
    return np.where(np.abs(along) < 0.03, 0, 1 + 2 * axis + (along < 0))


def gathering(state, rng):
    """All go to the food next to their middle, lift it together, and step aside now and then."""
    apart = np.abs(state.foods - state.cells.mean(1, keepdims=True)).sum(0) + np.where(state.weights > 0, 0, 1e6)
    goal = np.take_along_axis(state.foods, apart.argmin(0)[None, None].repeat(2, 0), 1)
    beside = np.abs(state.cells - goal).sum(0) == 1
    action = np.where(beside, LOAD, toward(state.cells, goal, rng))
    stray = ~beside & (rng.random(action.shape) < 0.3)
    return np.where(stray, rng.integers(1, len(MOVES), action.shape), action)


@pytest.mark.parametrize(
    ("environment", "good", "least", "most"),
    [
        (pursuit(), chasing, 0.8, -0.2),
        (navigation(), covering, -9.0, -18.0),
        (foraging(), gathering, 0.4, 0.25),
    ],
)
def test_a_good_policy_earns_far_more_than_a_random_one_or_one_that_stands_still(environment, good, least, most):
    actions, players = environment.spaces.action.n, environment.players
    assert episode_return(environment, good) > least
    assert episode_return(environment, lambda state, rng: np.zeros((players, EPISODES))) < most
    assert episode_return(environment, lambda state, rng: rng.integers(0, actions, (players, EPISODES))) < most


def earned(game, row, column):
    """What each player gets, and the measures."""
    _, state = game.reset(jnp.zeros(1), game.params)
    timestep, _ = game.step((), game.params, state, jnp.array([row, column]))
    assert timestep.terminated
    return np.asarray(timestep.reward).tolist(), timestep.measures


@pytest.mark.parametrize(
    ("game", "payoffs"),
    [
        (climbing(), {(0, 0): (11, 11), (1, 0): (-30, -30), (1, 1): (7, 7), (1, 2): (6, 6), (2, 1): (0, 0)}),
        (penalty(-50.0), {(0, 0): (10, 10), (1, 1): (2, 2), (0, 2): (-50, -50), (2, 2): (10, 10), (0, 1): (0, 0)}),
        (stag_hunt(), {(0, 0): (4, 4), (0, 1): (0, 3), (1, 0): (3, 0), (1, 1): (3, 3)}),
        (matching_pennies(), {(0, 0): (1, -1), (0, 1): (-1, 1), (1, 1): (1, -1)}),
        (rock_paper_scissors(), {(0, 0): (0, 0), (1, 0): (1, -1), (0, 1): (-1, 1), (0, 2): (1, -1)}),
    ],
)
def test_a_game_pays_what_its_table_says(game, payoffs):
    for (row, column), pay in payoffs.items():
        assert earned(game, row, column)[0] == list(pay)


def test_the_measures_of_games_tell_optima_and_equilibria():
    assert earned(climbing(), 0, 0)[1]["optimum"]
    assert not earned(climbing(), 1, 1)[1]["optimum"]
    assert earned(penalty(), 2, 2)[1]["optimum"]
    hares = earned(stag_hunt(), 1, 1)[1]
    assert hares["hare_hunts"]
    assert not hares["stag_hunts"]
    assert hares["player_2_return"] == 3.0
    assert earned(matching_pennies(), 0, 1)[1]["player_1_return"] == -1.0


@pytest.mark.parametrize(
    ("game", "equilibrium"),
    [
        (matching_pennies(), [0.5, 0.5]),
        (rock_paper_scissors(), [1 / 3] * 3),
        (stag_hunt(), [1.0, 0.0]),
        (stag_hunt(), [0.0, 1.0]),
        (climbing(), [0.0, 1.0, 0.0]),
    ],
)
def test_an_equilibrium_cannot_be_exploited_and_its_neighbours_can(game, equilibrium):
    point = np.array(equilibrium)
    assert exploitability(game.params.payoff, point, point) == pytest.approx(0.0, abs=1e-6)
    away = 0.7 * point + 0.3 * np.eye(len(point))[(point.argmax() + 1) % len(point)]
    assert exploitability(game.params.payoff, away, away) > 0.1


def test_agents_of_a_fleet_may_play_games_of_other_payoffs():
    games = fleet(penalty(), 3, {"penalty": [-100.0, -50.0, -10.0]}, jax.random.key(0))
    np.testing.assert_array_equal(games.payoff[:, 1, 0, 2], [-100.0, -50.0, -10.0])
    assert games.payoff.shape == (3, 2, 3, 3)


def test_cells_are_distinct_and_everywhere_alike():
    noise = jax.random.uniform(jax.random.key(0), (4, 3000))
    cells = np.asarray(jax.vmap(lambda one: distinct_cells(one, 3), -1, -1)(noise))
    numbers = cells[0] + 3 * cells[1]
    assert (np.diff(np.sort(numbers, axis=0), axis=0) > 0).all()
    counts = np.stack([np.bincount(each, minlength=9) for each in numbers])
    assert (np.square(counts - 3000 / 9) / (3000 / 9)).sum() < 4 * 8 + 4 * np.sqrt(2 * 4 * 8)


def test_food_is_lifted_together_and_shared_by_level():
    state = ForagingState(
        cells=jnp.array([[0, 2], [1, 1]]),  # both beside the first food, at (1, 1)
        levels=jnp.array([2, 1]),
        foods=jnp.array([[1, 4], [1, 4]]),
        weights=jnp.array([3, 1]),
        total=jnp.int32(4),
    )
    costs = ForagingParams(jnp.float32(0.0), jnp.float32(0.5))
    reward, eaten = lifted(state, jnp.array([True, True]), costs)
    np.testing.assert_allclose(reward, [2 / 3 * 3 / 4, 1 / 3 * 3 / 4], rtol=1e-6)
    np.testing.assert_array_equal(eaten, [True, False])
    reward, eaten = lifted(state, jnp.array([True, False]), costs)  # too heavy for the stronger one
    np.testing.assert_array_equal(reward, [-0.5, 0.0])
    assert not eaten.any()
    _, eaten = lifted(state._replace(weights=jnp.array([0, 1])), jnp.array([True, True]), costs)
    assert not eaten.any()


def test_players_that_overlap_push_each_other_off_and_only_those():
    force = np.asarray(contact_forces(jnp.array([[0.0, 0.2, 1.0], [0.0, 0.0, 0.0]])))
    np.testing.assert_allclose(force, [[-10.0, 10.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-3)
    assert np.isfinite(contact_forces(jnp.zeros((2, 3)))).all()


def test_a_world_without_room_or_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"players is 1, .* never end"):
        pursuit(players=1)
    with pytest.raises(ConfigError, match=r"size is 1, .* of which the grid has 1"):
        foraging(size=1)
    with pytest.raises(ConfigError, match=r"cartpole\(\) has a single agent, whose return is in all records"):
        player_returns(cartpole())
