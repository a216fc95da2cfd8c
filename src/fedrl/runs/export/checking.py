"""Whether an exported policy does what the policy does, before its file is there.

1,000 observations --> policy.predict --> actions, outputs --+
                   --> the file's bytes --> actions, scores --+--> the largest difference, or a refusal
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from fedrl.core.errors import RunError
from fedrl.runs.export.plain import PlainPolicy
from fedrl.runs.spaces import GymSpace, GymSpaces, batched

OBSERVATIONS, TOLERANCE, LEAST = 1000, 1e-6, 1e-30
USUAL = 256
"""The tolerance is that of layers with so many inputs; in wider ones, sums of float32 round by more."""
WIDE = 1e4
"""Bounds beyond this are none that observations reach: they are drawn from a normal distribution instead."""
UNLIKELY = 1e-30
"""Probabilities are compared by their logarithms, which is where a network rounds; below this they are alike."""


class Reference(NamedTuple):
    """The policy, to compare with.

    Attributes:
        spaces: Of observations and actions.
        outputs: Of a batch as the learner takes it: probabilities of discrete actions, or continuous ones unclipped.
        predict: The greedy actions for a batch as Gymnasium has it.
    """

    spaces: GymSpaces
    outputs: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[np.ndarray], np.ndarray]


class ExportedOutputs(NamedTuple):
    """What an exported policy says of a batch: the actions, and the scores that they follow from."""

    actions: np.ndarray
    scores: np.ndarray


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: Where it is.
        observations: On how many it was compared with the policy.
        difference: The largest difference of an output, as a share of the largest output: of the logarithms of
            probabilities, or of continuous actions before they are clipped.
    """

    path: Path
    observations: int
    difference: float


def compared(
    policy: PlainPolicy, reference: Reference, found: Callable[[np.ndarray], ExportedOutputs], form: str
) -> float:
    """The largest difference of an output, as a share of the largest output.

    Outputs are the logarithms of probabilities, or continuous actions before they are clipped. Greedy actions have to
    be equal wherever the two best are further apart than the tolerance.

    Raises:
        RunError: The file says something else than the policy.
    """
    seen = observations_for(policy)
    expected, actions = reference.outputs(batched(policy.spaces.observation, seen)[0]), reference.predict(seen)
    theirs = found(seen)
    outputs = _outputs(policy, theirs.scores).reshape(expected.shape)
    if isinstance(policy.spaces.action, gym.spaces.Discrete):
        expected, outputs = (np.log(np.maximum(x, UNLIKELY, dtype=np.float64)) for x in (expected, outputs))
    tolerance = tolerance_of(policy)
    largest = max(float(np.abs(expected).max()), LEAST)
    difference = float(np.abs(outputs - expected).max()) / largest
    if isinstance(policy.spaces.action, gym.spaces.Discrete):
        best = np.sort(expected, axis=-1)[:, -2:]
        clear = best[:, -1] - best[:, 0] > tolerance * largest if best.shape[-1] > 1 else np.ones(len(seen), bool)
        wrong = int((clear & (theirs.actions != actions)).sum())
    else:
        apart = np.abs(theirs.actions.astype(np.float64) - actions.astype(np.float64))
        wrong = int((apart.reshape(len(seen), -1).max(-1) > tolerance * largest).sum())
    if not difference <= tolerance or wrong:
        raise RunError(
            f"The policy for {form} differs from fedrl's by {difference:.1e} of the largest output, and in {wrong} of "
            f"{len(seen)} actions; {tolerance:.1e} is rounding. Nothing was written. Report it with the config.toml."
        )
    return difference


def tolerance_of(policy: PlainPolicy) -> float:
    """How far outputs may be from those of the policy, as a share of the largest: what float32 rounds.

    The rounding of a sum grows with the square root of the number of its terms.
    """
    widest = max((policy.arrays[f"weight{i}"].shape[1] for i in range(policy.layers)), default=0)
    return TOLERANCE * max(1.0, math.sqrt(widest / USUAL))


def observations_for(policy: PlainPolicy) -> np.ndarray:
    """So many observations as Gymnasium has them, drawn where the policy has seen some."""
    space, random = policy.spaces.observation, np.random.default_rng(0)
    if isinstance(space, gym.spaces.Discrete):
        return np.arange(OBSERVATIONS) % int(space.n) + int(space.start)
    size = int(np.prod(space.shape))
    drawn = 2.0 * random.standard_normal((OBSERVATIONS, size))
    if policy.limit is not None:
        drawn = policy.arrays["mean"] + policy.arrays["scale"] * drawn
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    narrow = (np.abs(low) <= WIDE) & (np.abs(high) <= WIDE) & (policy.limit is None)
    inside = np.where(narrow, low, 0.0) + random.random((OBSERVATIONS, size)) * np.where(narrow, high - low, 1.0)
    return np.where(narrow, inside, drawn).reshape(OBSERVATIONS, *space.shape).astype(np.float32)


def batch_of(space: GymSpace, seen: np.ndarray) -> np.ndarray:
    """Observations as an exported model takes them: int64, or float32."""
    return seen.astype(np.int64 if isinstance(space, gym.spaces.Discrete) else np.float32)


def _outputs(policy: PlainPolicy, scores: np.ndarray) -> np.ndarray:
    """Scores as `Reference.outputs` has them: of a table, the probabilities of its actions."""
    if policy.head != "table":
        return scores
    best = scores == scores.max(-1, keepdims=True)
    return policy.epsilon / scores.shape[-1] + (1.0 - policy.epsilon) * best / best.sum(-1, keepdims=True)
