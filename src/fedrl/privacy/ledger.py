"""Account for the privacy loss of each agent: charge a round before it releases anything, refuse it beyond the budget.

    may() --agents with budget left--> charge(who) --a round--> settle(participants)

A round is charged to all agents that may take part. Where the price is for participants only, those that turn out not
to have sent anything get their charge back; a process that ends in between leaves the larger number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import FedrlError
from fedrl.privacy.composition import epsilon_of, most_releases, quick_epsilon
from fedrl.privacy.pricing import Price


class OverspentError(FedrlError):
    """A round would exceed the privacy budget of every agent."""


class Budget(NamedTuple):
    """A privacy budget.

    Attributes:
        epsilon: The federation's epsilon.
        delta: The probability with which it may be exceeded.
        own: The smaller epsilon of agents that ask for one.
    """

    epsilon: float
    delta: float
    own: Mapping[int, float] = MappingProxyType({})

    def of(self, agent: int) -> float:
        """Return the epsilon of an agent."""
        return min(self.epsilon, self.own.get(agent, self.epsilon))


class Ledger:
    """The account of a run: how often each event was charged to each agent.

    Attributes:
        budget: The budget.
        price: The price of a round.
        counts: `[agents]` for each event, how often it was charged.
    """

    def __init__(self, budget: Budget, price: Price, adaptive: bool = False) -> None:
        self.budget, self.price, self.adaptive = budget, price, adaptive
        self.agents = len(price.events)
        self.counts: dict[Any, np.ndarray] = {}
        self._limits: dict[tuple[Any, float], int] = {}

    def may(self, events: Sequence[Any] | None = None) -> np.ndarray:
        """Return the mask of the agents that one more round leaves within their budget.

        Args:
            events: The event of the round for each agent, if it differs from `price`.
        """
        after = [self._within(k, (self.price.events if events is None else events)[k]) for k in range(self.agents)]
        return np.array(after, bool)

    def charge(self, who: np.ndarray | None = None, events: Sequence[Any] | None = None) -> np.ndarray:
        """Charge a round to agents, and return the mask of those that were charged.

        Args:
            who: Mask of the agents; all that `may` by default.
            events: As of `may`.

        Raises:
            OverspentError: It exceeds the budget of one of them, or no agent has any left.
        """
        may = self.may(events)
        who = may if who is None else np.asarray(who, bool)
        if not who.any() or (who & ~may).any():
            raise OverspentError(
                f"One more round exceeds the privacy budget, epsilon = {self.budget.epsilon:g} at delta = "
                f"{self.budget.delta:g}: {self.epsilon():.4g} is spent. Plan fewer rounds, or more noise."
            )
        self._add(who, self.price.events if events is None else events, 1)
        return who

    def settle(self, charged: np.ndarray, participants: np.ndarray) -> None:
        """Return the charge for the last round to agents that sent nothing, if the price is for participants."""
        if self.price.participants:
            self._add(charged & ~np.asarray(participants, bool), self.price.events, -1)

    def spent(self, certified: bool = False) -> np.ndarray:
        """Return the epsilon that each agent has spent, `[agents]`.

        Args:
            certified: Compute the tightest bound, which may take a second, and not the quick one.
        """
        bound = self._tightest if certified else self._quick
        found: dict[tuple[tuple[Any, int], ...], float] = {}
        return np.array([self._memo(found, bound, self._releases(k)) for k in range(self.agents)])

    def epsilon(self, certified: bool = False) -> float:
        """Return the largest epsilon that an agent has spent."""
        return float(self.spent(certified).max(initial=0.0))

    def _within(self, agent: int, event: Any) -> bool:
        releases = dict(self._releases(agent))
        releases[event] = releases.get(event, 0) + 1
        if self.price.parallel:
            releases = {event: 1}
        allowed = self.budget.of(agent)
        if len(releases) == 1 and not self.adaptive:
            at = (event, allowed)
            if at not in self._limits:
                self._limits[at] = most_releases(event, allowed, self.budget.delta, self.price.relation)
            return releases[event] <= self._limits[at]
        return quick_epsilon(releases, self.budget.delta, self.price.relation) <= allowed

    def _releases(self, agent: int) -> tuple[tuple[Any, int], ...]:
        found = ((event, int(counts[agent])) for event, counts in self.counts.items())
        return tuple((event, min(count, 1) if self.price.parallel else count) for event, count in found if count)

    def _add(self, who: np.ndarray, events: Sequence[Any], times: int) -> None:
        for event in set(events):
            mine = np.fromiter((each == event for each in events), bool, self.agents) & who
            self.counts[event] = self.counts.get(event, np.zeros(self.agents, np.int64)) + times * mine

    def _quick(self, releases: tuple[tuple[Any, int], ...]) -> float:
        return quick_epsilon(dict(releases), self.budget.delta, self.price.relation)

    def _tightest(self, releases: tuple[tuple[Any, int], ...]) -> float:
        return epsilon_of(dict(releases), self.budget.delta, self.price.relation, self.adaptive)

    @staticmethod
    def _memo(found: dict[Any, float], bound: Any, releases: tuple[tuple[Any, int], ...]) -> float:
        if releases not in found:
            found[releases] = bound(releases)
        return found[releases]
