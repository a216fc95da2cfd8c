"""Sentences about a summary: rejected updates, agents that are left out, seeds that never merged an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrl.records import WITHOUT_ROUNDS
from fedrl.records.formatting import short
from fedrl.records.rejections import NOTHING_MERGED, kind_of

NAMED = 8
MOST_LINES = 4
"""Lines about rejected agents, for each method; the report's table has all of them."""


def notices_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the sentences about a summary; none if no update was rejected and no agent left out.

    Args:
        summary: As in `summary.json`; summaries of older runs lack the keys and have no sentences.
    """
    rejections = summary.get("rejections") or {}
    return [*ended_in(summary), *unmerged_in(summary), *_total(rejections), *_refused(rejections), *_left_out(summary)]


def ended_in(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each seed of the federation that ended before its last round, at most four of them."""
    ended = summary.get("ended") or []
    planned = summary.get("rounds")
    lines = [
        f"Seed {each['seed']} ended after round {each['round']:,} of {planned:,}: {each['reason']}"
        if each["round"]
        else f"Seed {each['seed']} ended before its first round, so it has no result: {each['reason']}"
        for each in ended[:MOST_LINES]
    ]
    more = len(ended) - MOST_LINES
    return [*lines, *([f"{more:,} more seeds ended before their last round; see summary.json."] if more > 0 else [])]


TOO_FEW = "in no round did as many updates arrive as the quorum of its schedule"


def unmerged_in(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence if there are seeds in which the federation never merged an update."""
    found = (summary.get("rejections") or {}).get("federated") or {}
    seeds = found.get("unmerged") or []
    if not seeds:
        return []
    reasons = [found["skipped_because"]] if found.get("skipped_because") else []
    reasons += [agent["reason"] for agent in found.get("agents") or []]
    last = f" ({reasons[0] if reasons else TOO_FEW + _jobs(summary.get('virtual_time') or {})})"
    return [f"Nothing was ever merged in {named(seeds, 'seed')}, so the federation has no result there{last}."]


def _jobs(seen: Mapping[str, Any]) -> str:
    """Return how the jobs of a seed ended on a virtual clock that lost some, in words."""
    if not seen.get("dropped"):
        return ""
    restarted = f", {short(seen['restarted'])} of them by a restart" if seen.get("restarted") else ""
    return f": {short(seen['dropped'])} jobs of a seed ended without an update{restarted}"


def named(numbers: Sequence[int], what: str = "agent") -> str:
    """Return the numbers of agents, or of other things, in words; at most eight of them.

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
    return [f"{whole:,} update{'' if whole == 1 else 's'} rejected: {each}."]


def _refused(rejections: Mapping[str, Any]) -> list[str]:
    """Return lines with agents and reasons, equal agents in one line; and the rounds that the server skipped."""
    lines = []
    for method, found in rejections.items():
        alike: dict[tuple[int, int, str], list[int]] = {}
        reasons = {agent["id"]: agent["reason"] for agent in found["agents"]}
        for agent in found["agents"]:
            # Agents with equal counts and reasons of one kind share a line, else 1,000 agents would take 1,000 lines.
            alike.setdefault((agent["rounds"], agent["updates"], kind_of(agent["reason"])), []).append(agent["id"])
        ordered = sorted(alike.items(), key=lambda item: -item[0][0])
        for (rounds, updates, _), ids in ordered[:MOST_LINES]:
            who = "" if method == "centralised" else f"{named(ids)} "
            often = f"in {rounds:,} of {found['rounds']:,} rounds" + (f", {updates:,} times" * (updates != rounds))
            often = ("once" if updates == 1 else f"{updates:,} times") if method in WITHOUT_ROUNDS else often
            lines.append(f"{_words(method)}: {who}rejected {often}: {reasons[ids[0]]}")
        hidden = sum(len(ids) for _, ids in ordered[MOST_LINES:])
        if hidden:
            lines.append(f"{_words(method)}: {hidden:,} more agents rejected; summary.json and the report list them")
        if found.get("repeated"):
            often = "once" if found["repeated"] == 1 else f"{found['repeated']:,} times"
            lines.append(
                f"{_words(method)}: the round of an agent was repeated {often} after its environment failed, last of "
                f"{found['repeated_because']}"
            )
        if found["skipped"]:
            often = f"{found['skipped']:,} of {found['rounds']:,} rounds"
            lines.append(f"{_words(method)}: the server skipped {often}: {found['skipped_because']}")
    return lines


def _left_out(summary: Mapping[str, Any]) -> list[str]:
    """Return lines on the agents that methods leave out, equal omissions together, then comparisons of the rest."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for method, omitted in (summary.get("left_out") or {}).items():
        for item in omitted:
            if item["reason"] == NOTHING_MERGED:  # `unmerged_in` has said so
                continue
            key = (item["what"], tuple(item["agents"]), tuple(item["seeds"]), item["reason"], method == "held_out")
            alike.setdefault(key, []).append(method)
    lines = []
    for (what, agents, seeds, reason, unseen), methods in alike.items():
        thing = "environment" if unseen else "agent"
        where = "" if len(seeds) == len(summary.get("seeds") or ()) else f" in {named(seeds, 'seed')}"
        text = {
            "return": f"no return of {named(agents, thing)}",
            "policy": f"computed without {named(agents, thing)}",
            "everything": "no result",
        }[what]
        pooled = _pooled(summary) if "centralised" in methods and what == "everything" else ""
        lines.append(f"{', '.join(map(_words, methods))}: {text}{where}: {reason}{pooled}")
    for method, both in (summary.get("compared") or {}).items():
        ours, theirs = short(both["federated"]["mean"]), short(both["baseline"]["mean"])
        of = "agent" if both["agents"] == 1 else "agents"
        where = f"over the {both['agents']:,} {of} for which both have a return"
        lines.append(f"{where}, federated returns {ours} and {_words(method)} {theirs}")
    return lines


def _pooled(summary: Mapping[str, Any]) -> str:
    """Return which agents' data may have made the pooled learner fail: those that the federation always rejected."""
    found = (summary.get("rejections") or {}).get("federated") or {}
    always = [agent["id"] for agent in found.get("agents") or [] if agent["rounds"] == found["rounds"]]
    return f"; it pools the data of all agents, including {named(always)}" if always else ""
