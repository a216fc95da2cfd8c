"""What every environment of the catalogue promises, whatever it simulates."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl.environments
from fedrl.core.component import CATALOGUE, cite
from fedrl.core.environment import Box, Discrete, Product, Timestep
from fedrl.core.errors import ConfigError
from tests.support.argument_order import misplaced

INSTANCES = 4
PURE = {
    name: entry
    for (kind, name), entry in CATALOGUE.items()
    if kind == "environment"
    and re.match(r"fedrl\.environments\.(?!adapters)", entry.build.__module__)
    and name != "common_world"  # of a world that is in this list: tests/engines/test_common_world.py
}
EXAMPLES = {
    "joint_actions": {"world": fedrl.environments.foraging(players=2, foods=1, size=3)},
    "junction": {"vehicles": 5, "lanes": 2, "max_steps": 40},
    "tabular": {"transition": [[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.2, 0.8]]], "reward": [[0, 1], [2, 3]]},
}
OTHERS = {
    "foraging": {"players": 3, "foods": 1, "size": 4},
    "joint_actions": {"world": fedrl.environments.climbing()},
    "gridworld": {"layout": "..#\n#.G", "max_steps": 7},
    "junction": {"shield": False, "approach_m": 80.0},
    "navigation": {"players": 2},
    "platoon": {"cars": 3},
    "penalty": {"penalty": -10.0},
    "pursuit": {"players": 3, "size": 4},
    "random_mdp": {"kappa": 0.5, "agent": 1},
    "stag_hunt": {"hare": 2.0},
    "windy_cliff": {"theta": 1.0, "width": 3},
}
FOLKLORE = {"tabular"}


@functools.cache
def built(name):
    entry = PURE[name]
    required = [p.name for p in entry.signature.parameters.values() if p.default is inspect.Parameter.empty]
    assert set(required) <= set(EXAMPLES.get(name, {})), f"{name} needs arguments: add an example to EXAMPLES"
    return getattr(fedrl.environments, name)(**EXAMPLES.get(name, {}))


@functools.cache
def program(name, axis):
    """Take steps, starting over when an episode ends; the scan refuses a state whose type changes."""
    environment = built(name)

    def walk(for_reset, for_step, actions, params):
        reset = jax.vmap(environment.reset, (-1, axis), -1)
        move = jax.vmap(environment.step, (-1, axis, -1, -1), -1)
        opening, fresh = reset(for_reset, params)

        def step(state, inputs):
            noise, action = inputs
            timestep, state = move(noise, params, state, action)
            done = timestep.terminated | timestep.truncated
            return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state), timestep

        return opening, jax.lax.scan(step, fresh, (for_step, actions))[1]

    return jax.jit(walk)


def players(environment):
    """The axis of the players, the last one of what belongs to each of them; none for a single agent."""
    return () if environment.players is None else (environment.players,)


def own_params(environment):
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], INSTANCES, axis=0), environment.params)


@functools.cache
def inputs(name, seed=0):
    """Noise for a reset and for every step, and random actions; a little longer than the longest episode."""
    environment = built(name)
    key, steps, space = jax.random.key(seed), environment.max_steps + 3, environment.spaces.action
    for_reset = environment.draw_reset(jax.random.fold_in(key, 0), (INSTANCES,))
    for_step = environment.draw_step(jax.random.fold_in(key, 1), (steps, INSTANCES))
    for_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -2, 0), for_step)
    actions = chosen(np.random.default_rng(seed), space, steps, (*players(environment), INSTANCES))
    return for_reset, for_step, jnp.asarray(actions, space.dtype)


def chosen(generator, space, steps, rows):
    """Random actions, `[time, *action, *rows]`."""
    if isinstance(space, Product):
        parts = [chosen(generator, part, steps, rows) for part in space.parts]
        return np.concatenate([part.reshape(steps, -1, *rows) for part in parts], 1)
    shape = (steps, *space.shape, *rows)
    if isinstance(space, Discrete):
        return generator.integers(0, space.n, shape)
    return generator.uniform(max(space.low, -1.0), min(space.high, 1.0), shape)


def extremes_of(space, like):
    """The outermost actions, and those of zeros."""
    if isinstance(space, Product):
        first, last, zeros = zip(*[extremes_of(part, like[:, :1]) for part in space.parts], strict=True)
        return [
            jnp.concatenate([x for x, size in zip(side, space.sizes, strict=True) for _ in range(size)], 1)
            for side in (first, last, zeros)
        ]
    if isinstance(space, Discrete):
        return [jnp.zeros_like(like), jnp.full_like(like, space.n - 1), jnp.zeros_like(like)]
    return [jnp.full_like(like, -1e6), jnp.full_like(like, 1e6), jnp.zeros_like(like)]


@functools.cache
def walked(name):
    return program(name, 0)(*inputs(name), own_params(built(name)))


def kind(leaf):
    return leaf.shape, leaf.dtype, leaf.weak_type


@pytest.mark.parametrize("name", PURE)
class TestEnvironment:
    def test_one_step_shows_what_the_spaces_declare(self, name):
        environment = built(name)
        for_reset = environment.draw_reset(jax.random.key(0), ())
        for_step = environment.draw_step(jax.random.key(1), ())
        each, action = players(environment), environment.spaces.action
        action = jnp.zeros((*action.shape, *each), action.dtype)
        opening, state = jax.eval_shape(environment.reset, for_reset, environment.params)
        timestep, after = jax.eval_shape(environment.step, for_step, environment.params, state, action)
        assert type(opening) is type(timestep) is Timestep
        seen = environment.spaces.observation
        for shown in (opening, timestep):
            assert kind(shown.observation) == ((*seen.shape, *each), seen.dtype, False)
            assert kind(shown.reward) == (each, jnp.float32, False)
            assert shown.alive is None or kind(shown.alive) == (each, jnp.bool_, False)
            assert kind(shown.terminated) == kind(shown.truncated) == ((), jnp.bool_, False)
        assert jax.tree.map(kind, after) == jax.tree.map(kind, state)
        assert jax.tree.structure(after) == jax.tree.structure(state)

    def test_an_overview_is_in_the_space_it_declares(self, name):
        environment = built(name)
        if environment.overview is None:
            return
        space = environment.overview.space
        _, state = environment.reset(environment.draw_reset(jax.random.key(0), ()), environment.params)
        seen = environment.overview.see(environment.params, state)
        assert kind(seen) == (space.shape, jnp.float32, False)
        assert ((seen >= space.low) & (seen <= space.high)).all()

    def test_its_functions_take_their_arguments_in_the_one_order(self, name):
        assert misplaced(built(name)) == []

    def test_parameters_are_arrays_that_agents_can_differ_in(self, name):
        leaves = jax.tree.leaves(built(name).params)
        assert leaves
        for leaf in leaves:
            assert isinstance(leaf, jax.Array)
            assert not leaf.weak_type

    def test_noise_has_its_batch_axes_last(self, name):
        for draw in (built(name).draw_reset, built(name).draw_step):
            noise = jax.eval_shape(lambda key, draw=draw: draw(key, (5, 3)), jax.random.key(0))
            assert all(leaf.shape[-2:] == (5, 3) for leaf in jax.tree.leaves(noise))

    def test_own_and_shared_parameters_give_the_same_steps(self, name):
        _, shared = program(name, None)(*inputs(name), built(name).params)
        _, own = walked(name)
        few = 30  # Acrobot is chaotic
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:few], b[:few], rtol=1e-4, atol=1e-4), own, shared)

    def test_steps_are_determined_by_the_noise_and_compiled_once(self, name):
        again = program(name, 0)(*(jax.tree.map(jnp.array, part) for part in inputs(name)), own_params(built(name)))
        jax.tree.map(np.testing.assert_array_equal, walked(name), again)
        assert program(name, 0)._cache_size() == 1

    def test_every_episode_ends_in_time_and_in_one_way(self, name):
        _, timestep = walked(name)
        assert not (timestep.terminated & timestep.truncated).any()
        done = np.asarray(timestep.terminated | timestep.truncated)
        assert done[: built(name).max_steps].any(axis=0).all()
        assert not timestep.truncated[: built(name).max_steps - 1].any()

    def test_no_episode_opens_with_a_reward_or_an_end(self, name):
        opening, _ = walked(name)
        assert not opening.reward.any()
        assert opening.alive is None or opening.alive.all()
        assert not (opening.terminated | opening.truncated).any()

    def test_observations_stay_in_their_space_whatever_is_done(self, name):
        environment = built(name)
        for_reset, for_step, actions = inputs(name)
        space, seen = environment.spaces.action, environment.spaces.observation
        for acted in (actions, *extremes_of(space, actions)):
            opening, timestep = program(name, 0)(for_reset, for_step, acted, own_params(environment))
            assert np.isfinite(timestep.reward).all()
            for observation in (np.asarray(opening.observation), np.asarray(timestep.observation)):
                low, high = (seen.low, seen.high) if isinstance(seen, Box) else (0, seen.n - 1)
                assert np.isfinite(observation).all()
                assert (observation >= np.float32(low)).all()
                assert (observation <= np.float32(high)).all()

    def test_prints_as_its_constructor_call(self, name):
        for arguments in (EXAMPLES.get(name, {}), OTHERS.get(name, {})):
            if name in EXAMPLES and not arguments:
                continue
            environment = getattr(fedrl.environments, name)(**arguments)
            assert eval(repr(environment), dict(vars(fedrl.environments))) == environment

    def test_an_episode_without_steps_is_refused(self, name):
        if "max_steps" in PURE[name].signature.parameters:
            with pytest.raises(ConfigError, match="max_steps is 0"):
                getattr(fedrl.environments, name)(**{**EXAMPLES.get(name, {}), "max_steps": 0})

    def test_cites_its_source(self, name):
        if name in FOLKLORE:
            assert cite(built(name)) == []
        else:
            assert re.search(r"\(\d{4}\), \S+", cite(built(name))[0])


def test_the_catalogue_is_covered():
    assert {"cartpole", "gridworld", "lqr", "navigation", "probe_match", "tabular"} <= set(PURE)
