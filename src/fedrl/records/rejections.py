"""Rejected updates, with their agents and reasons: in a round, in a seed while it runs, and in a whole run.

RoundResult --rejections_in--> record --History.add--> agents without a merged update, warnings
                               records --rejections_of--> summary.json
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
"""Rejections in a row after which a warning is due: the first one may be a passing fault."""
MOST_WARNINGS = 5
"""Warnings of one seed of one method; further ones are only in the summary."""
NOTHING_MERGED = "nothing was ever merged"
UNLEARNED = "it learned nothing, rejected in every round"


def rejections_in(seen: RoundResult) -> dict[str, list[int]]:
    """Return the rejected agents of a round by reason, in the order of their rejection.

    On a virtual clock an agent is listed once for each of its rejected updates.
    """
    found: dict[str, list[int]] = {}
    for rejection in seen.rejected:
        found.setdefault(rejection.reason, []).append(int(rejection.agent))
    return found


def kind_of(reason: str) -> str:
    """Return a reason without the number that differs between agents, so that similar reasons can be grouped.

    >>> kind_of("update['q'] reaches 3e+38, and sums are exact below 2e+19")
    "update['q'] reaches, and sums are exact below 2e+19"
    """
    return re.sub(r"(reaches|(?:step|copy)(?= \d)) [-+.\w]+", r"\1", reason)


@dataclass
class History:
    """The rejections of one seed of one method, round by round.

    Attributes:
        method: Name of the method.
        seed: Seed of the run.
        communicates: Whether the method merges updates at all.
        rounds: Number of rounds so far.
        merged: Number of rounds in which an update was merged.
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
        """Return the history of the rounds before a run was resumed; their warnings are not repeated.

        Records do not list the agents that were not selected, so every agent without a rejection counts from zero
        again.
        """
        history = cls(method, seed, communicates)
        for record in records:
            if record["method"] == method and record["seed"] == seed:
                history.add(record)
        return history

    def add(self, record: Mapping[str, Any], steps: np.ndarray | None = None) -> list[RejectedEvent]:
        """Add a round that has ended.

        Args:
            record: Record of the round.
            steps: Local steps of every agent, `[agents]`, 0 if it was not selected; None if all took part.

        Returns:
            The warnings that are due, one for all agents with the same reason.
        """
        self.rounds += 1
        self.merged += record.get("merged", True)
        rejected = record.get("rejections") or {}
        counts = Counter(agent for agents in rejected.values() for agent in agents)
        # Only an agent that worked without a rejection breaks its row: one that was not selected proved nothing.
        for agent in [a for a in self._in_a_row if a not in counts and (steps is None or steps[a] > 0)]:
            del self._in_a_row[agent]
        self._refused.update(counts.keys())
        self._in_a_row.update(counts)
        self._reasons |= {agent: reason for reason, agents in rejected.items() for agent in agents}
        # One warning per agent and seed: an agent that stays broken would fill the terminal.
        due = {a for a in counts if self._in_a_row[a] >= WARNED_OF} - self._warned
        # Reasons differ in a number from agent to agent; agents with one kind of reason share a warning.
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
        """Agents that were rejected in every round so far, with the reason: they still have their first parameters."""
        never = [agent for agent, rounds in sorted(self._refused.items()) if rounds == self.rounds]
        return dict.fromkeys(never, UNLEARNED)

    @property
    def failed(self) -> str:
        """Why the method has no policy for all agents; empty if it has."""
        return NOTHING_MERGED if self.communicates and self.rounds and not self.merged else ""


def rejections_of(records: Sequence[Mapping[str, Any]]) -> dict[str, RejectedUpdates]:
    """Return, by method, rejected updates, skipped rounds and seeds without a merge; methods without any are absent."""
    found: dict[str, RejectedUpdates] = {}
    for method in dict.fromkeys(str(record["method"]) for record in records):
        of_it = [record for record in records if record["method"] == method]
        text = _refused_of(of_it)
        repeated = [each for r in of_it for each in r.get("environment_failures") or () if each["repeated"]]
        if repeated:
            text["repeated"] = len(repeated)
            text["repeated_because"] = f"agent {repeated[-1]['agent']}, {repeated[-1]['reason']}"
        if text["updates"] or text["skipped"] or text["unmerged"] or repeated:
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
