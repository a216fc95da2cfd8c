"""Define staleness weights: the factor of an update that was computed from an older version of the parameters.

    tau = the server's version now - the version the agent trained from      s(tau) multiplies the update's weight

A fresh update (tau = 0) always has the factor 1, so a synchronous round is the same under every rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int

from fedrl.core.component import Call, component, record
from fedrl.core.ranges import NonNegative, Positive

XIE = "Xie, Koyejo & Gupta (2019), https://arxiv.org/abs/1903.03934"


@record
class Staleness:
    """The factor of an update as a function of its staleness.

    Attributes:
        weight: `tau -> s(tau)`, both of any shape; tau is in versions of the server, s is in (0, 1], and s(0) = 1.
        call: The constructor call that made the rule.
    """

    weight: Callable[[Int[np.ndarray, "*agents"]], Float32[np.ndarray, "*agents"]]
    call: Call | None = None


@component("staleness", reference=XIE)
def ignore_staleness() -> Staleness:
    """Weigh all updates equally, whatever their staleness: s(tau) = 1.

    >>> import numpy as np
    >>> ignore_staleness().weight(np.array([0, 7])).tolist()
    [1.0, 1.0]
    """
    return Staleness(lambda tau: np.ones(np.shape(tau), np.float32))


@component("staleness", reference=XIE)
def polynomial(exponent: Positive = 0.5) -> Staleness:
    """Decrease the weight as a power of the staleness: s(tau) = (tau + 1)^(-a).

    Args:
        exponent: a, above zero; 0.5 in the paper's experiments.

    Raises:
        ConfigError: The exponent is not above zero.

    >>> import numpy as np
    >>> polynomial(0.5).weight(np.array([0, 3])).tolist()
    [1.0, 0.5]
    """
    # Computed in float64 and rounded to float32 once.
    return Staleness(lambda tau: _rounded((_age(tau) + 1.0) ** -exponent))


@component("staleness", reference=XIE)
def hinge(slope: Positive = 10.0, patience: NonNegative = 4.0) -> Staleness:
    """Keep the weight up to a staleness b, then decrease it: s(tau) = 1 if tau <= b, else 1 / (a (tau - b) + 1).

    Args:
        slope: a, above zero: the speed of the decrease beyond b.
        patience: b, in versions of the server: the largest staleness with weight 1.

    Raises:
        ConfigError: The slope is not above zero, or the patience is below zero.

    >>> import numpy as np
    >>> hinge(slope=2.0, patience=3.0).weight(np.array([0, 3, 5])).tolist()
    [1.0, 1.0, 0.20000000298023224]
    """
    return Staleness(lambda tau: _rounded(1.0 / (slope * np.maximum(_age(tau) - patience, 0.0) + 1.0)))


def _age(tau: np.ndarray) -> np.ndarray | np.float64:
    """Return the staleness as float64; a negative one, which no engine produces, counts as 0."""
    return np.maximum(np.asarray(tau, np.float64), 0.0)


def _rounded(weight: np.ndarray | np.float64) -> np.ndarray:
    return np.asarray(weight, np.float32)
