"""Animated GIF of a policy: one greedy episode, drawn by the environment's `picture` (extra `render`)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax

from fedrl.core.environment import AnyEnvironment, HostEnvironment, Picture, compiled
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.types import Key, Params, PyTree
from fedrl.records.files import write_atomically


def render(learner: Learner, env_params: PyTree, params: Params, key: Key, target: Path) -> float:
    """Write one greedy episode as an animated GIF and return its undiscounted return.

    Args:
        learner: The learner whose `act` chooses actions.
        env_params: Parameters of one environment.
        params: Parameters of the policy.
        key: Random key of the episode.
        target: File to write.

    Raises:
        ConfigError: The environment has no picture, or Pillow is missing.
        RunError: The file can't be written.
    """
    picture = _picture(learner.environment)
    states, returned = episode(learner, env_params, params, key)
    stride = max(1, len(states) // 250)  # long episodes skip frames, so that the file stays small
    frames = [picture.frame(state, env_params) for state in states[::stride]]
    film = io.BytesIO()
    frames[0].save(
        film, format="GIF", save_all=True, append_images=frames[1:], duration=picture.pause_ms * stride, loop=0
    )
    # Rendered in memory first, so that an error leaves no broken file.
    write_atomically(target, film.getvalue(), "Name another file.")
    return returned


def episode(learner: Learner, env_params: PyTree, params: Params, key: Key) -> tuple[list[Any], float]:
    """Return the states of one greedy episode, on the host, and its return."""
    environment = compiled(learner.environment)
    step = jax.jit(
        lambda k, policy, state, seen: environment.step(
            jax.tree.map(lambda x: x[..., 0], environment.draw_step(k, (1,))),
            env_params,
            state,
            learner.act(k, policy, seen[..., None], True)[..., 0],
        )
    )
    noise = jax.tree.map(lambda x: x[..., 0], environment.draw_reset(key, (1,)))
    timestep, state = jax.jit(environment.reset)(noise, env_params)
    states, returned = [jax.device_get(state)], 0.0
    for time in range(environment.max_steps):
        timestep, state = step(jax.random.fold_in(key, time), params, state, timestep.observation)
        states.append(jax.device_get(state))
        returned += float(timestep.reward)
        if timestep.terminated or timestep.truncated:
            break
    return states, returned


def _picture(environment: AnyEnvironment) -> Picture:
    """Return the environment's picture, or refuse an environment without one."""
    if isinstance(environment, HostEnvironment) or environment.picture is None:
        raise ConfigError(
            f"There is no picture of {environment!r}. An environment has to declare how it is drawn, in "
            "Environment.picture. Film cartpole() or gridworld(), or give the environment a picture."
        )
    return environment.picture
