"""Decide whether a server accepts an update from an agent that it does not trust.

    known to the server   agent, version, weight = requested steps * samples of one step    must match exactly
    stated by the agent   the factor of its weight, its report, its statistics              must be within bounds
    range of exact sums   finite numbers up to a limit                                      else the update is rejected

The bytes have been decoded before (`fedrl.wire.codec`), so shapes, codes and indices are valid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree, Update
from fedrl.federation.agent_half import LEARNER
from fedrl.federation.federation import Federation

RANGES = {"norm": (0.0, 1e15), "loss": (-1e15, 1e15), "return": (-1e15, 1e15), DURATION: (0.0, 1e9)}
"""The allowed range of each report, keyed by name. A parameter of an environment may be any finite float32."""
UNKNOWN = ("return", DURATION)
"""The reports that may be NaN: no episode has ended, or the time was not measured."""
LARGEST = {"update": 1e15, "statistics": 1e15, LEARNER: 1e30}
"""The largest absolute entry of an update, of a stage's statistics, and of a learner's statistics (maybe squares).

The sum of squares of 10^8 such entries of an update is still a finite float32.
"""
ROUNDING = 1e-5
"""The relative tolerance of a weight, which agents compute in float32."""


def lie(federation: Federation, update: Update, version: int, steps: int) -> str:
    """Return the reason why an update is rejected, or "" if it is accepted.

    Args:
        federation: The federation, whose stages and learner declare the allowed ranges.
        update: The update as NumPy arrays, encoded or decoded.
        version: The version that the agent was sent.
        steps: The local steps that were requested of the agent.
    """
    if int(update.version) != version:
        return f"the update is of version {int(update.version)}, and {version} was sent"
    return (
        _weight(federation, float(update.weight), steps)
        or beyond_range(update.report)
        or _finite(update)
        or _counted(federation, update, steps)
    )


def weight_of(federation: Federation, steps: int) -> float:
    """Return the weight of an update: the number of samples that the requested steps produce."""
    return float(np.float32(steps * federation.learner.samples))


def _weight(federation: Federation, said: float, steps: int) -> str:
    # From the steps that the server requested, never from the update: else an agent could claim more influence.
    expected, low, high = weight_of(federation, steps), 1.0, 1.0
    for stage in federation.stages:
        if stage.reweights is not None:
            low, high = low * stage.reweights[0], high * stage.reweights[1]
    if not expected * low * (1.0 - ROUNDING) <= said <= expected * high * (1.0 + ROUNDING):
        allowed = f"{expected:g}" if low == high == 1.0 else f"{expected * low:g} to {expected * high:g}"
        return f"its weight is {said:g}, and {allowed} follows from the {steps} local steps that were ordered"
    return ""


def beyond_range(report: Mapping[str, Any]) -> str:
    """Return why reports are rejected, or "" if each is in its range."""
    for name, said in report.items():
        low, high = RANGES.get(name, (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)))
        value = float(said)
        if math.isnan(value) and name in UNKNOWN:
            continue
        if not low <= value <= high:
            return f"it reports {name} = {value:g}, and {low:g} to {high:g} is allowed"
    return ""


def _finite(update: Update) -> str:
    found = _beyond("update", update.value, LARGEST["update"])
    for name, sums in update.statistics.items():
        found = found or _beyond(f"statistics[{name!r}]", sums, LARGEST.get(name, LARGEST["statistics"]))
    return found


def _beyond(what: str, tree: PyTree, limit: float) -> str:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if leaf.dtype.kind != "f" or not leaf.size:
            continue
        # Minimum and maximum need one pass each and no copy of a large update; both are NaN if an entry is.
        low, high = float(leaf.min()), float(leaf.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return f"{what}{jax.tree_util.keystr(path)} is not finite"
        if max(-low, high) > limit:
            return f"{what}{jax.tree_util.keystr(path)} reaches {max(-low, high):.3g}, and {limit:.3g} is the most"
    return ""


def _counted(federation: Federation, update: Update, steps: int) -> str:
    """Return why the learner's statistics cannot have been counted over the samples of the requested steps, or ""."""
    counts = federation.learner.statistics
    if counts is None or counts.doubt is None:
        return ""
    return counts.doubt(update.statistics[LEARNER], steps * federation.learner.samples)
