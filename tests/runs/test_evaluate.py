import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.learner import Learner
from fedrl.environments import gridworld
from fedrl.environments.fleet import fleet
from fedrl.learners import q_table
from fedrl.runs.evaluate import BLOCK, greedy_returns
from fedrl.studies.programs import counted

GRID = gridworld("S..G", max_steps=10)
RIGHT = 2


@pytest.fixture(scope="module")
def learner() -> Learner:
    return q_table(GRID)


def table(action: int) -> dict[str, jax.Array]:
    """A table in favour of one action everywhere."""
    return {"q": jnp.zeros((4, 4)).at[:, action].set(1.0)}


def test_the_return_is_that_of_the_first_episode_alone(learner: Learner) -> None:
    agents = fleet(GRID, 2, {"slip": 0.0, "goal_reward": [1.0, 5.0]})
    returns = greedy_returns(learner, agents, table(RIGHT), 3, 0)
    np.testing.assert_allclose(returns, [[0.97] * 3, [4.97] * 3], rtol=1e-5)


def test_an_episode_that_never_ends_is_cut_at_the_limit(learner: Learner) -> None:
    returns = greedy_returns(learner, fleet(GRID, 2, {"slip": 0.0}), table(0), 3, 0)
    np.testing.assert_allclose(returns, -0.1, rtol=1e-5)


def test_stacked_parameters_belong_to_one_agent_each(learner: Learner) -> None:
    each = jax.tree.map(lambda *x: jnp.stack(x), table(RIGHT), table(0))
    returns = greedy_returns(learner, fleet(GRID, 2, {"slip": 0.0}), each, 3, 0, stacked=True)
    np.testing.assert_allclose(returns[:, 0], [0.97, -0.1], rtol=1e-5)


def test_chance_depends_on_seed_and_agent_alone(learner: Learner) -> None:
    slippery = {"slip": 0.6}
    two, three = (greedy_returns(learner, fleet(GRID, n, slippery), table(RIGHT), 6, 7) for n in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    other = greedy_returns(learner, fleet(GRID, 2, slippery), table(RIGHT), 6, 8)
    assert not np.array_equal(two, other)
    assert not np.array_equal(two[0], two[1])


def test_fleets_of_any_size_share_a_program_and_its_bits(learner: Learner) -> None:
    slippery, devices = {"slip": 0.6}, len(jax.local_devices())
    with counted() as programs:
        many = greedy_returns(learner, fleet(GRID, 2 * BLOCK + 3, slippery), table(RIGHT), 5, 0)
    assert programs["play"] == devices
    with counted() as programs:
        for agents in (1, BLOCK, BLOCK + 1):
            some = greedy_returns(learner, fleet(GRID, agents, slippery), table(RIGHT), 5, 0)
            np.testing.assert_array_equal(some, many[:agents])
    assert programs["play"] == 0
    assert len(np.unique(many, axis=0)) > BLOCK  # every agent has chances of its own


def test_agents_of_every_block_play_with_their_own_parameters_in_their_own_environment(learner: Learner) -> None:
    agents = 2 * BLOCK + 3
    wins = np.arange(agents) % 3 != 0
    each = jax.tree.map(lambda *x: jnp.stack(x), *(table(RIGHT if won else 0) for won in wins))
    prizes = fleet(GRID, agents, {"slip": 0.0, "goal_reward": np.arange(1.0, agents + 1).tolist()})
    returns = greedy_returns(learner, prizes, each, 2, 0, stacked=True)
    np.testing.assert_allclose(returns[:, 0], np.where(wins, np.arange(agents) + 0.97, -0.1), rtol=1e-5)
