"""The comparison of an exported policy with the policy, before its file is written.

1,000 observations --> policy.predict --> actions, outputs --+
                   --> the file's bytes --> actions, scores --+--> the largest difference, or a refusal
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import numpy as np

from fedrl.core.errors import RunError
from fedrl.environments.adapters.entries import entries_of
from fedrl.runs.export.plain import PlainPolicy
from fedrl.runs.spaces import GymSpace, GymSpaces, batched

OBSERVATIONS, TOLERANCE, LEAST = 1000, 1e-6, 1e-30
USUAL = 256
"""The largest number of inputs of a layer for the plain tolerance; sums of float32 over more inputs round by more."""
WIDE = 1e4
"""Observations do not reach bounds beyond this, so they are drawn from a normal distribution instead."""
UNLIKELY = 1e-30
"""Probabilities are compared by their logarithms, where a network rounds; those below this count as equal."""


class Reference(NamedTuple):
    """The policy with which a file is compared.

    Attributes:
        spaces: The Gymnasium spaces of observations and actions.
        outputs: For a batch in the form of the learner: probabilities of discrete actions, or unclipped actions.
        predict: The greedy actions for a batch in the form of Gymnasium.
        traced: `outputs` as a function that JAX can trace, of a float32 batch `[batch, *features]`.
    """

    spaces: GymSpaces
    outputs: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[np.ndarray], Any]
    traced: Callable[[jax.Array], jax.Array]


class ExportedOutputs(NamedTuple):
    """The outputs of an exported policy for a batch: the actions, and the scores from which they follow."""

    actions: np.ndarray
    scores: np.ndarray


class Exported(NamedTuple):
    """An exported file.

    Attributes:
        path: The path of the file.
        observations: The number of observations in the comparison with the policy.
        difference: The largest difference of an output, as a share of the largest output: of the logarithms of
            probabilities, or of continuous actions before they are clipped.
    """

    path: Path
    observations: int
    difference: float


def compared(
    policy: PlainPolicy, reference: Reference, found: Callable[[np.ndarray], ExportedOutputs], form: str
) -> float:
    """Return the largest difference of an output, as a share of the largest output.

    Outputs are the logarithms of probabilities, or continuous actions before they are clipped. Of several choices at
    once, only continuous ones have outputs that are compared. Greedy actions have to
    be equal wherever the two best are further apart than the tolerance.

    Raises:
        RunError: The file says something else than the policy.
    """
    seen = observations_for(policy)
    expected, actions = reference.outputs(batched(policy.spaces.observation, seen)[0]), reference.predict(seen)
    theirs = found(seen)
    if policy.choices:
        return _by_choice(policy, expected, entries_of(policy.spaces.action, actions), theirs, form)
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
    _check(difference, tolerance, wrong, len(seen), form)
    return difference


def _by_choice(
    policy: PlainPolicy, expected: np.ndarray, actions: np.ndarray, theirs: ExportedOutputs, form: str
) -> float:
    """Return the largest difference of a continuous entry, as a share of the largest; discrete ones have to be equal.

    A discrete one may differ where the two best are closer than the tolerance.
    """
    tolerance, column, wrong, difference = tolerance_of(policy), 0, 0, 0.0
    for choice in policy.choices:
        scores, first = theirs.scores[:, choice.scores].astype(np.float64), column
        column += math.prod(choice.space.shape)
        entries, ours = (x[:, first:column].astype(np.float64) for x in (theirs.actions, actions))
        if choice.discrete:
            best = np.sort(np.log(np.maximum(scores, UNLIKELY)), axis=-1)
            clear = best[:, -1] - best[:, -2] > tolerance * np.abs(best).max() if choice.space.n > 1 else True
            wrong += int((clear & (entries != ours)[:, 0]).sum())
        else:
            means = expected[:, first:column].astype(np.float64)
            largest = max(float(np.abs(means).max()), LEAST)
            difference = max(difference, float(np.abs(scores - means).max()) / largest)
            wrong += int((np.abs(entries - ours).max(-1) > tolerance * largest).sum())
    _check(difference, tolerance, wrong, len(actions), form)
    return difference


def _check(difference: float, tolerance: float, wrong: int, count: int, form: str) -> None:
    if not difference <= tolerance or wrong:
        raise RunError(
            f"The policy for {form} differs from fedrl's by {difference:.1e} of the largest output, and in {wrong} of "
            f"{count} actions; {tolerance:.1e} is rounding. Nothing was written. Report it with the config.toml."
        )


def tolerance_of(policy: PlainPolicy) -> float:
    """Return the largest allowed difference, as a share of the largest output: the rounding of float32.

    The rounding of a sum grows with the square root of the number of its terms.
    """
    widest = max((policy.arrays[f"weight{i}"].shape[1] for i in range(policy.layers)), default=policy.widest)
    return TOLERANCE * max(1.0, math.sqrt(widest / USUAL))


def observations_for(policy: PlainPolicy) -> np.ndarray:
    """Draw observations in the form of Gymnasium, around those on which the policy was trained."""
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
    """Return observations in the form of an exported model: int64, or float32."""
    return seen.astype(np.int64 if isinstance(space, gym.spaces.Discrete) else np.float32)


def _outputs(policy: PlainPolicy, scores: np.ndarray) -> np.ndarray:
    """Return scores in the form of `Reference.outputs`: for a table, the probabilities of its actions."""
    if policy.head != "table":
        return scores
    best = scores == scores.max(-1, keepdims=True)
    return policy.epsilon / scores.shape[-1] + (1.0 - policy.epsilon) * best / best.sum(-1, keepdims=True)
