"""The values that probe environments document are those of the episodes they play."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.environments import (
    probe_action,
    probe_choices,
    probe_constant,
    probe_discount,
    probe_match,
    probe_memory,
    probe_observation,
    probe_target,
    probe_truncation,
)

GAMMA = 0.9
VALUES = {
    probe_constant: {0: 1.0},
    probe_observation: {-1: -1.0, 1: 1.0},
    probe_discount: {0: GAMMA, 1: 1.0},
    probe_action: {0: 1.0},
    probe_match: {-1: 1.0, 1: 1.0},
    probe_target: {-1: 0.0, 1: 0.0},
    probe_choices: {-1: 1.0, 1: 1.0},
    probe_truncation: {0: 1 / (1 - GAMMA)},
}
BEST = {
    probe_action: lambda seen: jnp.int32(1),
    probe_match: lambda seen: jnp.int32(seen > 0),
    probe_target: lambda seen: jnp.float32([seen]),
    probe_choices: lambda seen: jnp.float32([seen > 0, seen]),
}
WORSE = {
    probe_action: (lambda seen: jnp.int32(0), -1.0),
    probe_match: (lambda seen: jnp.int32(seen < 0), -1.0),
    probe_target: (lambda seen: jnp.float32([seen + 0.5]), -0.25),
    probe_choices: (lambda seen: jnp.float32([seen < 0, seen + 0.5]), -1.25),
}


def played(environment, act, uniform):
    """What is seen on the way, and the rewards from there on; beyond a cut, the documented value counts."""
    timestep, state = environment.reset(jnp.array([uniform]), environment.params)
    seen, rewards = [float(timestep.observation[0])], []
    while not (timestep.terminated or timestep.truncated):
        timestep, state = environment.step((), environment.params, state, act(seen[-1]))
        rewards.append(float(timestep.reward))
        seen.append(float(timestep.observation[0]))
    beyond = VALUES[probe_truncation][0] if timestep.truncated else 0.0
    return {seen[i]: np.polyval([beyond, *rewards[i:][::-1]], GAMMA) for i in range(len(rewards))}


@pytest.mark.parametrize("probe", VALUES, ids=lambda probe: probe.__name__)
def test_best_play_earns_the_documented_values(probe):
    found = {}
    for uniform in (0.25, 0.75):
        found |= played(probe(), BEST.get(probe, lambda seen: jnp.int32(0)), uniform)
    assert found == {seen: pytest.approx(value, abs=1e-6) for seen, value in VALUES[probe].items()}


@pytest.mark.parametrize("probe", WORSE, ids=lambda probe: probe.__name__)
def test_worse_play_earns_less(probe):
    act, value = WORSE[probe]
    for uniform in (0.25, 0.75):
        assert list(played(probe(), act, uniform).values()) == [pytest.approx(value)]


@pytest.mark.parametrize("uniform", [0.25, 0.75])
@pytest.mark.parametrize("recalls", [True, False])
def test_the_probe_of_memory_shows_its_cue_once_and_pays_for_it_at_the_end(uniform, recalls):
    environment = probe_memory(3)
    timestep, state = environment.reset(jnp.array([uniform]), environment.params)
    cue = float(timestep.observation[0])
    assert cue == (-1.0 if uniform < 0.5 else 1.0)
    for step in range(4):
        action = jnp.int32((cue > 0) == (recalls or step < 3))
        timestep, state = environment.step((), environment.params, state, action)
        assert float(timestep.observation[0]) == 0.0
        assert float(timestep.reward) == (0.0 if step < 3 else 1.0 if recalls else -1.0)
        assert (bool(timestep.terminated), bool(timestep.truncated)) == (step == 3, False)


def test_only_the_probe_of_truncation_is_cut_off():
    for probe in VALUES:
        environment = probe()
        timestep, state = environment.reset(jnp.zeros(1), environment.params)
        action = jnp.zeros(environment.spaces.action.shape, environment.spaces.action.dtype)
        while not (timestep.terminated or timestep.truncated):
            timestep, state = environment.step((), environment.params, state, action)
        assert bool(timestep.truncated) == (probe is probe_truncation)


def test_agents_can_differ_in_the_scale_of_rewards():
    environment = probe_constant()
    params = jax.tree.map(lambda leaf: leaf * 3, environment.params)
    _, state = environment.reset(jnp.zeros(1), params)
    assert float(environment.step((), params, state, jnp.int32(0))[0].reward) == 3.0
