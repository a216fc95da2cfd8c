"""What a summary has to say beside its numbers, in sentences: who was refused, what was left out, what never merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrl.records import WITHOUT_ROUNDS
from fedrl.records.formatting import short
from fedrl.records.rejections import NOTHING_MERGED, kind_of

NAMED = 8
MOST_LINES = 4
"""Of refused agents, for each method; the report's table has all of them."""


def notices_of(summary: Mapping[str, Any]) -> list[str]:
    """The sentences, none if nothing was refused or left out.

    Args:
        summary: As in `summary.json`; that of an older run has none of this.
    """
    rejections = summary.get("rejections") or {}
    return [*unmerged_in(summary), *_total(rejections), *_refused(rejections), *_left_out(summary)]


TOO_FEW = "in no round did as many updates arrive as the quorum of its schedule"


def unmerged_in(summary: Mapping[str, Any]) -> list[str]:
    """A sentence if there are seeds in which the federation never merged anything."""
    found = (summary.get("rejections") or {}).get("federated") or {}
    seeds = found.get("unmerged") or []
    if not seeds:
        return []
    reasons = [found["skipped_because"]] if found.get("skipped_because") else []
    reasons += [agent["reason"] for agent in found.get("agents") or []]
    last = f" ({reasons[0] if reasons else TOO_FEW})"
    return [f"Nothing was ever merged in {named(seeds, 'seed')}, so the federation has no result there{last}."]


def named(numbers: Sequence[int], what: str = "agent") -> str:
    """Some agents, or whatever is numbered, in words.

    >>> named([3]), named([1, 2], "seed"), named(range(11))
    ('agent 3', 'seeds 1, 2', 'agents 0, 1, 2, 3, 4, 5, 6, 7 and 3 more')
    """
    listed = ", ".join(str(n) for n in numbers[:NAMED])
    more = f" and {len(numbers) - NAMED:,} more" if len(numbers) > NAMED else ""
    return f"{what}{'' if len(numbers) == 1 else 's'} {listed}{more}"


def _words(method: str) -> str:
    return "held-out environments" if method == "held_out" else method.replace("_", " ")


def _total(rejections: Mapping[str, Any]) -> list[str]:
    counts = {method: found["updates"] for method, found in rejections.items() if found["updates"]}
    if not counts:
        return []
    each = ", ".join(f"{many:,} of {_words(method)}" for method, many in counts.items())
    whole = sum(counts.values())
    return [f"{whole:,} update{'' if whole == 1 else 's'} refused: {each}."]


def _refused(rejections: Mapping[str, Any]) -> list[str]:
    """Whose and why, agents alike in one line; and what the server passed over."""
    lines = []
    for method, found in rejections.items():
        alike: dict[tuple[int, int, str], list[int]] = {}
        reasons = {agent["id"]: agent["reason"] for agent in found["agents"]}
        for agent in found["agents"]:
            alike.setdefault((agent["rounds"], agent["updates"], kind_of(agent["reason"])), []).append(agent["id"])
        ordered = sorted(alike.items(), key=lambda item: -item[0][0])
        for (rounds, updates, _), ids in ordered[:MOST_LINES]:
            who = "" if method == "centralised" else f"{named(ids)} "
            often = f"in {rounds:,} of {found['rounds']:,} rounds" + (f", {updates:,} times" * (updates != rounds))
            often = ("once" if updates == 1 else f"{updates:,} times") if method in WITHOUT_ROUNDS else often
            lines.append(f"{_words(method)}: {who}refused {often}: {reasons[ids[0]]}")
        hidden = sum(len(ids) for _, ids in ordered[MOST_LINES:])
        if hidden:
            lines.append(f"{_words(method)}: {hidden:,} more agents refused; summary.json and the report name them")
        if found["skipped"]:
            often = f"{found['skipped']:,} of {found['rounds']:,} rounds"
            lines.append(f"{_words(method)}: the server passed over {often}: {found['skipped_because']}")
    return lines


def _left_out(summary: Mapping[str, Any]) -> list[str]:
    """What methods go without; those that go without the same in one line, each followed by a fair comparison."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for method, omitted in (summary.get("left_out") or {}).items():
        for item in omitted:
            if item["reason"] == NOTHING_MERGED:  # the first sentence says so
                continue
            key = (item["what"], tuple(item["agents"]), tuple(item["seeds"]), item["reason"], method == "held_out")
            alike.setdefault(key, []).append(method)
    lines = []
    for (what, agents, seeds, reason, unseen), methods in alike.items():
        thing = "environment" if unseen else "agent"
        where = "" if len(seeds) == len(summary.get("seeds") or ()) else f" in {named(seeds, 'seed')}"
        text = {
            "return": f"no return of {named(agents, thing)}",
            "policy": f"made without {named(agents, thing)}",
            "everything": "no result",
        }[what]
        pooled = _pooled(summary) if "centralised" in methods and what == "everything" else ""
        lines.append(f"{', '.join(map(_words, methods))}: {text}{where}: {reason}{pooled}")
    for method, both in (summary.get("compared") or {}).items():
        ours, theirs = short(both["federated"]["mean"]), short(both["baseline"]["mean"])
        of = "agent" if both["agents"] == 1 else "agents"
        where = f"over the {both['agents']:,} {of} of which both have a return"
        lines.append(f"{where}, federated returns {ours} and {_words(method)} {theirs}")
    return lines


def _pooled(summary: Mapping[str, Any]) -> str:
    """Which agents' data may have spoilt those of all: those that the federation always refused."""
    found = (summary.get("rejections") or {}).get("federated") or {}
    always = [agent["id"] for agent in found.get("agents") or [] if agent["rounds"] == found["rounds"]]
    return f"; it pools the data of all, those of {named(always)} too" if always else ""
