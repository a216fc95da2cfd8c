"""The card of a run with a privacy budget: what is promised, on which assumptions, and what it has spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedrl.records.formatting import NOTHING, number, short
from fedrl.report.figures import Figure, epsilon_figure
from fedrl.report.markup import Markup, element
from fedrl.report.run import Run
from fedrl.report.shell import card, chart
from fedrl.report.tables import table

SHOWN_ONLY_HERE = (
    "Returns, losses and curves of single agents in this report are those of a simulation, which sees all of them. In "
    "a deployment they never leave the agents, and the guarantee does not cover them: leave them out of a report for "
    "others, with fedrl report --public."
)


def privacy_card(run: Run, charts: dict[str, Figure], *, public: bool = False) -> Markup | None:
    """Return the card, and add its chart to the page; None for a run without a budget.

    Args:
        run: The run.
        charts: The charts of the page.
        public: Whether the page has nothing that the guarantee does not cover.
    """
    found: Mapping[str, Any] = run.summary.get("privacy") or {}
    spent = [record for record in run.of("federated") if record.get("privacy")]
    if not found and not spent:
        return None
    body: list[object] = []
    if found.get("not_certified"):
        body.append(element("p", element("b", "Not certified: "), f"{found['not_certified']}.", class_="warning"))
    if found:
        body += [element("p", found.get("claim")), _facts(found)]
        body.append(element("ul", [element("li", line) for line in found.get("assumptions") or ()]))
    if spent:
        charts["epsilon"] = epsilon_figure(run)
        body.append(chart("epsilon", "Spent epsilon against rounds"))
    if found.get("agents"):
        body.append(_agents(found["agents"]))
    if not public and not run.real_time:
        body.append(element("p", SHOWN_ONLY_HERE, class_="note"))
    return card("Privacy", body, "Each seed is a training run with a budget of its own.")


def _facts(found: Mapping[str, Any]) -> Markup:
    """Return the numbers of a guarantee, a row each."""
    clip = found.get("clip")
    clips = sorted(set(clip)) if isinstance(clip, list) else [clip]
    charges, seeds = found.get("charges") or {}, found.get("seeds") or {}
    rows = {
        "epsilon of one seed": f"{short(found.get('epsilon'))} of {short(found.get('budget'))}",
        "epsilon of all seeds together": short(found.get("together")) if len(seeds) > 1 else "",
        "delta": f"{number(found.get('delta')):g}",
        "unit": found.get("unit"),
        "mechanism": found.get("mechanism"),
        "noise multiplier z": short(found.get("noise_multiplier")),
        "clip C": short(clips[0]) if len(clips) == 1 else f"{short(clips[0])} to {short(clips[-1])}",
        "charged rounds": ", ".join(dict.fromkeys(f"{many:,}" for many in charges.values())),
        "of these, run again": f"{found['repeated']:,}" if found.get("repeated") else "",
        "agents without budget for another round": f"{found.get('without_budget', 0):,}",
    }
    return table(
        [],
        [element("tr", element("th", name, scope="row"), element("td", text)) for name, text in rows.items() if text],
    )


def _agents(agents: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the table of what agents with different budgets or charges have spent, alike ones in one row."""
    alike: dict[tuple[float, float], list[int]] = {}
    for each in agents:
        alike.setdefault((number(each.get("epsilon")), number(each.get("budget"))), []).append(int(each["id"]))
    head = [element("th", name, scope="col") for name in ("agents", "spent epsilon", "budget")]
    rows = [
        element("tr", [element("td", _listed(ids)), *(element("td", _cell(x), class_="number") for x in pair)])
        for pair, ids in sorted(alike.items())
    ]
    return table(head, rows)


def _cell(value: float) -> str:
    return short(value) if math.isfinite(value) else NOTHING


def _listed(ids: Sequence[int]) -> str:
    """Return numbers in words, with ranges of consecutive ones.

    >>> _listed([0, 1, 2, 5])
    '0 to 2, 5'
    """
    ranges: list[list[int]] = []
    for each in ids:
        if ranges and each == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], each]
        else:
            ranges.append([each, each])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
