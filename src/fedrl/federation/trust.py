"""What a server believes of an agent: nothing that it can know itself, and the rest within bounds.

    the server knows      number, version, weight = steps that it ordered * samples of one    never the agent's word
    an agent may say      a factor of its weight, what it reports of itself, what it counted  within declared bounds
    sums are exact for    finite numbers of some size                                         else left out, and told

Bytes have been read by then (`fedrl.wire.codec`): shapes, codes and indices are those that were agreed on.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree, Update
from fedrl.federation.agent_half import LEARNER
from fedrl.federation.federation import Federation

RANGES = {"norm": (0.0, 1e15), "loss": (-1e15, 1e15), "return": (-1e15, 1e15), DURATION: (0.0, 1e9)}
"""What agents may report of themselves, by name. Any parameter of an environment is a finite float32."""
UNKNOWN = ("return", DURATION)
"""What may be NaN: no episode has ended, or nobody has measured the time."""
LARGEST = {"update": 1e15, "statistics": 1e15, LEARNER: 1e30}
"""The largest numbers that are taken of an update, what stages sum up, and what learners count, which may be squares.

Squares of an update of 10^8 such numbers still add up to a float32.
"""
ROUNDING = 1e-5
"""How far a weight may be off relatively: it is computed in float32."""


def lie(federation: Federation, update: Update, version: int, steps: int) -> str:
    """Why an update is not believed; empty if nothing speaks against it.

    Args:
        federation: Which declares what may be said.
        update: As it was read, NumPy arrays; encoded or decoded.
        version: That the agent was sent.
        steps: Local steps that were ordered of it.
    """
    if int(update.version) != version:
        return f"the update is of version {int(update.version)}, and {version} was sent"
    return (
        _weight(federation, float(update.weight), steps)
        or _report(update)
        or _finite(update)
        or _counted(federation, update, steps)
    )


def weight_of(federation: Federation, steps: int) -> float:
    """What an update weighs: the samples behind it, by what was ordered."""
    return float(np.float32(steps * federation.learner.samples))


def _weight(federation: Federation, said: float, steps: int) -> str:
    expected, low, high = weight_of(federation, steps), 1.0, 1.0
    for stage in federation.stages:
        if stage.reweights is not None:
            low, high = low * stage.reweights[0], high * stage.reweights[1]
    if not expected * low * (1.0 - ROUNDING) <= said <= expected * high * (1.0 + ROUNDING):
        allowed = f"{expected:g}" if low == high == 1.0 else f"{expected * low:g} to {expected * high:g}"
        return f"its weight is {said:g}, and {allowed} follows from the {steps} local steps that were ordered"
    return ""


def _report(update: Update) -> str:
    for name, said in update.report.items():
        low, high = RANGES.get(name, (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)))
        value = float(said)
        if math.isnan(value) and name in UNKNOWN:
            continue
        if not low <= value <= high:
            return f"it reports {name} = {value:g}, which is from {low:g} to {high:g}"
    return ""


def _finite(update: Update) -> str:
    found = _beyond("update", update.value, LARGEST["update"])
    for name, sums in update.statistics.items():
        found = found or _beyond(f"statistics[{name!r}]", sums, LARGEST.get(name, LARGEST["statistics"]))
    return found


def _beyond(what: str, tree: PyTree, limit: float) -> str:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.issubdtype(leaf.dtype, np.floating) or not leaf.size:
            continue
        low, high = float(leaf.min()), float(leaf.max())  # one pass each, and no copy
        if not (np.isfinite(low) and np.isfinite(high)):
            return f"{what}{jax.tree_util.keystr(path)} is not finite"
        if max(-low, high) > limit:
            return f"{what}{jax.tree_util.keystr(path)} reaches {max(-low, high):.3g}, and {limit:.3g} is the most"
    return ""


def _counted(federation: Federation, update: Update, steps: int) -> str:
    """Whether an agent can have counted what it says it has: of the samples of its steps, no less and no more."""
    counts = federation.learner.statistics
    if counts is None or counts.doubt is None:
        return ""
    return counts.doubt(update.statistics[LEARNER], steps * federation.learner.samples)
