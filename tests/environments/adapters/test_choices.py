"""Actions of several choices: rows of entries within fedrl, elements of their space at the door of an environment."""

import gymnasium as gym
import jax
import numpy as np
import pytest

from fedrl.core.environment import Box, Discrete, Product
from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import gymnasium
from fedrl.environments.adapters.entries import element_of, entries_of, leaves
from fedrl.learners import q_table
from fedrl.runs.spaces import actions_of, check_alike, gymnasium_spaces, learned_spaces, space_of, space_table
from tests.support.choices import SPACES, Choosing, flat

CHOOSING = "tests.support.choices:Choosing"
KINDS = pytest.mark.parametrize("kind", SPACES)


def opened(kind, workers, count=3):
    environment = gymnasium(CHOOSING, max_steps=20, options={"kind": kind})
    return environment, environment.open(
        jax.tree.map(lambda leaf: np.broadcast_to(leaf, count), environment.params), workers
    )


def rows_of(space, count=3, steps=5):
    """Random entries of actions, `[steps, count, entries]`, counted from 0 and beyond the bounds."""
    random = np.random.default_rng(0)
    parts = [
        random.integers(0, part.n, (steps, count, 1))
        if isinstance(part, Discrete)
        else random.normal(0.0, 3.0, (steps, count, *part.shape))
        for part in space.parts
    ]
    return np.concatenate([part.reshape(steps, count, -1) for part in parts], -1).astype(space.dtype)


@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_gets_elements_of_its_space_also_in_worker_processes(kind, workers):
    environment, instances = opened(kind, workers)
    assert instances.reset([1, 2, 3]).shape == (3, 8)
    exact = SPACES[kind]
    bounds = [
        (0.0, 0.0, part.start)
        if isinstance(part, gym.spaces.Discrete)
        else (float(part.low.min()), float(part.high.max()), 0.0)
        for part in leaves(exact)
        for _ in range(int(np.prod(part.shape)))
    ]
    for action in rows_of(environment.spaces.action):
        after = instances.step(action)
        assert not instances.failed
        expected = [
            [
                x + first if low == high else np.clip(x, low, high)
                for x, (low, high, first) in zip(row, bounds, strict=True)
            ]
            for row in action.tolist()
        ]
        np.testing.assert_allclose(after.next_observation[:, : action.shape[-1]], expected, rtol=1e-6)
    instances.close()


@KINDS
def test_the_space_of_a_learner_has_a_part_for_each_choice(kind):
    space = gymnasium(CHOOSING, max_steps=20, options={"kind": kind}).spaces.action
    expected = {
        "multi_discrete": Product((Discrete(3), Discrete(2))),
        "matrix": Product((Discrete(3), Discrete(2), Discrete(2), Discrete(2))),
        "multi_binary": Product((Discrete(2),) * 3),
        "tuple": Product((Discrete(3), Box((2,), -1.0, 2.0))),
        "dict": Product((Box((1,), -1.0, 1.0), Discrete(3), Discrete(2), Discrete(2), Discrete(4))),
    }
    assert space == expected[kind]


@KINDS
def test_a_batch_of_elements_is_an_element_of_batches(kind):
    space = SPACES[kind]
    rows = rows_of(gymnasium(CHOOSING, max_steps=20, options={"kind": kind}).spaces.action)[0]
    batch, each = element_of(space)(rows), [element_of(space)(row) for row in rows]
    assert all(space.contains(one) for one in each)
    np.testing.assert_array_equal(entries_of(space, batch), [flat(one) for one in each])
    assert flat(actions_of(space, rows, single=True)) == flat(each[0])


@KINDS
def test_a_space_survives_its_table(kind):
    again = space_of(space_table(SPACES[kind]))
    assert again == SPACES[kind]
    spaces = gymnasium_spaces(gymnasium(CHOOSING, max_steps=20, options={"kind": kind}))
    assert learned_spaces(spaces._replace(action=again)) == learned_spaces(spaces)


def test_policies_act_only_where_choices_are_alike():
    ours = [gymnasium_spaces(gymnasium(CHOOSING, max_steps=20, options={"kind": kind})) for kind in SPACES]
    for one in ours:
        check_alike(one, one, "itself")
        for other in ours:
            if other is not one:
                with pytest.raises(ConfigError, match="actions in"):
                    check_alike(one, other, "another")


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Text(3),
        gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Sequence(gym.spaces.Discrete(2))]),
        gym.spaces.Dict(a=gym.spaces.Box(0.0, 1.0, (0,))),
    ],
)
def test_actions_without_a_fixed_number_of_entries_are_refused(space, monkeypatch):
    monkeypatch.setitem(SPACES, "other", space)
    with pytest.raises(ConfigError, match=r"MultiDiscrete|at least one entry"):
        gymnasium(Choosing, max_steps=20, options={"kind": "other"})


def test_a_table_has_no_column_for_choices_at_once():
    with pytest.raises(ConfigError, match="not for each of several choices"):
        q_table(gymnasium(CHOOSING, max_steps=20, options={"kind": "multi_discrete"}))
