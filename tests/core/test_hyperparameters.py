"""Numbers of components that may be inputs of programs: which they are, and how a component is built from others."""

import jax.numpy as jnp
import optax
import pytest

from fedrl.config.catalogue import components
from fedrl.core.component import call_of
from fedrl.core.hyperparameters import is_zero, numbers_of, pattern_of, with_numbers
from fedrl.environments import cartpole
from fedrl.learners import a2c, adam, chain, fedprox, normalize, personal, ppo, sgd

COMPUTED_IN_DOUBLE = {"adam.b1", "adam.b2", "rmsprop.smoothing"}
"""1 - b2 in float32 would be off by 5e-5 of it."""


def test_the_numbers_of_a_learner_are_those_of_its_parts_as_well():
    learner = ppo(cartpole(), optimizer=chain(fedprox(0.3), adam(0.004, max_norm=0.7)), gamma=0.9, clip=1)
    assert numbers_of(learner) == (0.3, 0.004, 1e-5, 0.7, 0.9, 0.95, 1.0, 0.5)
    assert numbers_of(personal(normalize(learner, limit=5.0), local=["moments"])) == (*numbers_of(learner), 0.99, 5.0)


def test_a_number_of_zero_and_parts_without_a_call_have_none():
    assert numbers_of(fedprox(0.0)) == numbers_of(optax.sgd(0.1)) == numbers_of(3.0) == ()
    assert 0.0 not in numbers_of(a2c(cartpole(), entropy_coef=0.0))
    assert is_zero(0.0)
    assert not is_zero(0.1)
    assert not is_zero(jnp.float32(0.0))


@pytest.mark.parametrize("kind", ["learner", "optimizer"])
def test_every_real_number_of_a_learner_is_an_input_except_those_computed_in_double_precision(kind):
    real = {
        f"{entry.name}.{name}": name in entry.traced
        for entry in components(kind)
        for name, bounds in entry.ranges.items()
        if not bounds.whole and entry.build.__module__.startswith("fedrl.")
    }
    assert real
    assert {name for name, is_input in real.items() if not is_input} <= COMPUTED_IN_DOUBLE


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (ppo(cartpole(), clip=0.1, gamma=0.5, optimizer=adam(1.0, max_norm=2.0)), True),
        (ppo(cartpole(), num_envs=4), False),
        (ppo(cartpole(), entropy_coef=0.1), False),  # its loss has one term more
        (ppo(cartpole(), optimizer=adam(0.0025)), False),
        (ppo(cartpole(), optimizer=adam(0.0025, b1=0.8, max_norm=0.5)), False),
        (ppo(cartpole(), optimizer=sgd(0.0025, max_norm=0.5)), False),
        (ppo(cartpole(max_steps=100)), False),
        (a2c(cartpole()), False),
    ],
)
def test_components_are_alike_if_they_differ_in_these_numbers_alone(other, alike):
    assert (pattern_of(other) == pattern_of(ppo(cartpole()))) == alike


def test_a_component_is_built_from_other_numbers():
    learner = ppo(cartpole(), optimizer=chain(fedprox(0.3), sgd(0.1)))
    other = with_numbers(learner, [0.2 * i for i in range(1, 7)])
    assert numbers_of(other) == tuple(0.2 * i for i in range(1, 7))
    assert repr(other).startswith("ppo(cartpole(), optimizer=chain(fedprox(0.2), sgd(0.4)), gamma=0.6")
    assert other.gamma == numbers_of(other)[2]
    assert with_numbers(learner, numbers_of(learner)) == learner
    assert call_of(with_numbers(fedprox(0.0), [])) == call_of(fedprox(0.0))


def test_a_component_built_from_arrays_keeps_its_call():
    learner = ppo(cartpole())
    traced = with_numbers(learner, [jnp.float32(x) for x in numbers_of(learner)])
    assert call_of(traced) == call_of(learner)
    assert traced == learner
    assert traced.gamma is not learner.gamma
