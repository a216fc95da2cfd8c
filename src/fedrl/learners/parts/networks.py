"""Networks as two pure functions over plain pytrees, with features on the first axis and copies on the last.

With `[features, num_envs]`, the matrix products of both passes have the form that XLA's CPU backend runs fast
(measured: up to a quarter of the whole training time). `network` adapts any function of a single observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import Call, component, record, written
from fedrl.core.environment import Discrete, Space
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.core.types import Key, Params

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}


@record
class Network:
    """A function approximator.

    Attributes:
        init: `(key, space, outputs, gain) -> params`, for observations of this space and this number of outputs;
            `gain` scales the last layer.
        apply: `(params, observation) -> outputs`, from `[*features, num_envs]` to `[outputs, num_envs]`.
        players: The number of players of a world, if each has parameters of its own; every batch then has the same
            same number of rows for each of them, player by player.
        critic: The network of a learner's critic where it is another one, with parameters of the same shapes: without
            the activation of the outputs, which bounds actions. None: the critic's is this one.
        memory: The entries of the memory of a recurrent network, which reads `[observation, memory, begins]`, the last
            entry 1 where an episode begins; 0 for other networks.
        remember: `(params, observation) -> [memory, num_envs]`, the memory after a step; None without a memory.
        unroll: `(params, observation) -> outputs`, from `[entries, time, num_envs]` to `[outputs, time, num_envs]`: of
            the memories it reads that of the first step alone. None without a memory.
    """

    init: Callable[[Key, Space, int, float], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    players: int | None = None
    critic: Network | None = None
    memory: int = 0
    remember: Callable[[Params, jax.Array], jax.Array] | None = None
    unroll: Callable[[Params, jax.Array], jax.Array] | None = None
    call: Call | None = None


def critic_of(network: Network) -> Network:
    """Return the network of a critic beside an actor with this one."""
    return network if network.critic is None else network.critic


def network(init: Callable[[Key, Space, int, float], Params], apply: Callable[[Params, Any], jax.Array]) -> Network:
    """Build a network from an `apply(params, observation) -> [outputs]` that takes a single observation.

    >>> import jax.numpy as jnp
    >>> linear = network(lambda key, space, outputs, gain: jnp.zeros((outputs, *space.shape)), lambda w, x: w @ x)
    """
    return Network(init, jax.vmap(apply, (None, -1), -1))


@component("network", reference="Saxe et al. (2014), https://arxiv.org/abs/1312.6120")
def mlp(hidden: Sequence[Count] = (64, 64), activation: str = "tanh", output_activation: str | None = None) -> Network:
    """Build a network of fully connected layers with orthogonal initialisation; discrete observations are one-hot.

    With `output_activation = "tanh"`, the logits of discrete actions are within [-1, 1]: of n actions none is sampled
    with a probability over e^2 / (e^2 + n - 1), 0.88 for two, and the greedy action is the most probable one as ever.
    The means of continuous actions are bounded likewise. A critic has no activation at its output, since values have
    no such bounds.

    Args:
        hidden: Width of each hidden layer.
        activation: One of "tanh", "relu", "elu", "gelu", "silu".
        output_activation: The activation of the outputs of a policy, one of the same; None for none.

    >>> import jax, jax.numpy as jnp
    >>> from fedrl.core.environment import Box
    >>> bounded = mlp((8,), "relu", output_activation="tanh")
    >>> params = bounded.init(jax.random.key(0), Box((4,)), 2, 100.0)
    >>> float(jnp.abs(bounded.apply(params, jnp.ones((4, 1)))).max()) <= 1.0
    True
    """
    check_one_of(activation, tuple(ACTIVATIONS), "activation")
    if output_activation is not None:
        check_one_of(output_activation, tuple(ACTIVATIONS), "output_activation")
    bend = ACTIVATIONS[activation]

    def init(key: Key, space: Space, outputs: int, gain: float) -> Params:
        inputs = space.n if isinstance(space, Discrete) else math.prod(space.shape)
        sizes = (inputs, *hidden, outputs)
        gains = (math.sqrt(2.0),) * len(hidden) + (gain,)
        keys = jax.random.split(key, len(gains))
        return tuple(_layer(*each) for each in zip(keys, sizes, sizes[1:], gains, strict=False))

    def linear(params: Params, observation: jax.Array) -> jax.Array:
        width = params[0]["weight"].shape[-1]
        if jnp.issubdtype(observation.dtype, jnp.integer):
            observation = jax.nn.one_hot(observation, width, axis=0)
        x = observation.reshape(width, -1)
        for layer in params[:-1]:
            x = bend(affine(layer["weight"], layer["bias"], x))
        return affine(params[-1]["weight"], params[-1]["bias"], x)

    if output_activation is None:
        return Network(init, linear)
    last = ACTIVATIONS[output_activation]
    return Network(init, lambda params, observation: last(linear(params, observation)), critic=Network(init, linear))


@component("network", reference="policies of independent learners: Tan (1993)")
def per_player(network: Network = mlp(), players: Count = 2) -> Network:
    """Give each player of a world parameters of its own, an array's first axis being the players'.

    Without it, all players act with the same parameters (parameter sharing), and only what they observe tells them
    apart.

    Args:
        network: The architecture, the same for each player.
        players: The number of players of the world.

    Raises:
        ConfigError: `players` is below one, or `network` has players already.
    """
    check_positive(players=players)
    if network.players is not None:
        raise ConfigError(
            f"{written(network)} has parameters of {network.players} players already. Give per_player a network of "
            "one player, such as mlp()."
        )

    return _per_player(network, players)


def _per_player(network: Network, players: int) -> Network:
    def init(key: Key, space: Space, outputs: int, gain: float) -> Params:
        return jax.vmap(lambda k: network.init(k, space, outputs, gain))(jax.random.split(key, players))

    def dealt(function: Callable[[Params, jax.Array], jax.Array]) -> Callable[[Params, jax.Array], jax.Array]:
        def each(params: Params, observation: jax.Array) -> jax.Array:
            count = observation.shape[-1]
            if count % players:
                raise ConfigError(
                    f"{count} observations came, and each of {players} players acts by parameters of its own, so that "
                    "it has to be known whose they are. Give those of all players at once, player by player."
                )
            apart = observation.reshape(*observation.shape[:-1], players, -1)
            outputs = jax.vmap(function, (0, -2), -2)(params, apart)
            return outputs.reshape(*outputs.shape[:-2], count)

        return each

    critic = None if network.critic is None else _per_player(network.critic, players)
    remember = None if network.remember is None else dealt(network.remember)
    unroll = None if network.unroll is None else dealt(network.unroll)
    return Network(init, dealt(network.apply), players, critic, network.memory, remember, unroll)


def _layer(key: Key, inputs: int, outputs: int, gain: float) -> dict[str, jax.Array]:
    return {"weight": gain * orthogonal(key, outputs, inputs), "bias": jnp.zeros((outputs,), jnp.float32)}


def orthogonal(key: Key, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Return a uniformly random matrix with orthonormal rows, or orthonormal columns if there are fewer of these.

    >>> import jax, jax.numpy as jnp
    >>> weight = orthogonal(jax.random.key(0), 3, 8)
    >>> bool(jnp.allclose(weight @ weight.T, jnp.eye(3), atol=1e-6))
    True
    """
    # Gram-Schmidt on Gaussian vectors, and not a QR decomposition: XLA's QR on a CPU hands its batch to the thread pool
    # it runs in and waits there, so that two blocks initialised at once on two cores deadlock. It also takes seconds to
    # compile. Each vector is orthogonalised twice, because once is not accurate enough in float32.
    few, many = sorted((rows, columns))

    def settle(i: jax.Array, vectors: jax.Array) -> jax.Array:
        earlier = jnp.where(jnp.arange(few)[:, None] < i, vectors, 0.0)
        vector = vectors[i]
        for _ in range(2):
            vector = vector - (earlier @ vector) @ earlier
            vector = vector / jnp.sqrt(jnp.square(vector).sum())
        return vectors.at[i].set(vector)

    vectors = jax.lax.fori_loop(0, few, settle, jax.random.normal(key, (few, many)))
    return vectors if rows == few else vectors.T


@jax.custom_vjp
def affine(
    weight: Float[Array, "outputs inputs"], bias: Float[Array, " outputs"], x: Float[Array, "inputs instances"]
) -> Float[Array, "outputs instances"]:
    """Return `weight @ x + bias`, with a backward pass in the form that XLA's CPU backend runs fast."""
    return weight @ x + bias[:, None]


def _affine_forward(weight: jax.Array, bias: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return weight @ x + bias[:, None], (weight, x)


def _affine_backward(saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    weight, x = saved
    # Without the barrier, XLA folds the transpose into the product, which is then of the slow kind.
    transposed = jax.lax.optimization_barrier(weight.T)
    by_weight = jax.lax.dot_general(slope, x, (((1,), (1,)), ((), ())))
    # The gradient of the bias is a sum, written as a product because that is faster. The ones depend on the agent: one
    # product for all agents of a block would sum the last rows in another order, so that seats would differ in bits.
    ones = slope[:1] * 0.0 + 1.0
    by_bias = jax.lax.dot_general(slope, ones, (((1,), (1,)), ((), ())))
    return by_weight, by_bias[:, 0], transposed @ slope


affine.defvjp(_affine_forward, _affine_backward)
