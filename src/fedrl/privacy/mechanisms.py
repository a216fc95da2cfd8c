"""Stages that clip an update and add noise whose privacy loss is known: at the server, or at each agent.

    central   agent: clip to C --sum-->  server: (sum + z C noise) / n        the server is trusted with single updates
    local     agent: clip to C, + z C noise                                   nobody is

Each constructor returns the clip, the noise and what it costs together. z, the noise multiplier, follows from a budget
and the number of rounds: `[federation.privacy]` calculates it.

The unit of privacy is an agent with all that it ever saw, or one trajectory, which a learner has clipped already. At
the server, neighbouring datasets differ by one unit ("add-remove"), whose contribution has norm C at most. An agent
that adds its own noise sends something in any case, so there another agent's data take the place of its own
("replace-one"), which moves its update by 2 C at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from fedrl.core import draws
from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.ranges import Positive
from fedrl.core.stage import Noise, Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.privacy.extra import accounting
from fedrl.privacy.server_sums import over_expected
from fedrl.stages.clip import clipped, l1_norm_of, norm_of
from fedrl.stages.leaves import PLACES, check_not_encoded, is_real

CLIPPINGS, UNITS = ("flat", "per_layer"), ("agent", "trajectory")
Unit = Literal["agent", "trajectory"]


class NoiseKind(NamedTuple):
    """A distribution of noise, with the norm in which it measures sensitivity.

    Attributes:
        draw: `(key, shape) -> noise` of scale 1.
        norm: `value -> norm`.
        event: `multiplier -> DpEvent` of one release.
    """

    draw: Callable[[Key, tuple[int, ...]], jax.Array]
    norm: Callable[[PyTree], jax.Array]
    event: Callable[[float], Any]


GAUSSIAN = NoiseKind(draws.normal, norm_of, lambda z: accounting().GaussianDpEvent(z))
LAPLACE = NoiseKind(draws.laplace, l1_norm_of, lambda b: accounting().LaplaceDpEvent(b))


@component("stage", reference="McMahan et al. (2018), https://arxiv.org/abs/1710.06963")
def central_gaussian(
    clip: Positive | tuple[Positive, ...],
    noise_multiplier: Positive,
    expected: Positive,
    clipping: str = "flat",
    unit: str = "agent",
) -> Stage:
    """Clip each update on its agent, and add Gaussian noise to the sum at the server, once per round.

        x_k <- x_k min(1, C / ||x_k||_2)         x = (sum_k x_k + z C e) / n,    e ~ N(0, I)

    The divisor n is fixed: dividing by the number of agents that came would reveal it, and noise would not cover it.

    Args:
        clip: C, in units of the parameters; or one C_k per agent, for agents with a stronger guarantee than z gives:
            the noise is that of the largest one. With unit "trajectory", the largest change of an agent's gradient by
            one trajectory, which the learner has to enforce (`Learner.clips_trajectories`).
        noise_multiplier: z, the standard deviation of the noise in units of the (largest) C.
        expected: n, the number of agents expected in a round: all of them, or with sampling rate q that share of them.
        clipping: "flat", all arrays together; or "per_layer", each of L arrays to C / sqrt(L).
        unit: "agent" or "trajectory".

    Raises:
        ConfigError: An argument is out of range, or dp_accounting is not installed.

    >>> central_gaussian(clip=0.5, noise_multiplier=2.0, expected=10).noise.at
    'server'
    """
    return _central(GAUSSIAN, clip, noise_multiplier, expected, clipping, checked_unit(unit))


@component("stage", reference="Dwork et al. (2006), https://doi.org/10.1007/11681878_14")
def central_laplace(
    clip: Positive | tuple[Positive, ...], noise_multiplier: Positive, expected: Positive, clipping: str = "flat"
) -> Stage:
    """Clip each update on its agent in the L1 norm, and add Laplace noise to the sum at the server, once per round.

        x_k <- x_k min(1, C / ||x_k||_1)         x = (sum_k x_k + b C e) / n,    e ~ Laplace(1)

    Each round is 1/b-differentially private, with delta = 0. In d dimensions the L1 norm is up to sqrt(d) times the L2
    norm, so this is for few parameters, such as tables of Q-values.

    Args:
        clip: C, in units of the parameters; or one per agent, as of `central_gaussian`.
        noise_multiplier: b, the scale of the noise in units of the (largest) C.
        expected: n, the number of agents expected in a round.
        clipping: "flat", all arrays together; or "per_layer", each of L arrays to C / L.

    Raises:
        ConfigError: An argument is out of range, or dp_accounting is not installed.

    >>> central_laplace(clip=0.5, noise_multiplier=2.0, expected=10).noise.event.noise_multiplier
    2.0
    """
    return _central(LAPLACE, clip, noise_multiplier, expected, clipping, "agent")


@component("stage", reference="Kasiviswanathan et al. (2011), https://arxiv.org/abs/0803.0924")
def local_gaussian(
    clip: Positive | tuple[Positive, ...], noise_multiplier: Positive, clipping: str = "flat", unit: str = "agent"
) -> Stage:
    """Clip each update on its agent, and add Gaussian noise there; the server sees nothing without it.

        x_k <- x_k min(1, C / ||x_k||_2) + z C e_k,    e_k ~ N(0, I)

    The noise of n agents averages to z C / sqrt(n), where that of a server which they trust is z C / n.

    Args:
        clip: C, in units of the parameters; or one per agent, as of `central_gaussian`. With unit "trajectory", the
            largest change of an agent's gradient by one trajectory.
        noise_multiplier: z, the standard deviation of the noise in units of the (largest) C.
        clipping: "flat", all arrays together; or "per_layer", each of L arrays to C / sqrt(L).
        unit: "agent" or "trajectory".

    Raises:
        ConfigError: An argument is out of range, or dp_accounting is not installed.

    >>> local_gaussian(clip=0.5, noise_multiplier=2.0).noise.relation
    'replace-one'
    """
    return _local(GAUSSIAN, clip, noise_multiplier, clipping, checked_unit(unit))


@component("stage", reference="Duchi, Jordan & Wainwright (2013), https://arxiv.org/abs/1302.3203")
def local_laplace(clip: Positive | tuple[Positive, ...], noise_multiplier: Positive, clipping: str = "flat") -> Stage:
    """Clip each update on its agent in the L1 norm, and add Laplace noise there.

        x_k <- x_k min(1, C / ||x_k||_1) + b C e_k,    e_k ~ Laplace(1)

    Each round is 2/b-differentially private, with delta = 0: an agent's data may change its update by 2 C.

    Args:
        clip: C, in units of the parameters; or one per agent, as of `central_gaussian`.
        noise_multiplier: b, the scale of the noise in units of the (largest) C.
        clipping: "flat", all arrays together; or "per_layer", each of L arrays to C / L.

    Raises:
        ConfigError: An argument is out of range, or dp_accounting is not installed.

    >>> local_laplace(clip=0.5, noise_multiplier=2.0).noise.event.noise_multiplier
    1.0
    """
    return _local(LAPLACE, clip, noise_multiplier, clipping, "agent")


def checked_unit(unit: str) -> Unit:
    """Return the unit of privacy; refuse any other word."""
    check_one_of(unit, UNITS, "unit")
    return cast(Unit, unit)


def _central(
    kind: NoiseKind,
    clip: float | tuple[float, ...],
    multiplier: float,
    expected: float,
    clipping: str,
    unit: Unit,
) -> Stage:
    # Indices of a sparse update are no numbers to clip; the noise is added to what the server decodes.
    clip_to, bound = _clip(kind, clip, clipping, unit, PLACES), largest_clip(clip)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, server_state
        return update._replace(value=clip_to(update.value, context.agent)), agent_state

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        summed = over_expected(update, expected)
        return update._replace(
            value=draws.with_noise(kind.draw, key, summed, multiplier * bound / expected)
        ), server_state

    noise = Noise(kind.event(multiplier), bound, "server", unit, each=_each(kind, multiplier, clip))
    return Stage(encode, finish=finish, noise=noise, clips=bound if unit == "agent" else None)


def _local(kind: NoiseKind, clip: float | tuple[float, ...], multiplier: float, clipping: str, unit: Unit) -> Stage:
    clip_to, bound = _clip(kind, clip, clipping, unit, ()), largest_clip(clip)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del server_state
        value = clip_to(update.value, context.agent)
        return update._replace(value=draws.with_noise(kind.draw, key, value, multiplier * bound)), agent_state

    if unit == "agent":
        each = _each(kind, multiplier / 2.0, clip)
        noise = Noise(kind.event(multiplier / 2.0), bound, "agent", unit, "replace-one", each)
    else:
        noise = Noise(kind.event(multiplier), bound, "agent", unit, each=_each(kind, multiplier, clip))
    return Stage(encode, noise=noise, clips=bound if unit == "agent" else None)


def _each(kind: NoiseKind, multiplier: float, clip: float | tuple[float, ...]) -> tuple[Any, ...]:
    """Return the event of each agent: the same noise is more, in units of a smaller clip."""
    return tuple(kind.event(multiplier * max(clip) / own) for own in clip) if isinstance(clip, tuple) else ()


def largest_clip(clip: float | tuple[float, ...]) -> float:
    """Return the clip for which noise is calibrated."""
    return max(clip) if isinstance(clip, tuple) else clip


def _clip(
    kind: NoiseKind, clip: float | tuple[float, ...], clipping: str, unit: str, allowed: Sequence[Any]
) -> Callable[[PyTree, jax.Array], PyTree]:
    """Return `(value, agent) -> value` with a norm of at most the agent's C; unchanged if the unit is a trajectory."""
    check_one_of(clipping, CLIPPINGS, "clipping")

    def clip_to(value: PyTree, agent: jax.Array) -> PyTree:
        check_not_encoded(value, "a stage with noise", allowed)
        if unit == "trajectory":
            return value
        bound = jnp.asarray(clip, jnp.float32)[agent] if isinstance(clip, tuple) else clip
        if clipping == "flat":
            return clipped(value, bound, kind.norm)
        arrays = sum(is_real(leaf) for leaf in jax.tree.leaves(value))
        each = bound / (arrays if kind is LAPLACE else math.sqrt(arrays))
        return jax.tree.map(lambda leaf: clipped(leaf, each, kind.norm), value)

    return clip_to
