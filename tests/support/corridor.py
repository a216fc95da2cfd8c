"""A deterministic environment whose every number can be told by hand."""

from typing import NamedTuple

import jax.numpy as jnp

from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first


class CorridorParams(NamedTuple):
    start: jnp.ndarray


class CorridorState(NamedTuple):
    at: jnp.ndarray
    steps: jnp.ndarray


def corridor(length: int = 3, max_steps: int = 5) -> Environment:
    """Action 1 walks on, action 0 stands still. Reward: where it stands after the step. Ends beyond `length`."""

    def reset(noise, params):
        del noise
        state = CorridorState(params.start, jnp.int32(0))
        return first(state.at[None]), state

    def step(noise, params, state, action):
        del noise, params
        at, steps = state.at + action, state.steps + 1
        over = at >= length
        return Timestep(at[None], at, over, (steps >= max_steps) & ~over), CorridorState(at, steps)

    spaces = Spaces(Box((1,)), Discrete(2))
    return Environment(CorridorParams(jnp.float32(0)), spaces, draw_nothing, draw_nothing, reset, step, max_steps)
