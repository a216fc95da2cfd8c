"""Convolutional networks for observations that are pictures or planes of a grid, `[height, width, channels]`.

    observation --> filters, activation --> ... --> flat --> mlp --> outputs

A convolution is written as one matrix product of its filters with all patches of all copies, `[patch, places]`, because
that is what XLA's CPU backend runs fast, also with a leading axis of agents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.environment import Box, Space
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.core.types import Key, Params
from fedrl.learners.parts.networks import ACTIVATIONS, Network, affine, mlp, orthogonal


@component("network", reference="LeCun et al. (1998), https://doi.org/10.1109/5.726791")
def conv(
    channels: Sequence[Count] = (16,),
    kernel: Count = 3,
    stride: Count = 1,
    hidden: Sequence[Count] = (128,),
    activation: str = "relu",
    output_activation: str | None = None,
) -> Network:
    """Build a network of convolutions without padding, followed by fully connected layers.

        y[i, j, o] = f(b[o] + sum_{u, v, c} w[o, u, v, c] x[s i + u, s j + v, c]),   s the stride

    With its defaults and ten by ten planes it is the network of MinAtar (Young & Tian 2019,
    https://arxiv.org/abs/1903.03176). Parameters are `{"filters", "layers"}`, `layers` as in `mlp`; filters have
    orthogonal initialisation, too.

    Args:
        channels: The number of filters of each convolution.
        kernel: The height and width of each filter.
        stride: The places by which a filter moves on.
        hidden: Width of each fully connected hidden layer.
        activation: That of all hidden layers, one of "tanh", "relu", "elu", "gelu", "silu".
        output_activation: The activation of the outputs of a policy, as in `mlp`.

    Raises:
        ConfigError: A count is below one, an activation is unknown, or observations are no `[height, width]` or
            `[height, width, channels]`, or smaller than a filter.

    >>> import jax, jax.numpy as jnp
    >>> network = conv((4, 8), hidden=(16,))
    >>> params = network.init(jax.random.key(0), Box((10, 10, 3)), 5, 1.0)
    >>> network.apply(params, jnp.ones((10, 10, 3, 7))).shape
    (5, 7)
    """
    check_one_of(activation, tuple(ACTIVATIONS), "activation")
    check_positive(kernel=kernel, stride=stride, **{f"channels[{i}]": count for i, count in enumerate(channels)})
    if not channels:
        raise ConfigError("channels is empty, so nothing is convolved. Give a number of filters, or use mlp.")
    return _before(mlp(hidden, activation, output_activation), channels, kernel, stride, activation)


def _before(head: Network, channels: Sequence[int], kernel: int, stride: int, activation: str) -> Network:
    """Return a network whose convolutions come before the layers of another one."""
    bend = ACTIVATIONS[activation]

    def init(key: Key, space: Space, outputs: int, gain: float) -> Params:
        height, width, depth = _planes(space)
        for_filters, for_head = jax.random.split(key)
        filters = []
        for k, count in zip(jax.random.split(for_filters, len(channels)), channels, strict=True):
            weight = math.sqrt(2.0) * orthogonal(k, count, kernel * kernel * depth)
            filters.append({"weight": weight, "bias": jnp.zeros(count)})
            height, width, depth = _places(height, kernel, stride), _places(width, kernel, stride), count
        layers = head.init(for_head, Box((height * width * depth,)), outputs, gain)
        return {"filters": tuple(filters), "layers": layers}

    def apply(params: Params, observation: jax.Array) -> jax.Array:
        planes = observation if observation.ndim == 4 else observation[:, :, None]
        x = jnp.moveaxis(planes, 2, 0)
        for layer in params["filters"]:
            patches = patches_of(x, kernel, stride)
            y = bend(affine(layer["weight"], layer["bias"], patches.reshape(patches.shape[0], -1)))
            x = y.reshape(-1, *patches.shape[1:])
        return head.apply(params["layers"], x)

    critic = None if head.critic is None else _before(head.critic, channels, kernel, stride, activation)
    return Network(init, apply, critic=critic)


def patches_of(x: jax.Array, kernel: int, stride: int) -> jax.Array:
    """Return the patches under a filter, `[kernel * kernel * channels, rows, columns, n]`, of `[channels, h, w, n]`."""
    rows, columns = (_places(size, kernel, stride) for size in x.shape[1:3])
    shifted = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return jnp.concatenate(shifted)


def _places(size: int, kernel: int, stride: int) -> int:
    """Return the number of places of a filter along an axis."""
    if size < kernel:
        raise ConfigError(
            f"kernel is {kernel}, and a convolution gets planes of {size} entries along an axis: the filter does not "
            "fit. Use a smaller kernel, a smaller stride or fewer convolutions."
        )
    return (size - kernel) // stride + 1


def _planes(space: Space) -> tuple[int, int, int]:
    if not isinstance(space, Box) or len(space.shape) not in (2, 3):
        raise ConfigError(
            f"Observations are {space}, and a convolution needs planes: a Box of [height, width] or [height, width, "
            "channels]. Use mlp for other observations."
        )
    height, width, *depth = space.shape
    return height, width, depth[0] if depth else 1
