"""Whose updates were refused, how often and why: of a round, of a seed while it runs, and of a whole run.

Round --refusals_in--> record --History.add--> who has never learned, whom to warn of
                       records --refusals_of--> summary.json
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedrl.engines.state import RoundResult
from fedrl.records import RejectedAgent, RejectedEvent, RejectedUpdates

WARNED_OF = 2
"""Refusals in a row after which a warning is due: the first may have been a fault that has passed."""
MOST_WARNINGS = 5
"""Of one seed of one method; all that follow are in the summary."""
NOTHING_MERGED = "nothing was ever merged"
UNLEARNED = "it learned nothing, refused in every round"


def rejections_in(seen: RoundResult) -> dict[str, list[int]]:
    """The refused agents of a round by the reason, in the order in which they were refused.

    On a virtual clock an agent is in it once for each of its refused updates.
    """
    found: dict[str, list[int]] = {}
    for rejection in seen.rejected:
        found.setdefault(rejection.reason, []).append(int(rejection.agent))
    return found


def kind_of(reason: str) -> str:
    """A reason without how far it goes, which differs from agent to agent: reasons of a kind are told together.

    >>> kind_of("update['q'] reaches 3e+38, and sums are exact below 2e+19")
    "update['q'] reaches, and sums are exact below 2e+19"
    """
    return re.sub(r"reaches [-+.\w]+", "reaches", reason)


@dataclass
class History:
    """The refusals of one seed of one method, round by round.

    Attributes:
        method: Which.
        seed: Of the run.
        communicates: Whether anything is merged at all.
        rounds: How many have gone by.
        merged: Those in which anything was merged.
    """

    method: str
    seed: int
    communicates: bool
    rounds: int = 0
    merged: int = 0
    _refused: Counter[int] = field(default_factory=Counter)  # rounds
    _in_a_row: Counter[int] = field(default_factory=Counter)
    _reasons: dict[int, str] = field(default_factory=dict)
    _warned: set[int] = field(default_factory=set)
    _warnings: int = 0

    @classmethod
    def of(cls, method: str, seed: int, communicates: bool, records: Iterable[Mapping[str, Any]]) -> History:
        """That of the rounds before a resumption; nobody is warned of them again.

        Records do not say who sat a round out: whoever was not refused in it begins a new row.
        """
        history = cls(method, seed, communicates)
        for record in records:
            if record["method"] == method and record["seed"] == seed:
                history.add(record)
        return history

    def add(self, record: Mapping[str, Any], steps: np.ndarray | None = None) -> list[RejectedEvent]:
        """A round has ended.

        Args:
            record: Of the round.
            steps: Local steps of every agent in it, 0 for who sat it out; None if all took part.

        Returns:
            What to warn of, the agents of one reason together.
        """
        self.rounds += 1
        self.merged += record.get("merged", True)
        rejected = record.get("rejections") or {}
        counts = Counter(agent for agents in rejected.values() for agent in agents)
        for agent in [a for a in self._in_a_row if a not in counts and (steps is None or steps[a] > 0)]:
            del self._in_a_row[agent]
        self._refused.update(counts.keys())
        self._in_a_row.update(counts)
        self._reasons |= {agent: reason for reason, agents in rejected.items() for agent in agents}
        due = {a for a in counts if self._in_a_row[a] >= WARNED_OF} - self._warned
        self._warned |= due
        warnings: list[RejectedEvent] = []
        together: dict[str, list[int]] = {}
        for agent in sorted(due):
            together.setdefault(kind_of(self._reasons[agent]), []).append(agent)
        for agents in list(together.values())[: MOST_WARNINGS - self._warnings]:
            self._warnings += 1
            warnings.append(
                {
                    "event": "rejected",
                    "method": self.method,
                    "seed": self.seed,
                    "round": int(record["round"]),
                    "agents": agents,
                    "reason": self._reasons[agents[0]],
                }
            )
        return warnings

    @property
    def unlearned(self) -> dict[int, str]:
        """The agents that were refused in every round so far: they hold what they were born with."""
        never = [agent for agent, rounds in sorted(self._refused.items()) if rounds == self.rounds]
        return dict.fromkeys(never, UNLEARNED)

    @property
    def failed(self) -> str:
        """Why there is nothing that all agents could act with; empty if there is."""
        return NOTHING_MERGED if self.communicates and self.rounds and not self.merged else ""


def rejections_of(records: Sequence[Mapping[str, Any]]) -> dict[str, RejectedUpdates]:
    """Of each method in which an update was refused, a round passed over, or a seed merged nothing."""
    found: dict[str, RejectedUpdates] = {}
    for method in dict.fromkeys(str(record["method"]) for record in records):
        of_it = [record for record in records if record["method"] == method]
        text = _refused_of(of_it)
        if text["updates"] or text["skipped"] or text["unmerged"]:
            found[method] = text
    return found


def _refused_of(records: Sequence[Mapping[str, Any]]) -> RejectedUpdates:
    updates: Counter[int] = Counter()
    rounds: Counter[int] = Counter()
    reasons: dict[int, str] = {}
    for record in records:
        rejected = record.get("rejections") or {}
        here = Counter(agent for agents in rejected.values() for agent in agents)
        updates.update(here)
        rounds.update(here.keys())
        reasons |= {agent: reason for reason, agents in rejected.items() for agent in agents}
    agents: list[RejectedAgent] = [
        {"id": k, "updates": updates[k], "rounds": rounds[k], "reason": reasons[k]} for k in sorted(updates)
    ]
    merged: dict[int, bool] = {}
    for record in records:
        merged[record["seed"]] = merged.get(record["seed"], False) or record.get("merged", True)
    skipped = [record["skipped"] for record in records if record.get("skipped")]
    return {
        "updates": sum(int(record.get("rejected") or 0) for record in records),
        "rounds": len(records),
        "agents": agents,
        "skipped": len(skipped),
        "skipped_because": skipped[-1] if skipped else None,
        "unmerged": sorted(seed for seed, anything in merged.items() if not anything),
    }
