"""Account for the privacy loss of each agent: charge a round before it releases anything, refuse it beyond the budget.

    may() --agents with budget left--> charge(who) --a round--> settle(participants)

A round is charged to all agents that may take part. Where the price is for participants only, those that turn out not
to have sent anything get their charge back; a process that ends in between leaves the larger number.

Agents with the same budget and the same charges have the same history, so bounds are computed per history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import FedrlError
from fedrl.privacy.composition import epsilon_of, is_tight, most_releases, quick_epsilon
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


class ChargeHistory(NamedTuple):
    """What agents have in common that were charged for the same.

    Attributes:
        budget: Their epsilon.
        releases: The events that were charged, each with its count.
    """

    budget: float
    releases: tuple[tuple[Any, int], ...] = ()

    def after(self, event: Any, times: int) -> ChargeHistory:
        """Return the history with further releases of an event, or fewer if `times` is negative."""
        counts = dict(self.releases)
        counts[event] = counts.get(event, 0) + times
        return ChargeHistory(self.budget, tuple((known, count) for known, count in counts.items() if count))


class Ledger:
    """The account of a run.

    Args:
        budget: The budget.
        price: The price of a round.
        adaptive: Whether the events of later rounds are chosen from the results of earlier ones.
    """

    def __init__(self, budget: Budget, price: Price, adaptive: bool = False) -> None:
        self.budget, self.price, self.adaptive = budget, price, adaptive
        self.agents = len(price.events)
        self._events: list[Any] = []
        self._number: dict[Any, int] = {}
        self._histories: list[ChargeHistory] = []
        self._place: dict[ChargeHistory, int] = {}
        self._usual = self._numbered(price.events)
        self._of = np.array([self._placed(ChargeHistory(budget.of(k))) for k in range(self.agents)])
        self._limits: dict[tuple[Any, float], int] = {}
        self._allowed: dict[tuple[int, int], bool] = {}
        self._spent: dict[int, float] = {}

    def may(self, events: Sequence[Any] | None = None) -> np.ndarray:
        """Return the mask of the agents that one more round leaves within their budget.

        Args:
            events: The event of the round for each agent, if it differs from `price`.
        """
        found, inverse = self._pairs(events, np.ones(self.agents, bool))
        return np.array([self._within(*pair) for pair in found], bool)[inverse]

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
        self.add(who, events)
        return who

    def settle(self, charged: np.ndarray, participants: np.ndarray, events: Sequence[Any] | None = None) -> np.ndarray:
        """Return the charge for the last round to agents that sent nothing, if the price is for participants.

        Args:
            charged: As `charge` returned it.
            participants: Mask of the agents that took part.
            events: As `charge` was given.

        Returns:
            Mask of the agents that got their charge back.
        """
        back = charged & ~np.asarray(participants, bool) & self.price.participants
        self.add(back, events, -1)
        return back

    def add(self, who: np.ndarray, events: Sequence[Any] | None = None, times: int = 1) -> None:
        """Charge agents without a check, as when a ledger is read from a file."""
        found, inverse = self._pairs(events, who)
        after = [self._placed(self._histories[history].after(self._events[event], times)) for history, event in found]
        if after:
            self._of[who] = np.array(after)[inverse]

    def spent(self, certified: bool = False) -> np.ndarray:
        """Return an upper bound of the epsilon that each agent has spent, `[agents]`.

        Args:
            certified: Compute the tightest bound, which may take a second; else one that is the tightest at the end of
                the budget, and never above it.
        """
        histories, inverse = np.unique(self._of, return_inverse=True)
        bound = self._tightest if certified else self._shown
        return np.array([bound(int(history)) for history in histories])[inverse]

    def epsilon(self, certified: bool = False) -> float:
        """Return the largest epsilon that an agent has spent."""
        return float(self.spent(certified).max(initial=0.0))

    def releases(self) -> list[Mapping[Any, int]]:
        """Return the events that were charged to each agent, with their counts."""
        each = [MappingProxyType(self._counted(history.releases)) for history in self._histories]
        return [each[i] for i in self._of]

    def releases_left(self) -> int:
        """Return how many further events of `price` one of the agents may be charged for."""
        left = 0
        for history, event in self._pairs(None, np.ones(self.agents, bool))[0]:
            known = self._histories[history]
            if len(known.releases) > 1 or self.adaptive:
                left = max(left, int(self._within(history, event)))
            else:
                counted = 0 if self.price.parallel else dict(known.releases).get(self._events[event], 0)
                left = max(left, self._limit(self._events[event], known.budget) - counted)
        return left

    def _within(self, history: int, event: int) -> bool:
        at = (history, event)
        if at not in self._allowed:
            allowed, releases = self._histories[history].after(self._events[event], 1)
            counted = self._counted(releases)
            if len(counted) == 1 and not self.adaptive:
                self._allowed[at] = next(iter(counted.values())) <= self._limit(self._events[event], allowed)
            else:
                self._allowed[at] = quick_epsilon(counted, self.budget.delta, self.price.relation) <= allowed
        return self._allowed[at]

    def _limit(self, event: Any, allowed: float) -> int:
        at = (event, allowed)
        if at not in self._limits:
            self._limits[at] = most_releases(event, allowed, self.budget.delta, self.price.relation)
        return self._limits[at]

    def _shown(self, history: int) -> float:
        if history not in self._spent:
            allowed, releases = self._histories[history]
            counted = self._counted(releases)
            delta, relation = self.budget.delta, self.price.relation
            found = quick_epsilon(counted, delta, relation)
            if len(counted) == 1 and not self.adaptive and not is_tight(counted, delta, relation):
                # The tightest bound takes 50 ms. That of the whole budget is known, and holds for less of it, too.
                event, count = next(iter(counted.items()))
                limit = self._limit(event, allowed)
                if count <= limit:
                    found = min(found, epsilon_of({event: limit}, delta, relation))
            self._spent[history] = found
        return self._spent[history]

    def _tightest(self, history: int) -> float:
        counted = self._counted(self._histories[history].releases)
        return epsilon_of(counted, self.budget.delta, self.price.relation, self.adaptive)

    def _counted(self, releases: tuple[tuple[Any, int], ...]) -> dict[Any, int]:
        return {event: min(count, 1) if self.price.parallel else count for event, count in releases}

    def _pairs(self, events: Sequence[Any] | None, who: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Return the different pairs of a history and an event among some agents, and the pair of each of them."""
        numbers = self._usual if events is None else self._numbered(events)
        many = len(self._events)
        codes, inverse = np.unique(self._of[who] * many + numbers[who], return_inverse=True)
        return [divmod(int(code), many) for code in codes], inverse

    def _numbered(self, events: Sequence[Any]) -> np.ndarray:
        """Return the number of each event in the list of all that were seen."""
        known: dict[int, int] = {}
        for event in events:
            if id(event) not in known:  # agents have few different ones, and their hash takes long
                number = self._number.setdefault(event, len(self._events))
                if number == len(self._events):
                    self._events.append(event)
                known[id(event)] = number
        return np.array([known[id(event)] for event in events])

    def _placed(self, history: ChargeHistory) -> int:
        place = self._place.setdefault(history, len(self._histories))
        if place == len(self._histories):
            self._histories.append(history)
        return place
