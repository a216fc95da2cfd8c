"""Staleness: how much an update still counts that started from parameters the server has since left behind.

tau = the server's version now - the version the update started from      s(tau) multiplies the update's weight

A fresh update (tau = 0) always counts in full, so a synchronous round is the same under every rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int

from fedrl.core.checks import check_above_zero
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError

XIE = "Xie, Koyejo & Gupta (2019), https://arxiv.org/abs/1903.03934"


@record
class Staleness:
    """How an update's weight falls with its age.

    Attributes:
        weight: `tau -> s(tau)`, both of any shape; tau counts server versions, s lies in (0, 1] and s(0) = 1.
    """

    weight: Callable[[Int[np.ndarray, "*agents"]], Float32[np.ndarray, "*agents"]]
    call: Call | None = None


@component("staleness", reference=XIE)
def ignore_staleness() -> Staleness:
    """Every update counts in full, however old: s(tau) = 1.

    >>> import numpy as np
    >>> ignore_staleness().weight(np.array([0, 7])).tolist()
    [1.0, 1.0]
    """
    return Staleness(lambda tau: np.ones(np.shape(tau), np.float32))


@component("staleness", reference=XIE)
def polynomial(exponent: float = 0.5) -> Staleness:
    """The weight falls like a power of the age: s(tau) = (tau + 1)^(-a).

    Args:
        exponent: a, above zero; the paper tries 0.5.

    Raises:
        ConfigError: The exponent is not above zero.

    >>> import numpy as np
    >>> polynomial(0.5).weight(np.array([0, 3])).tolist()
    [1.0, 0.5]
    """
    check_above_zero(exponent=exponent)
    return Staleness(lambda tau: _rounded((_age(tau) + 1.0) ** -exponent))


@component("staleness", reference=XIE)
def hinge(slope: float = 10.0, patience: float = 4.0) -> Staleness:
    """Full weight up to an age, then a hyperbola: s(tau) = 1 if tau <= b, else 1 / (a (tau - b) + 1).

    Args:
        slope: a, above zero: how fast the weight falls once it does.
        patience: b, in server versions: the age up to which an update counts in full.

    Raises:
        ConfigError: The slope is not above zero, or the patience is below zero.

    >>> import numpy as np
    >>> hinge(slope=2.0, patience=3.0).weight(np.array([0, 3, 5])).tolist()
    [1.0, 1.0, 0.20000000298023224]
    """
    check_above_zero(slope=slope)
    if not 0.0 <= patience < math.inf:
        raise ConfigError(f"patience is {patience}. It is an age in server versions. Set it to 0 or more.")
    return Staleness(lambda tau: _rounded(1.0 / (slope * np.maximum(_age(tau) - patience, 0.0) + 1.0)))


def _age(tau: np.ndarray) -> np.ndarray | np.float64:
    """As a real number; an update from the future, which no engine makes, is as good as new."""
    return np.maximum(np.asarray(tau, np.float64), 0.0)


def _rounded(weight: np.ndarray | np.float64) -> np.ndarray:
    return np.asarray(weight, np.float32)
