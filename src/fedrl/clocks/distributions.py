"""Define distributions of a quantity over devices, such as seconds per step.

A distribution draws one number per agent. `step_s=1.0` is the same number for all, `step_s=[1, 1, 4]` has one per
agent, and `step_s=stragglers(...)` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int32

from fedrl.clocks.counter_rng import Purpose, normal, uniform
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Fraction, NonNegative, Positive, Rate


@record
class Distribution:
    """The distribution of a quantity over devices.

    Attributes:
        values: `(agents, seed, purpose) -> [agents]`: draw the number of each agent.
        call: The constructor call that made the distribution.
    """

    values: Callable[[int, int, int], Float64[np.ndarray, " agents"]]
    call: Call | None = None


Distributed: TypeAlias = NonNegative | Sequence[NonNegative] | Distribution
"""One number for all devices, one for each, or a distribution."""
DistributedRate: TypeAlias = Rate | Sequence[Rate] | Distribution
"""The same of bytes per second."""


@component("distribution")
def uniform_between(low: NonNegative, high: NonNegative) -> Distribution:
    """Draw uniformly from [low, high].

    Args:
        low: The lower end, at least 0.
        high: The upper end.

    Raises:
        ConfigError: The range is empty or begins below zero.

    >>> uniform_between(1.0, 1.0).values(2, 0, 0).tolist()
    [1.0, 1.0]
    """
    if not 0.0 <= low <= high:
        raise ConfigError(f"low is {low} and high is {high}. The range is empty or not of sizes. Let 0 <= low <= high.")
    return Distribution(lambda agents, seed, purpose: low + (high - low) * uniform(seed, purpose, np.arange(agents)))


@component("distribution")
def lognormal(median: Positive, sigma: NonNegative = 0.5) -> Distribution:
    """Draw from a log-normal distribution: median * exp(sigma * N(0, 1)).

    Args:
        median: The median over devices.
        sigma: The standard deviation of the logarithm; with 0.5, one device in six has 1.65 times the median or more.

    Raises:
        ConfigError: A number is out of range.

    >>> lognormal(2.0, sigma=0.0).values(2, 0, 0).tolist()
    [2.0, 2.0]
    """
    if sigma < 0.0:
        raise ConfigError(f"sigma is {sigma}. It is a standard deviation. Set it to 0 or more.")

    def values(agents: int, seed: int, purpose: int) -> np.ndarray:
        # A normal number takes two consecutive streams; beyond 100 these overlap with no `Purpose` of another draw.
        return np.asarray(median * np.exp(sigma * normal(seed, 100 + 2 * purpose, np.arange(agents))))

    return Distribution(values)


@component("distribution")
def stragglers(typical: Positive, fraction: Fraction = 0.1, slowdown: Positive = 20.0) -> Distribution:
    """Give a drawn fraction of agents, the stragglers, `slowdown` times the typical number.

    Args:
        typical: The number of all other agents.
        fraction: The fraction of stragglers, rounded to a whole number of agents.
        slowdown: The factor of stragglers: above 1 for seconds per step, below 1 for bandwidths.

    Raises:
        ConfigError: A number is out of range.

    >>> float(stragglers(1.0, fraction=0.25, slowdown=4.0).values(8, 0, 0).sum())
    14.0
    """
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"fraction is {fraction}. It is a part of all agents. Set it between 0 and 1.")

    def values(agents: int, seed: int, purpose: int) -> np.ndarray:
        # The smallest of uniform draws are a random subset of an exact size; a coin per agent would vary in size.
        slow = np.argsort(uniform(seed, purpose, np.arange(agents)))[: round(fraction * agents)]
        found = np.full(agents, float(typical))
        found[slow] *= slowdown
        return found

    return Distribution(values)


def draw(distribution: Distributed, agents: int, seed: int, purpose: int, name: str) -> Float64[np.ndarray, " agents"]:
    """Return the number of each agent, `[agents]`.

    Args:
        distribution: One number, one per agent, or a distribution.
        agents: The number of agents.
        seed: The seed of the draws.
        purpose: The stream of the draws, a `fedrl.clocks.counter_rng.Purpose`.
        name: The name of the quantity, for the error message.

    Raises:
        ConfigError: A list has not one entry per agent.
    """
    if isinstance(distribution, Distribution):
        return distribution.values(agents, seed, purpose)
    if isinstance(distribution, int | float):
        return np.full(agents, float(distribution))
    if len(distribution) != agents:
        raise ConfigError(
            f"{name} has {len(distribution)} entries and there are {agents} agents. Give one number for each, one for "
            "all, or a distribution such as lognormal(...)."
        )
    return np.asarray(distribution, np.float64)


def delays_of(delay_rounds: Distributed, agents: int) -> Int32[np.ndarray, " agents"]:
    """Return the delay of each agent in versions, int32 `[agents]`; draws are rounded, and the same in every run.

    Raises:
        ConfigError: A delay is below 0 or not a whole number, or there is not one for each agent.

    >>> delays_of([0, 2], 2).tolist()
    [0, 2]
    """
    check_distribution(0.0, delay_rounds=delay_rounds)
    found = draw(delay_rounds, agents, 0, Purpose.DELAY, "delay_rounds")
    # Draws are rounded, but a number that a user wrote must be a whole one.
    whole = np.rint(found)
    if not np.isfinite(found).all() or (not isinstance(delay_rounds, Distribution) and (whole != found).any()):
        raise ConfigError(
            f"delay_rounds is {delay_rounds}. It counts versions of the server's parameters. Give whole numbers."
        )
    return whole.astype(np.int32)


def check_distribution(lowest: float, **distributions: Distributed) -> None:
    """Refuse numbers below the lowest allowed one.

    Raises:
        ConfigError: A number is too small; the message has the argument's name and value.
    """
    for name, distribution in distributions.items():
        given = () if isinstance(distribution, Distribution) else np.atleast_1d(np.asarray(distribution, float))
        # `not >=` refuses NaN as well.
        if any(not value >= lowest for value in given):
            raise ConfigError(
                f"{name} is {distribution}. The lowest allowed value is {lowest:g}. Set it, or each entry, to "
                f"{lowest:g} or more."
            )
