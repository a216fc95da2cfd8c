"""Federations with calibrated noise and nothing else, whose stages remember what they have added."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.aggregators import mean
from fedrl.core.component import component
from fedrl.core.learner import Learner, nothing_gathered, same_stream
from fedrl.core.stage import Noise, Stage
from fedrl.engines.state import SimulationState
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.stages import clip
from tests.support.quadratic import Valley, valley

SIGMA = 2.0


def fleet_of(agents: int) -> Valley:
    return Valley(np.ones((agents, 1), np.float32), np.zeros((agents, 1), np.float32))


@component("test double")
def at_rest(size: int, noise: Noise | None = None) -> Learner:
    """A learner that learns nothing: its loss is the ordinary noise that it drew, and `local_noise` the calibrated."""

    def learn(key, state, experience, context):
        del experience
        noise = jnp.float32(0) if context.noise is None else jax.random.normal(context.noise)
        return state, {"loss": jax.random.normal(key), "local_noise": noise}

    return Learner(
        init=lambda key, env_params: jnp.zeros(size),
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state,
        adopt=lambda state, params: params,
        environment=valley(1),
        samples=1,
        split_key=same_stream,
        noise=noise,
        episodic=noise is not None,
        clips_trajectories=None if noise is None else 1.0,  # it moves nothing
    )


@component("test double")
def noise_of_agents(sigma: float = SIGMA) -> Stage:
    def encode(key, context, shared, local, update):
        del context, shared
        drawn = sigma * jax.random.normal(key, update.value.shape)
        return update._replace(value=update.value + drawn), drawn

    return Stage(
        encode, lambda value: ((), jnp.zeros_like(value)), noise=Noise("a DpEvent", 1.0, "agent"), unbiased=True
    )


@component("test double")
def noise_of_the_server(sigma: float = SIGMA) -> Stage:
    def encode(key, context, shared, local, update):
        del key, context, shared
        return update, local

    def finish(key, shared, update):
        del shared
        drawn = sigma * jax.random.normal(key, update.value.shape)
        return update._replace(value=update.value + drawn), drawn

    return Stage(
        encode, lambda value: (jnp.zeros_like(value), ()), finish=finish, noise=Noise("a DpEvent", 1.0, "server")
    )


def noisy(size: int, *stages: Stage, in_steps: bool = False, local_steps: int = 1) -> Federation:
    """Noise after a clip, by agents and by the server unless `stages` say otherwise, and in local steps if wanted."""
    learner = at_rest(size, Noise("a DpEvent", 1.0, "agent", "trajectory") if in_steps else None)
    stages = stages or (noise_of_agents(), noise_of_the_server())
    return federate(learner, mean("uniform"), clip(1.0), *stages, local_steps=local_steps)


def of_agents(run_state: SimulationState, stage: int = 1) -> np.ndarray:
    """What each agent added last, `[agents, size]`."""
    rows = np.concatenate([np.asarray(block.stage_states[stage]) for block in run_state.blocks])
    numbers = np.concatenate([np.asarray(block.agent) for block in run_state.blocks])
    here = numbers >= 0
    return rows[here][np.argsort(numbers[here])]


def of_the_server(run_state: SimulationState, stage: int = -1) -> np.ndarray:
    """What the server added last, `[size]`."""
    return np.asarray(run_state.server.stage_states[stage])
