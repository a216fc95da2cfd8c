"""Worlds on the host: rounds mean what they mean for compiled worlds, to the order of rows and the death of players."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.learner import Learner
from fedrl.engines.executors.host_evaluation import played_host
from fedrl.engines.simulate import simulate
from fedrl.environments import player_returns
from fedrl.environments.adapters import pettingzoo
from fedrl.federation.federate import federate
from fedrl.learners import mappo, mlp, normalize, per_player, ppo, reinforce
from fedrl.learners.parts.rollout import Sampler, collect, start
from fedrl.runs.evaluate import greedy_episodes
from tests.engines.test_host import RunProgress
from tests.support.worlds import mortal

AGENTS, COPIES, STEPS, PLAYERS = 3, 2, 7, 3
MORTAL = "tests.support.parallel_worlds:Mortal"


def recorder(environment, num_envs=COPIES, steps=STEPS) -> Learner:
    """A learner whose parameters record a trajectory: each number is weighed by its place, so no two may be swapped."""

    def choose(params, observation):
        return (jnp.sin(7.0 * observation[0] + 3.0 * observation[1] + params[0]) > 0.0).astype(jnp.int32)

    def learn(key, state, seen, context):
        def digest(x):
            x = jnp.asarray(x, jnp.float32)
            return (x * jnp.sin(jnp.arange(1.0, x.size + 1.0)).reshape(x.shape)).sum()

        alive = seen.observation[:, 0] * 0 + 1 if seen.alive is None else seen.alive
        parts = (*seen[:6], alive, seen.overview, seen.next_overview)
        return state._replace(params=state.params + jnp.stack([digest(x) for x in parts]) / 64), {}

    def gather(key, state):
        sampler = Sampler(lambda key, batch: (), lambda noise, seen: choose(state.params, seen))
        position = state.position
        seen, position, counts = collect(key, environment, state.env_params, sampler, steps, position, True)
        return seen, state._replace(position=position), counts

    return Learner(
        init=lambda key, given: RunProgress(jnp.zeros(9), start(key, environment, given, num_envs), given),
        collect=gather,
        learn=learn,
        act=lambda key, params, observation, greedy: choose(params, observation),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=num_envs * steps * PLAYERS,
        horizon=steps,
        num_envs=num_envs,
        reads_overview=True,
    )


def bonuses(environment):
    params = environment.params
    rest = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], AGENTS), params)
    return rest._replace(bonus=jnp.float32([0.5, 1.0, 2.0]))


def host_world(**given):
    return player_returns(pettingzoo(MORTAL, settings={"bonus": 1.0}, **given))


def rounds(environment, count=3, **given):
    learner = recorder(environment)
    with simulate(federate(learner, mean(), local_steps=2), bonuses(environment), **given) as simulation:
        state, sums = simulation.init(0), []
        for _ in range(count):
            state, result = simulation.round(state)
            assert not result.rejected
            sums.append({name: np.asarray(x) for name, x in result.metrics.items()})
        return np.asarray(simulation.params_of(state)), sums


def test_a_world_on_the_host_is_the_compiled_world():
    compiled, expected = rounds(mortal(filler=0.0))
    params, sums = rounds(host_world())
    np.testing.assert_allclose(params, compiled, rtol=1e-5, atol=1e-5)
    assert np.abs(np.delete(compiled, 4, -1)).min() > 1e-3  # every part of the trajectory counts; nothing is cut off
    for mine, theirs in zip(sums, expected, strict=True):
        for name in ("episodes", "episode_return", *(f"player_{i}_return" for i in (1, 2, 3))):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-5, err_msg=name)


def test_greedy_episodes_are_those_of_the_compiled_world():
    params = 0.1 * np.arange(9, dtype=np.float32)
    compiled, hosted = mortal(filler=np.nan), host_world()
    expected = greedy_episodes(recorder(compiled), bonuses(compiled), params, 3, 5)
    returns, sums, lengths, failures = played_host(recorder(hosted), bonuses(hosted), params, 3, 5)
    np.testing.assert_allclose(returns, expected.returns, rtol=1e-6)
    np.testing.assert_array_equal(lengths, expected.lengths)
    assert not failures
    for name in expected.sums:
        np.testing.assert_allclose(sums[name], expected.sums[name], rtol=1e-6)


SMALL = mlp([4])
LEARNERS = {
    "ppo": lambda env: ppo(env, num_envs=2, num_steps=8, num_epochs=1, num_minibatches=2, network=SMALL),
    "normalize": lambda env: normalize(
        mappo(env, num_envs=2, num_steps=8, num_epochs=1, num_minibatches=2, network=per_player(SMALL, 3))
    ),
    "reinforce": lambda env: reinforce(env, episodes_per_step=2, network=SMALL),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_of_worlds_learns_on_the_host(name):
    environment = host_world()
    learner = LEARNERS[name](environment)
    with simulate(federate(learner, mean()), bonuses(environment), workers=0) as simulation:
        state = simulation.init(0)
        before = jax.tree.leaves(simulation.params_of(state))
        state, seen = simulation.round(state)
        after = jax.tree.leaves(simulation.params_of(state))
    assert not seen.rejected
    assert all(np.isfinite(x).all() for x in after)
    assert any((np.asarray(x) != np.asarray(y)).any() for x, y in zip(before, after, strict=True))
