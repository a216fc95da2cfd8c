"""Environment embeddings: a learned vector per agent that tells a shared network which environment it is in.

observation, embedding of the agent --> network --> outputs

personal(ppo(environment, network=with_embedding()), local=["embedding"])   train one network, an embedding per agent
freeze_except(..., ["embedding"])                                           new environment: train the embedding only
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box, Space
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, parameters_of
from fedrl.core.ranges import Count, Traced
from fedrl.core.subtrees import belonging, check_parts
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.networks import Network, mlp

JIN = "Jin et al. (2022), https://arxiv.org/abs/2204.02634"


@component("network", reference=JIN)
def with_embedding(network: Network = mlp(), size: Count = 4) -> Network:
    """Build a network that appends a learned vector to every observation, to tell agents' environments apart.

    The parameters are `{"embedding", "network"}`. The embedding starts at zero and is trained like any other weight;
    to give each agent its own, wrap the learner in `personal(learner, local=["embedding"])`.

    Args:
        network: Network that receives the observation and the embedding as one vector.
        size: Entries of the embedding.

    Raises:
        ConfigError: The size is below one, or the observations are discrete, so that nothing can be appended to them.
    """
    return _with_embedding(network, size)


def _with_embedding(network: Network, size: int) -> Network:
    def init(key: Key, space: Space, outputs: int, gain: float) -> Params:
        if not isinstance(space, Box):
            raise ConfigError(
                f"Observations are {space}, and an embedding is appended to a vector. Use an environment with "
                "observations in a Box, or keep another part personal, such as 'actor/0'."
            )
        wider = Box((math.prod(space.shape) + size,))
        return {"embedding": jnp.zeros((size,)), "network": network.init(key, wider, outputs, gain)}

    # Before the memory of a recurrent network, which reads it with what is observed.
    tail = network.memory + 1 if network.memory else 0

    def extended(
        function: Callable[[Params, jax.Array], jax.Array], axes: int
    ) -> Callable[[Params, jax.Array], jax.Array]:
        def with_vector(params: Params, observation: jax.Array) -> jax.Array:
            flat = observation.reshape(-1, *observation.shape[-axes:])
            vector = jnp.broadcast_to(params["embedding"][:, *[None] * axes], (size, *flat.shape[1:]))
            at = len(flat) - tail
            parts = [flat[:at], vector, flat[at:]] if tail else [flat, vector]
            return function(params["network"], jnp.concatenate(parts))

        return with_vector

    critic = None if network.critic is None else _with_embedding(network.critic, size)
    remember = None if network.remember is None else extended(network.remember, 1)
    unroll = None if network.unroll is None else extended(network.unroll, 2)
    return Network(init, extended(network.apply, 1), network.players, critic, network.memory, remember, unroll)


@component("learner", reference=JIN)
def freeze_except(learner: Traced[Learner], trainable: Sequence[str] = ("embedding",)) -> Learner:
    """Train some parts of the parameters and freeze the others, as for a trained policy in a new environment.

    Args:
        learner: Learner to wrap.
        trainable: Parts that are trained, such as "embedding" or "actor/-1".

    Raises:
        ConfigError: The parameters have no such part.
    """
    whole = parameters_of(learner)
    check_parts(whole, trainable, "trainable")
    paths = belonging(whole, trainable)

    def learn(key: Key, state: PyTree, experience: Experience, context: LocalContext) -> tuple[PyTree, Metrics]:
        # Frozen leaves are put back after the step: an optimiser moves parameters even where the gradient is zero
        # (momentum, decay, FedProx), so masking the gradient would not freeze them.
        after, metrics = learner.learn(key, state, experience, context)
        leaves, structure = jax.tree.flatten(learner.params(after))
        old = jax.tree.leaves(learner.params(state))
        mixed = [new if free else still for new, still, free in zip(leaves, old, paths, strict=True)]
        return learner.adopt(after, jax.tree.unflatten(structure, mixed)), metrics

    return replace(learner, learn=learn, gradient=None)
