"""The steps of a policy on plain arrays: the source of every form of export.

    observation --normalise--> --append the embedding--> layer, activation, ..., layer --head--> action, scores

    head      scores                          greedy action
    table     the values q[observation]       the first of the largest
    softmax   the probabilities of actions    the most probable
    gaussian  the means                       the means, clipped to the bounds of the actions

The steps follow from the table of the learner, with the names that its constructors have in configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import jax
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import Params
from fedrl.learners.parts.moments import Moments, divisor
from fedrl.runs.spaces import GymSpaces

Head: TypeAlias = Literal["table", "softmax", "gaussian"]

ACTING_AS_WITHIN = ("personal", "interpolate", "apfl", "accept_if_better", "freeze_except")
"""Wrappers that change only learning: they act as the inner learner does, with its parameters."""
WITH_ACTOR = ("ppo", "a2c", "reinforce")


class PlainPolicy(NamedTuple):
    """The steps of a policy.

    Attributes:
        spaces: The Gymnasium spaces of observations and actions.
        head: The last step.
        arrays: float32: "q" of a table; else "weight0" `[outputs, inputs]`, "bias0", ..., and if there are such
            steps "mean" and "scale" of the observations, flat, an "embedding", and "log_std" of a Gaussian.
        layers: The number of layers.
        activation: The activation between two layers.
        limit: The limit of normalised observations; None without normalisation.
        epsilon: For a table, the probability of a random action when actions are sampled.
    """

    spaces: GymSpaces
    head: Head
    arrays: dict[str, np.ndarray]
    layers: int = 0
    activation: str = ""
    limit: float | None = None
    epsilon: float = 0.0


def plain_policy(learner: Mapping[str, Any], params: Params, spaces: GymSpaces) -> PlainPolicy:
    """Return the steps of a learner's greedy policy.

    Args:
        learner: The table of the learner, with all parameters.
        params: The acting parameters.
        spaces: The Gymnasium spaces of observations and actions.

    Raises:
        ConfigError: The learner or its network is none of fedrl's.
    """
    name = learner["name"]
    if name in ACTING_AS_WITHIN:
        return plain_policy(learner["learner"], params, spaces)
    if name == "normalize":
        within = plain_policy(learner["learner"], params["learner"], spaces)
        if not learner["observations"]:
            return within
        moments = Moments(*params["moments"]["observation"])
        arrays = {"mean": _flat(moments.mean), "scale": _flat(divisor(moments))}
        return within._replace(arrays=arrays | within.arrays, limit=float(learner["limit"]))
    if name == "q_table":
        return PlainPolicy(spaces, "table", {"q": _float32(params["q"])}, epsilon=float(learner["epsilon"]))
    if name not in WITH_ACTOR:
        raise ConfigError(
            f"The learner is {name!r}, which is user-defined, and fedrl exports only its own learners. "
            "Act with policy.predict."
        )
    if isinstance(spaces.action, gym.spaces.Discrete):
        return _network(learner["network"], params["actor"], PlainPolicy(spaces, "softmax", {}))
    log_std = {"log_std": _float32(params["actor"]["log_std"])}
    return _network(learner["network"], params["actor"]["network"], PlainPolicy(spaces, "gaussian", log_std))


def _network(table: Mapping[str, Any], params: Params, policy: PlainPolicy) -> PlainPolicy:
    """Return the policy with the layers of its network."""
    name = table["name"]
    if name == "with_embedding":
        inner = _network(table["network"], params["network"], policy)
        return inner._replace(arrays=inner.arrays | {"embedding": _float32(params["embedding"])})
    if name != "mlp":
        raise ConfigError(
            f"The network is {name!r}, which is user-defined, and export to ONNX, PyTorch or NumPy is not supported "
            "yet for networks other than mlp and with_embedding. Act with policy.predict."
        )
    arrays = dict(policy.arrays)
    for i, layer in enumerate(params):
        arrays |= {f"weight{i}": _float32(layer["weight"]), f"bias{i}": _float32(layer["bias"])}
    return policy._replace(arrays=arrays, layers=len(params), activation=table["activation"])


def _float32(array: jax.Array | np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _flat(array: jax.Array | np.ndarray) -> np.ndarray:
    return _float32(array).reshape(-1)
