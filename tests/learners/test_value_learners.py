"""Deep Q-learning and value decomposition: errors by hand, what the buffer holds, and what they learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, Trajectory, behaviours_of
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole, climbing, common_world, gridworld, joint_actions, penalty, pendulum, pursuit
from fedrl.learners import adam, dqn, mlp, per_player, sgd, vdn
from fedrl.learners.algorithms.dqn import Transition, each_its_own, transitions
from fedrl.learners.algorithms.vdn import of_the_team
from tests.learners.test_games import LOGITS, OWN, played, trained
from tests.support.worlds import mortal

KEY = jax.random.key(0)
QUICK = {
    "num_envs": 16,
    "num_steps": 1,
    "num_updates": 1,
    "buffer_size": 2_000,
    "tau": 0.01,
    "epsilon_steps": 4_000,
    "learning_starts": 200,
    "optimizer": adam(0.02),
}
"""For games of one move, a gradient step for each of 16 plays."""


def batch(**given) -> Transition:
    """Two players and three samples: the second player dies in the second one and is dead in the third."""
    row = {
        "observation": jnp.zeros((3, 1, 2)),
        "action": jnp.zeros((3, 2), jnp.int32),
        "reward": jnp.array([[1.0, 3.0], [2.0, 4.0], [5.0, 0.0]]),
        "terminated": jnp.array([[False, False], [False, True], [False, False]]),
        "next_observation": jnp.zeros((3, 1, 2)),
        "alive": jnp.array([[True, True], [True, True], [True, False]]),
    }
    return Transition(**{**row, **given})


CHOSEN, AHEAD = jnp.array([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]]), jnp.array([[100.0, 200.0, 300.0], [5.0, 6.0, 7.0]])


def test_each_player_has_an_error_of_its_own():
    error, weight = each_its_own(batch(), CHOSEN, AHEAD, 0.5)
    np.testing.assert_allclose(error[0], [10 - 1 - 50, 20 - 2 - 100, 30 - 5 - 150])
    np.testing.assert_allclose(error[1, :2], [1 - 3 - 2.5, 2 - 4])
    np.testing.assert_array_equal(weight, [[1, 1, 1], [1, 1, 0]])


def test_the_team_has_the_error_of_a_sum():
    error, weight = of_the_team(batch(), CHOSEN, AHEAD, 0.5)
    np.testing.assert_allclose(error, [11 - 2 - 52.5, 22 - 3 - 100, 30 - 2.5 - 150])
    assert weight is None
    over = batch(terminated=jnp.ones((3, 2), bool), alive=jnp.ones((3, 2), bool))
    np.testing.assert_allclose(of_the_team(over, CHOSEN, AHEAD, 0.5)[0], [11 - 2, 22 - 3, 33 - 2.5])


def test_a_row_of_the_buffer_is_a_step_of_all_players_of_a_copy():
    time, players, copies = 2, 3, 4
    number = jnp.arange(time * players * copies, dtype=jnp.float32).reshape(time, players * copies)
    flag = number > 100
    seen = Trajectory(number[:, None], number.astype(jnp.int32), number, flag, flag, number[:, None] + 0.5)
    rows = transitions(seen, players, deaths=True)
    assert rows.observation.shape == (time * copies, 1, players)
    # Rows of a trajectory are player-major: player p of copy c is row p * copies + c.
    expected = [[t * 12 + p * 4 + c for p in range(players)] for t in range(time) for c in range(copies)]
    np.testing.assert_array_equal(rows.reward, expected)
    np.testing.assert_array_equal(rows.next_observation[:, 0], np.array(expected) + 0.5)
    assert rows.alive.all()
    assert transitions(seen, None, deaths=False).alive is None


def state_after(learner: Learner, iterations: int):
    """A state after some iterations, and the trajectories."""
    state, seen = learner.init(jax.random.key(0), learner.environment.params), []
    collect, learn = jax.jit(learner.collect), jax.jit(learner.learn)
    for i in range(iterations):
        experience, state, _ = collect(jax.random.key(i + 1), state)
        params = learner.params(state)
        context = LocalContext(params, jax.tree.map(jnp.zeros_like, params))
        state, metrics = learn(jax.random.key(i + 1), state, experience, context)
        seen.append((experience, metrics))
    return state, seen


def test_one_step_is_that_of_double_q_learning():
    network = mlp(hidden=[])
    learner = dqn(
        gridworld("S.G"), network=network, optimizer=sgd(0.1), num_envs=1, num_steps=1, num_updates=1, batch_size=4,
        buffer_size=1, gamma=0.5, tau=0.25, learning_starts=0,
    )  # fmt: skip
    state = learner.init(jax.random.key(0), learner.environment.params)
    weight, other = ({"weight": jnp.asarray(w, jnp.float32), "bias": jnp.zeros(4)} for w in (TABLE.T, OTHER.T))
    state = state._replace(params={"q": (weight,)}, target={"q": (other,)})
    one = jnp.array([[1]])
    seen = Trajectory(
        one - 1, jnp.array([[2]]), jnp.array([[3.0]]), jnp.array([[False]]), jnp.array([[True]]), jnp.array([[1]])
    )
    after, metrics = learner.learn(jax.random.key(1), state, seen, LocalContext(state.params, state.params))
    # Q chooses action 3 in state 1, whose value by the target network is 8: the time limit is no end.
    error = TABLE[0, 2] - 3.0 - 0.5 * 8.0
    assert float(metrics["loss"]) == pytest.approx(error**2)
    expected = TABLE.copy()
    expected[0, 2] -= 0.1 * 2 * error
    np.testing.assert_allclose(after.params["q"][0]["weight"].T, expected, rtol=1e-6)
    np.testing.assert_allclose(after.target["q"][0]["weight"].T, OTHER + 0.25 * (expected - OTHER), rtol=1e-6)


TABLE = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
OTHER = np.array([[5.0, 5.0, 5.0, 5.0], [70.0, 6.0, 7.0, 8.0], [0.0, 0.0, 0.0, 0.0]])


def test_exploration_falls_and_learning_waits():
    learner = dqn(
        cartpole(), network=mlp([4]), num_envs=2, num_steps=5, epsilon=0.1, epsilon_steps=40, learning_starts=30
    )
    state = learner.init(jax.random.key(0), learner.environment.params)
    assert float(behaviours_of(learner, state)[0]["epsilon"]) == 1.0
    after, seen = state_after(learner, 2)
    assert float(behaviours_of(learner, after)[0]["epsilon"]) == pytest.approx(0.55)
    assert [float(metrics["loss"]) for _, metrics in seen] == [0.0, 0.0]
    for one, other in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True):
        np.testing.assert_array_equal(one, other)
    after, seen = state_after(learner, 5)
    assert float(behaviours_of(learner, after)[0]["epsilon"]) == pytest.approx(0.1)
    assert float(seen[-1][1]["loss"]) > 0.0


def test_the_target_begins_where_the_agent_is_put_and_is_its_own_from_then_on():
    learner = dqn(cartpole(), network=mlp([4]), num_envs=2, num_steps=5, learning_starts=0)
    state = learner.init(jax.random.key(0), learner.environment.params)
    given = jax.tree.map(lambda x: x + 1.0, state.params)
    begun = learner.adopt(state, given)
    jax.tree.map(np.testing.assert_array_equal, begun.target, given)
    later, _ = state_after(learner, 1)
    jax.tree.map(np.testing.assert_array_equal, learner.adopt(later, given).target, later.target)


@pytest.mark.parametrize("make", [dqn, vdn])
def test_what_the_dead_do_changes_no_value(make):
    world = mortal()
    learner = make(
        world, network=mlp([4]), num_envs=4, num_steps=5, buffer_size=20, learning_starts=0, optimizer=sgd(0.1)
    )
    state = learner.init(jax.random.key(0), world.params)
    seen, state, _ = jax.jit(learner.collect)(jax.random.key(1), state)
    dead, noise = ~seen.alive, jax.random.normal(jax.random.key(2), seen.reward.shape)
    assert dead.any()
    changed = seen._replace(
        observation=jnp.where(dead[:, None], noise[:, None], seen.observation),
        next_observation=jnp.where(dead[:, None], noise[:, None], seen.next_observation),
        action=jnp.where(dead, 1 - seen.action, seen.action),
    )
    learn = jax.jit(lambda seen: learner.learn(jax.random.key(3), state, seen, LocalContext(state.params, ()))[0])
    one, other = (learn(x).params for x in (seen, changed))
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (one, state.params)), strict=True))
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_an_agent_in_a_common_world_learns_nothing_after_the_death_of_its_player():
    world = mortal()
    learner = dqn(
        common_world(world),
        network=mlp([4]),
        num_envs=4,
        num_steps=5,
        buffer_size=20,
        learning_starts=0,
        optimizer=sgd(0.1),
    )
    state = learner.init(jax.random.key(0), world.params)
    alive = jnp.broadcast_to(jnp.arange(5)[:, None] < 3, (5, 4))
    shown, flag = jax.random.normal(jax.random.key(1), (5, 2, 4)), jnp.zeros((5, 4), bool)
    seen = Trajectory(shown, jnp.ones((5, 4), jnp.int32), jnp.ones((5, 4)), flag, flag, shown, alive)
    changed = seen._replace(observation=jnp.where(alive[:, None], shown, 9.0), action=jnp.where(alive, 1, 0))
    learn = jax.jit(lambda seen: learner.learn(jax.random.key(3), state, seen, LocalContext(state.params, ()))[0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), learn(seen).params, learn(changed).params)


@pytest.mark.parametrize("network", [mlp([]), per_player(mlp([]), 2)])
def test_values_have_no_bounds_whatever_bounds_the_outputs_of_a_policy(network):
    bounded = mlp([], output_activation="tanh")
    bounded = bounded if network.players is None else per_player(bounded, network.players)
    made = [dqn(climbing(), network=each, epsilon=0.0) for each in (network, bounded)]
    params = {"q": jax.tree.map(lambda x: 9.0 * jnp.ones_like(x), made[0].init(KEY, climbing().params).params["q"])}
    # Tanh makes equal values of 9 and of 18, and the first of equal ones is the best.
    params["q"][0]["bias"] = params["q"][0]["bias"].at[..., 1].add(9.0)
    for learner in made:
        assert learner.act(KEY, params, jnp.ones((1, 4)), True).tolist() == [1] * 4


def test_what_has_no_values_of_actions_or_no_room_is_refused():
    with pytest.raises(ConfigError, match=r"The actions of pendulum\(\) are Box"):
        dqn(pendulum())
    with pytest.raises(ConfigError, match="buffer_size is 10, and an iteration writes 64 rows"):
        dqn(cartpole(), buffer_size=10)
    with pytest.raises(ConfigError, match=r"network has parameters for 3 players and .* has 2 players"):
        vdn(climbing(), network=per_player(mlp(), 3))


@pytest.mark.parametrize(
    ("learner", "settles"),
    [
        (dqn(joint_actions(climbing()), network=LOGITS, **QUICK), 11.0),
        (vdn(climbing(), network=OWN, **QUICK), 5.0),  # a sum of two values can't say that 11 takes both
        (vdn(penalty(0.0), network=OWN, **QUICK), 10.0),
    ],
    ids=["joint", "vdn", "vdn without penalty"],
)
def test_where_learners_of_values_settle_in_games(learner, settles):
    params, _ = trained(learner, iterations=1000, seeds=5)
    np.testing.assert_array_equal(played(learner, params, episodes=1), [settles] * 5)


def curve(learner: Learner, iterations: int, parts: int, seeds: int, episodes: int) -> np.ndarray:
    """The greedy returns of each seed after each part of the training, `[parts, seeds]`."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def go(state, number):
        def step(state, key):
            gathered, state, _ = learner.collect(jax.random.fold_in(key, 0), state)
            context = LocalContext(state.params, jax.tree.map(jnp.zeros_like, state.params))
            return learner.learn(jax.random.fold_in(key, 1), state, gathered, context)

        # The replay buffer of each seed holds other rows, so that one key for all seeds is enough.
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(number), iterations // parts))[0]

    states = jax.vmap(lambda key: learner.init(key, learner.environment.params))(
        jax.vmap(jax.random.key)(jnp.arange(seeds))
    )
    found = []
    for number in range(parts):
        states = go(states, number)
        found.append(played(learner, states.params, episodes))
    return np.array(found)


def test_dqn_balances_the_pole():
    learner = dqn(cartpole(max_steps=200), buffer_size=50_000, tau=0.003)
    found = curve(learner, iterations=800, parts=8, seeds=5, episodes=20)
    assert (found[4:].mean(0) > 140.0).all()  # the means of the last four of eight; at random it is 22


def test_vdn_learns_to_catch_a_prey_together():
    learner = vdn(pursuit(players=2, size=4), epsilon_steps=10_000, buffer_size=10_000, tau=0.01)
    found = curve(learner, iterations=500, parts=5, seeds=3, episodes=50)
    assert (found[3:].mean(0) > 0.85).all()  # still players get -0.49
