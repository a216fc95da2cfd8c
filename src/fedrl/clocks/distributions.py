"""How a quantity differs between devices: a second per step here, twenty there.

A spread draws one number per agent. A number stands for itself and a list for one number per agent, so that
`step_s=1.0`, `step_s=[1, 1, 4]` and `step_s=stragglers(...)` all say how fast devices are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int32

from fedrl.clocks.counter_rng import Purpose, normal, uniform
from fedrl.core.checks import check_above_zero
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError


@record
class Distribution:
    """How a quantity differs between devices.

    Attributes:
        values: `(agents, seed, purpose) -> [agents]`, each agent's own number.
    """

    values: Callable[[int, int, int], Float64[np.ndarray, " agents"]]
    call: Call | None = None


Distributed = float | Sequence[float] | Distribution
"""One number for all devices, one for each, or how they are drawn."""


@component("distribution")
def uniform_between(low: float, high: float) -> Distribution:
    """Anything from low to high, all equally likely.

    Raises:
        ConfigError: The range is empty or begins below zero.
    """
    if not 0.0 <= low <= high:
        raise ConfigError(f"low is {low} and high is {high}. The range is empty or not of sizes. Let 0 <= low <= high.")
    return Distribution(lambda agents, seed, purpose: low + (high - low) * uniform(seed, purpose, np.arange(agents)))


@component("distribution")
def lognormal(median: float, sigma: float = 0.5) -> Distribution:
    """Around a median, a few much larger: median * exp(sigma * N(0, 1)).

    Args:
        median: Half the devices are above.
        sigma: Standard deviation of the logarithm; 0.5 makes one device in six 1.65 times the median or more.

    Raises:
        ConfigError: A number is out of range.
    """
    check_above_zero(median=median)
    if sigma < 0.0:
        raise ConfigError(f"sigma is {sigma}. It is a standard deviation. Set it to 0 or more.")

    def values(agents: int, seed: int, purpose: int) -> np.ndarray:
        return np.asarray(median * np.exp(sigma * normal(seed, 100 + 2 * purpose, np.arange(agents))))

    return Distribution(values)


@component("distribution")
def stragglers(typical: float, fraction: float = 0.1, slowdown: float = 20.0) -> Distribution:
    """The same for all, but for a fraction of stragglers, for whom it is so many times as much.

    Args:
        typical: What it is for the others.
        fraction: Of the agents, rounded to whole ones; which ones is drawn.
        slowdown: 20 for seconds per step: twenty times slower. Below 1 for bandwidths.

    Raises:
        ConfigError: A number is out of range.

    >>> float(stragglers(1.0, fraction=0.25, slowdown=4.0).values(8, 0, 0).sum())
    14.0
    """
    check_above_zero(typical=typical, slowdown=slowdown)
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"fraction is {fraction}. It is a part of all agents. Set it between 0 and 1.")

    def values(agents: int, seed: int, purpose: int) -> np.ndarray:
        slow = np.argsort(uniform(seed, purpose, np.arange(agents)))[: round(fraction * agents)]
        found = np.full(agents, float(typical))
        found[slow] *= slowdown
        return found

    return Distribution(values)


def draw(distribution: Distributed, agents: int, seed: int, purpose: int, name: str) -> Float64[np.ndarray, " agents"]:
    """Each agent's number.

    Raises:
        ConfigError: A list has another number of entries than there are agents.
    """
    if isinstance(distribution, Distribution):
        return distribution.values(agents, seed, purpose)
    if isinstance(distribution, int | float):
        return np.full(agents, float(distribution))
    if len(distribution) != agents:
        raise ConfigError(
            f"{name} has {len(distribution)} entries and there are {agents} agents. Give one number for each, one for "
            "all, or a spread such as lognormal(...)."
        )
    return np.asarray(distribution, np.float64)


def delays_of(delay_rounds: Distributed, agents: int) -> Int32[np.ndarray, " agents"]:
    """Each agent's delay in versions; what a spread draws is rounded, and is the same in every run.

    Raises:
        ConfigError: A delay is below 0 or no whole number, or there is not one for each agent.

    >>> delays_of([0, 2], 2).tolist()
    [0, 2]
    """
    check_distribution(0.0, delay_rounds=delay_rounds)
    found = draw(delay_rounds, agents, 0, Purpose.DELAY, "delay_rounds")
    whole = np.rint(found)
    if not np.isfinite(found).all() or (not isinstance(delay_rounds, Distribution) and (whole != found).any()):
        raise ConfigError(
            f"delay_rounds is {delay_rounds}. It counts versions of what a server sends. Give whole numbers."
        )
    return whole.astype(np.int32)


def check_distribution(lowest: float, **distributions: Distributed) -> None:
    """Refuse numbers that are too small.

    Raises:
        ConfigError: It names the argument and the value.
    """
    for name, distribution in distributions.items():
        given = () if isinstance(distribution, Distribution) else np.atleast_1d(np.asarray(distribution, float))
        if any(not value >= lowest for value in given):
            raise ConfigError(
                f"{name} is {distribution}. Nothing takes less than {lowest:g}. Set it, or each entry, to {lowest:g} "
                "or more."
            )
