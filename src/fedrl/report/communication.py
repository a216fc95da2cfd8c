"""Tables of the page about heterogeneity and communication: on a virtual clock, without a server, in a tree."""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.records.formatting import NOTHING, count, duration, short, size
from fedrl.report.markup import Markup, element
from fedrl.report.run import Run
from fedrl.report.tables import table


def messages_note(run: Run) -> str:
    """Return the number of messages as a sentence; empty for a run that did not count them."""
    up, down = (count(run.costs.get(name)) for name in ("messages_up", "messages_down"))
    if up == NOTHING:
        return ""
    return f" With one seed, federated agents sent {up} messages and were sent {down}."


def reading_note(run: Run) -> list[Markup]:
    """Return the paragraph on what a coordinator, or neighbours, read; none for a run that did not record it."""
    said, model = run.summary.get("reads"), run.summary.get("trust")
    return [element("p", f"{said} The trust model is ", element("code", model), ".")] if said else []


def consensus_table(run: Run) -> Markup | None:
    """Return the table of consensus, predicted by the spectrum and measured; None with a server.

    The two factors differ. The spectrum's is that of the slowest mode, which remains in the long run. Training adds
    disagreement in all modes, so a step shrinks it by more on average.
    """
    found = run.summary.get("consensus")
    if not found:
        return None
    lines = [
        ("spectral gap of the weights", short(found.get("spectral_gap"))),
        ("factor of disagreement per step, in the long run, from the spectrum", short(found.get("contraction"))),
        (
            "factor per step in this run, mean over rounds; new disagreement decays faster",
            short(found.get("measured_contraction")),
        ),
        ("distance of the agents from their mean at the end", short(found.get("distance"))),
        ("messages between agents, one seed", count(found.get("messages"))),
    ]
    return _listed(lines)


def virtual_time_table(run: Run) -> Markup | None:
    """Return the table of the clock's totals; None without a clock."""
    found = run.summary.get("virtual_time")
    if not found:
        return None
    faults = {
        "hung": "jobs that hung",
        "restarted": "jobs in which an agent restarted and lost its state",
        "duplicates": "duplicate updates, which were ignored",
        "malformed": "messages that could not be decoded, and were rejected",
    }
    lines = [
        ("time on the clock at the end", duration(found.get("time_s"))),
        ("updates that arrived", count(found.get("arrived"))),
        ("dropped jobs", count(found.get("dropped"))),
        ("jobs cancelled because the server had merged without them", count(found.get("cancelled"))),
        *((readable, count(found[name])) for name, readable in faults.items() if found.get(name)),
        ("mean staleness of updates, in versions", short(found.get("staleness"))),
    ]
    return _listed(lines)


def heterogeneity_table(run: Run) -> Markup | None:
    """Return the table of heterogeneity; None if it was not measured."""
    found = run.summary.get("heterogeneity") or {}
    names = {
        "cosine": "cosine between the updates of two agents, mean",
        "dispersion": "dispersion of updates, mean ‖Δₖ - Δ‖² / ‖Δ‖²",
        "transition": "transitions: total variation",
        "reward": "rewards: distance",
        "value": "best values: largest distance, mean over agents",
    }
    lines = [(name, short(found.get(key))) for key, name in names.items()]
    # Only finite environments have distances, and only runs with several agents have cosines.
    lines = [line for line in lines if line[1] != NOTHING]
    return _listed(lines) if lines else None


def hierarchy_table(run: Run) -> Markup | None:
    """Return the table of bytes per level of the tree, and the latency of a round; None without a tree."""
    found = run.summary.get("hierarchy")
    if not found:
        return None
    names = ["level", "senders", "merged every", "bytes up", "bytes down"]
    head = [element("th", name, scope="col", class_="number" if i else None) for i, name in enumerate(names)]
    levels = found.get("levels") or []
    rows = []
    for i, level in enumerate(levels):
        period = level.get("period")
        cells = [
            count(level.get("nodes")),
            "round" if period == 1 else f"{period} rounds",
            size(level.get("bytes_up")),
            size(level.get("bytes_down")),
        ]
        name = element("th", _level(i, len(levels)), scope="row")
        rows.append(element("tr", name, [element("td", cell, class_="number") for cell in cells]))
    return Markup(table(head, rows) + element("p", _latency(found), class_="note"))


def _listed(lines: Sequence[tuple[str, str]]) -> Markup:
    """Return a table of names and numbers."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value, class_="number")) for name, value in lines
    ]
    return table([element("th", "", scope="col"), element("th", "value", scope="col", class_="number")], rows)


def _level(i: int, levels: int) -> str:
    """Return the name of a level: its senders and its receivers."""
    sender = "agents" if i == 0 else f"servers {i}"
    return f"{sender} to {'the root' if i == levels - 1 else f'servers {i + 1}'}"


def _latency(found: dict[str, object]) -> str:
    mean, longest = duration(found.get("latency_s")), duration(found.get("longest_latency_s"))
    return f"Messages of a round take {mean} on average and {longest} at most." if mean != NOTHING else ""
