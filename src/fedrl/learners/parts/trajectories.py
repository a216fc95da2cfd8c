"""Bound and hide what one episode contributes to a gradient, the unit "trajectory" of differential privacy.

    g = (1 / n) sum_i g_i min(1, C / ||g_i||_2) + N(0, (z C / n)^2 I)

    episodes [n] --vmap(grad)--> g_i --clip each to C--> mean over a fixed n --+--> the learner's optimiser
                                                          noise of the agent --+

g_i is the gradient of episode i over all arrays together, actor and critic. The divisor is the number of environment
copies and not what was seen of them, so that adding or removing an episode moves the mean by at most C / n. C should be
about the median of the norms: the measures `trajectory_norm_median`, `trajectory_norm_p90` and `trajectories_clipped`
tell it, and stay with the agent. With z = 0 nothing is added.

Norms and means are computed in float32. The bound is C (1 - 2^-20), so that the rounding of a norm does not pass C.

Clipping per example: Abadi et al. (2016), https://arxiv.org/abs/1607.00133.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from fedrl.core import draws
from fedrl.core.component import written
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number, is_zero
from fedrl.core.measures import Measure
from fedrl.core.stage import Noise
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree

WITHIN = 1.0 - 2.0**-20
"""The clipping norm is this times C: float32 rounds norms by less."""
MEASURES = {
    "trajectory_norm_median": Measure("iteration"),
    "trajectory_norm_p90": Measure("iteration"),
    "trajectories_clipped": Measure("iteration"),
}
"""The median and the 90 % quantile of the norms of the episodes' gradients, and the share of episodes clipped."""


class PerTrajectory(NamedTuple):
    """How a learner bounds, and hides, what one episode contributes to its gradients.

    Attributes:
        clip: C, the L2 norm to which the gradient of one episode is scaled down.
        noise_multiplier: z, the standard deviation of the noise in each gradient, in units of C / n.
        episodes: n, the episodes in each gradient.
        passes: The gradients of one local iteration in which an episode takes part.
    """

    clip: Number
    noise_multiplier: Number
    episodes: int
    passes: int = 1

    @property
    def sensitivity(self) -> Number:
        """Return C / n: how far, in L2 norm, one episode moves a gradient."""
        return self.clip / self.episodes


def per_trajectory(
    clip: Number | None, noise_multiplier: Number, episodes: int, passes: int = 1
) -> PerTrajectory | None:
    """Return how episodes are bounded and hidden, from a learner's arguments; None if they are not.

    Args:
        clip: The argument `trajectory_clip`.
        noise_multiplier: The argument `noise_multiplier`.
        episodes: The episodes in each gradient.
        passes: The gradients of one local iteration in which an episode takes part.

    Raises:
        ConfigError: There is noise and no clip.
    """
    if clip is None:
        if not is_zero(noise_multiplier):
            raise ConfigError(
                f"noise_multiplier is {noise_multiplier} and trajectory_clip is not set. The noise of a step is "
                "calibrated for the norm to which each episode's gradient is clipped. Set trajectory_clip, such as 1.0."
            )
        return None
    return PerTrajectory(clip, noise_multiplier, episodes, passes)


def clipped_mean(
    loss: Callable[[Params, PyTree], jax.Array], params: Params, episodes: PyTree, clip: Number
) -> tuple[Params, Metrics]:
    """Return the mean over episodes of their gradients, each clipped to C, with the mean loss and the norms measured.

        (1 / n) sum_i g_i min(1, C / ||g_i||_2),   g_i = grad loss(params, episode i)

    An episode whose gradient is not finite makes the mean NaN, so that the agent's update is rejected.

    Args:
        loss: `(params, episode) -> scalar`.
        params: The parameters.
        episodes: Arrays with a leading axis of n episodes.
        clip: C, in units of the gradient.

    Reference: Abadi et al. (2016), https://arxiv.org/abs/1607.00133

    >>> slope, measured = clipped_mean(lambda p, x: p * x, jnp.float32(0.0), jnp.array([0.5, -4.0]), 1.0)
    >>> round(float(slope), 4), float(measured["trajectories_clipped"])
    (-0.25, 0.5)
    """
    count = jax.tree.leaves(episodes)[0].shape[0]
    # With a copy of the parameters for each episode, XLA's CPU backend multiplies batch by batch; with one copy for all
    # it transposes activations, which takes a quarter of the whole update.
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), params)
    costs, slopes = jax.vmap(jax.value_and_grad(loss))(copies, episodes)
    norms = norms_of(slopes)
    bound = clip * WITHIN
    # `where`, not `minimum(1, bound / norm)`: a NaN fails the comparison and stays NaN, for the server to reject.
    factor = jnp.where(norms <= bound, 1.0, bound / norms)
    mean = jax.tree.map(lambda x: jnp.tensordot(factor, x, 1) / len(factor), slopes)
    median, high = jnp.quantile(norms, jnp.array([0.5, 0.9]))
    measured = {"trajectory_norm_median": median, "trajectory_norm_p90": high}
    return mean, {"loss": costs.mean(), **measured, "trajectories_clipped": (norms > bound).mean()}


