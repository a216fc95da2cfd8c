"""The steps of a policy on plain arrays: the source of every form of export.

    observation --normalise--> --append the embedding--> or filters --> layer, activation, ... --head--> action, scores

    head      scores                          greedy action
    table     the values q[observation]       the first of the largest
    softmax   the probabilities of actions    the most probable
    gaussian  the means                       the means, clipped to the bounds of the actions
    product   those of each choice in a row   those of each choice in a row: an entry for each

The steps follow from the table of the learner, with the names that its constructors have in configuration files. Those
of a user-defined network or learner are unknown; it is traced instead (`jax2onnx_form`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import jax
import numpy as np

from fedrl.core.types import Params
from fedrl.environments.adapters.entries import leaves
from fedrl.learners.parts.moments import Moments, divisor
from fedrl.runs.spaces import GymSpaces

Head: TypeAlias = Literal["table", "softmax", "gaussian", "product"]

ACTING_AS_WITHIN = ("personal", "interpolate", "apfl", "accept_if_better", "freeze_except")
"""Wrappers that change only learning: they act as the inner learner does, with its parameters."""
WITH_ACTOR = ("ppo", "a2c", "reinforce")


class Choice(NamedTuple):
    """One of several choices at once.

    Attributes:
        space: Its space, Discrete or a Box.
        scores: Which of the scores are its own.
    """

    space: Any
    scores: slice

    @property
    def discrete(self) -> bool:
        """Return whether it is discrete."""
        return isinstance(self.space, gym.spaces.Discrete)


class PlainPolicy(NamedTuple):
    """The steps of a policy.

    Attributes:
        spaces: The Gymnasium spaces of observations and actions.
        head: The last step.
        arrays: float32: "q" of a table; else "weight0" `[outputs, inputs]`, "bias0", ..., and if there are such
            steps "mean" and "scale" of the observations, flat, an "embedding", and "log_std" of a Gaussian, of several
            choices with the number of each behind the name, and "filter0" `[filters, height, width, channels]`,
            "filter_bias0", ... of convolutions.
        layers: The number of layers.
        activation: The activation between two layers.
        output_activation: The activation after the last one; empty for none.
        limit: The limit of normalised observations; None without normalisation.
        epsilon: For a table, the probability of a random action when actions are sampled.
        own: For a policy with a user-defined network or learner, a sentence that names it; such a policy has no layers.
        widest: For such a policy, the largest number of inputs that a layer may have.
        choices: The choices of a product; none for other heads.
        filters: The number of convolutions before the layers, of planes `[height, width, channels]`, whose result
            enters the layers channel by channel.
        stride: The places by which a filter moves on.
    """

    spaces: GymSpaces
    head: Head
    arrays: dict[str, np.ndarray]
    layers: int = 0
    activation: str = ""
    output_activation: str = ""
    limit: float | None = None
    epsilon: float = 0.0
    own: str = ""
    widest: int = 0
    choices: tuple[Choice, ...] = ()
    filters: int = 0
    stride: int = 1

    @property
    def planes(self) -> tuple[int, int, int]:
        """Return height, width and channels of an observation that is convolved."""
        height, width, *depth = self.spaces.observation.shape or ()
        return height, width, depth[0] if depth else 1


def plain_policy(learner: Mapping[str, Any], params: Params, spaces: GymSpaces) -> PlainPolicy:
    """Return the steps of a learner's greedy policy.

    Args:
        learner: The table of the learner, with all parameters.
        params: The acting parameters.
        spaces: The Gymnasium spaces of observations and actions.
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
    head: Head = "gaussian" if isinstance(spaces.action, gym.spaces.Box) else "product"
    policy = PlainPolicy(spaces, "softmax" if isinstance(spaces.action, gym.spaces.Discrete) else head, {})
    policy = policy._replace(choices=choices_of(spaces.action) if policy.head == "product" else ())
    if name not in WITH_ACTOR:
        return policy._replace(own=f"The learner is {name!r}.", widest=_widest(params))
    actor = params["actor"]
    if policy.head == "gaussian":
        policy, actor = policy._replace(arrays={"log_std": _float32(actor["log_std"])}), actor["network"]
    if policy.head == "product":
        continuous = [i for i, choice in enumerate(policy.choices) if not choice.discrete]
        spread = {f"log_std{i}": _float32(actor["heads"][i]["log_std"]) for i in continuous}
        policy, actor = policy._replace(arrays=spread), actor["network"]
    return _network(learner["network"], actor, policy)


def _network(table: Any, params: Params, policy: PlainPolicy) -> PlainPolicy:
    """Return the policy with the layers of its network."""
    name = table["name"] if isinstance(table, Mapping) and "name" in table else table
    if name == "with_embedding":
        inner = _network(table["network"], params["network"], policy)
        return inner._replace(arrays=inner.arrays | {"embedding": _float32(params["embedding"])})
    if name == "conv":
        kernel, filters = table["kernel"], dict(policy.arrays)
        for i, layer in enumerate(params["filters"]):
            weight = _float32(layer["weight"])
            filters[f"filter{i}"] = weight.reshape(len(weight), kernel, kernel, -1)
            filters[f"filter_bias{i}"] = _float32(layer["bias"])
        inner = _network({**table, "name": "mlp"}, params["layers"], policy._replace(arrays=filters))
        return inner._replace(filters=len(params["filters"]), stride=table["stride"])
    if name != "mlp":
        return policy._replace(own=f"The network is {name!r}.", widest=_widest(params))
    arrays = dict(policy.arrays)
    for i, layer in enumerate(params):
        arrays |= {f"weight{i}": _float32(layer["weight"]), f"bias{i}": _float32(layer["bias"])}
    # Files of earlier versions know no activation of outputs.
    last = table.get("output_activation", "")
    return policy._replace(arrays=arrays, layers=len(params), activation=table["activation"], output_activation=last)


def choices_of(space: gym.Space) -> tuple[Choice, ...]:
    """Return the single choices of which an action is made."""
    spaces = leaves(space)
    widths = [int(each.n) if isinstance(each, gym.spaces.Discrete) else math.prod(each.shape or ()) for each in spaces]
    edges = [0, *np.cumsum(widths).tolist()]
    return tuple(Choice(each, slice(*edge)) for each, edge in zip(spaces, itertools.pairwise(edges), strict=True))


def _widest(params: Params) -> int:
    """Return the largest number of inputs that a layer with these weights may have, whatever the order of its axes."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    return max((math.prod(shape) // max(min(shape), 1) for shape in shapes if len(shape) > 1), default=0)


def _float32(array: jax.Array | np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _flat(array: jax.Array | np.ndarray) -> np.ndarray:
    return _float32(array).reshape(-1)
