"""The measure by which a study compares its settings: the return, or any other that all settings have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedrl.records import MeasureResult, Seeded
from fedrl.records.formatting import NOTHING, number, short, with_unit
from fedrl.records.measured import RETURN, readable, unsummarised, value_in
from fedrl.studies.records import Quantity, Reached, Result, Study

if TYPE_CHECKING:
    from fedrl.studies.records import Result, Study


def quantity_named(name: str, measures: Iterable[Mapping[str, MeasureResult]]) -> Quantity:
    """Return unit, direction and source of a measure.

    Args:
        name: Name of the measure.
        measures: Measures in the summaries of settings; empty if none of them has run yet.
    """
    if name == RETURN:
        return {"name": RETURN, "unit": "", "better": "higher", "source": "greedy"}
    # A study that has just begun has no summary, and then only the name is known.
    found = next((each[name] for each in measures if name in each), unsummarised())
    return {"name": name, "unit": found["unit"], "better": found["better"], "source": found["source"]}


def compared(study: Study) -> Quantity:
    """Return the measure that a study compares; by default the return."""
    return study.get("quantity") or quantity_named(RETURN, ())


def outcome_of(study: Study, result: Result) -> Seeded | None:
    """Return the result of a setting in the compared measure; None if it has none."""
    name = compared(study)["name"]
    # The return has keys of its own in a result, as in records.
    if name != RETURN:
        return result.get("measures", {}).get(name)
    if "final_return" not in result:
        return None
    return {**result["final_return"], "seeds": list(result["seed_returns"])}


def value_of(study: Study, result: Result) -> float:
    """Return the result of a setting as one number; NaN if it has none."""
    found = outcome_of(study, result)
    return math.nan if found is None else number(found["mean"])


def gain_of(study: Study, result: Result) -> float:
    """Return the result of a setting with a sign such that larger is better."""
    return -value_of(study, result) if compared(study)["better"] == "lower" else value_of(study, result)


def title_of(quantity: Quantity) -> str:
    """Return the title of a measure in tables.

    >>> title_of(quantity_named("return", ())), title_of(quantity_named("success", ()))
    ('final return', 'final success')
    """
    return f"final {readable(quantity['name'])}"


def shown(quantity: Quantity, value: float | None) -> str:
    """Return a value of a measure with its unit."""
    return with_unit(value, quantity["unit"])


def value_on_the_way(quantity: Quantity, record: Mapping[str, Any], greedy: bool) -> float:
    """Return the value in a round, over all agents, of greedy episodes or of training; NaN if it was not measured."""
    found = (
        (record.get("greedy_measures") or {}).get(quantity["name"]) if greedy else value_in(record, quantity["name"])
    )
    return number(found)


def rounds_to(target: Reached | None) -> str:
    """Return the rounds to the target in words: the median over seeds, and how many reached it if not all did."""
    if target is None or not target["seeds"]:
        return NOTHING
    if target["reached"] == 0:
        return "never"
    median = "not by most" if target["rounds"]["median"] is None else short(target["rounds"]["median"])
    all_of_them = target["reached"] == target["seeds"]
    return median if all_of_them else f"{median} ({target['reached']} of {target['seeds']} seeds)"