def norms_of(slopes: PyTree) -> jax.Array:
    """Return the L2 norm of each row over all arrays, `[n]`; NaN if an entry of the row is NaN or infinite."""
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(slopes)]
    # In units of the largest entry, because squares of large float32 numbers overflow.
    largest = jnp.stack([jnp.abs(row).max(1) for row in rows if row.size]).max(0)
    unit = jnp.where(largest == 0.0, 1.0, largest)
    squares = sum((jnp.square(row / unit[:, None]).sum(1) for row in rows), jnp.zeros_like(unit))
    return unit * jnp.sqrt(squares)


def by_episode(x: jax.Array) -> jax.Array:
    """Return an array of n environment copies, `[time, *features, n]`, by episode: `[n, *features, time]`."""
    return jnp.moveaxis(jnp.moveaxis(x, 0, -1), -2, 0)


def private_gradient(
    how: PerTrajectory,
    context: LocalContext,
    number: int | jax.Array,
    loss: Callable[[Params, PyTree], jax.Array],
    params: Params,
    episodes: PyTree,
) -> tuple[Params, Metrics]:
    """Return `clipped_mean` plus noise of standard deviation z C / n in every entry.

    Args:
        how: C, z and n.
        context: It has the key of the noise of this local iteration.
        number: The number of the gradient in the iteration, so that each has noise of its own.
        loss: `(params, episode) -> scalar`.
        params: The parameters.
        episodes: Arrays with a leading axis of n episodes.

    Raises:
        ConfigError: There is to be noise, and the context has no key for it.
    """
    mean, metrics = clipped_mean(loss, params, episodes, how.clip)
    if is_zero(how.noise_multiplier):
        return mean, metrics
    if context.noise is None:
        raise ConfigError(
            f"noise_multiplier is {how.noise_multiplier} and the local context has no key for the noise (noise=None). "
            "The key has to come from a secret of the agent. Train in a federation, or pass LocalContext(noise=key)."
        )
    key = jax.random.fold_in(context.noise, number)
    return noisy(key, mean, how.noise_multiplier * how.sensitivity), metrics


def noisy(key: Key, value: Params, deviation: Number) -> Params:
    """Return a value with normal noise of this standard deviation added to every entry of every array."""
    leaves, structure = jax.tree.flatten(value)
    # One draw for all arrays: for a dozen small ones, the overhead per array exceeds the arithmetic.
    drawn = draws.normal(key, (sum(leaf.size for leaf in leaves),))
    ends = [sum(leaf.size for leaf in leaves[: i + 1]) for i in range(len(leaves))]
    parts = [drawn[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, [x + deviation * part for x, part in zip(leaves, parts, strict=True)])


def privacy_facts(how: PerTrajectory | None) -> dict[str, Any]:
    """Return the fields of a `Learner` that tell what it bounds and hides, with the price of one local iteration."""
    if how is None:
        return {}
    if is_zero(how.noise_multiplier):
        return {"clips_trajectories": how.sensitivity}
    event = composed(how.noise_multiplier, how.passes)
    noise = Noise(event, cast(float, how.sensitivity), "agent", "trajectory")
    return {"clips_trajectories": how.sensitivity, "noise": noise}


def composed(noise_multiplier: Number, times: int) -> Any:
    """Return the `dp_accounting` event of so many Gaussian mechanisms in a row.

    Raises:
        ConfigError: `dp_accounting` is not installed.
    """
    # Imported here, since only private learners need it.
    if importlib.util.find_spec("dp_accounting") is None:
        raise ConfigError(
            "The price of noise needs dp_accounting, which is not installed. Run pip install 'fedrl[privacy]'."
        )
    import dp_accounting

    once = dp_accounting.GaussianDpEvent(noise_multiplier)
    return once if times == 1 else dp_accounting.SelfComposedDpEvent(once, times)


def check_bounds_each(learner: Any, wrapper: str, why: str, cure: str) -> None:
    """Refuse a wrapper around a learner that bounds what each episode contributes.

    Raises:
        ConfigError: The learner clips each episode; the message has the reason and the remedy.
    """
    if learner.clips_trajectories is not None:
        raise ConfigError(f"{written(learner)} bounds each episode's contribution, and {wrapper} {why}. {cure}")
