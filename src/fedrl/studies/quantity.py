"""The measure by which a study compares its settings: the return, or any other that all of them have."""

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
    """What is known of a measure.

    Args:
        name: Of the measure.
        measures: What the summaries of settings say of theirs; none of them may have begun yet.
    """
    if name == RETURN:
        return {"name": RETURN, "unit": "", "better": "higher", "source": "greedy"}
    found = next((each[name] for each in measures if name in each), unsummarised())
    return {"name": name, "unit": found["unit"], "better": found["better"], "source": found["source"]}


def compared(study: Study) -> Quantity:
    """What a study compares; the return where it does not say."""
    return study.get("quantity") or quantity_named(RETURN, ())


def outcome_of(study: Study, result: Result) -> Seeded | None:
    """What came of a setting; None if that is not known."""
    name = compared(study)["name"]
    if name != RETURN:
        return result.get("measures", {}).get(name)
    if "final_return" not in result:
        return None
    return {**result["final_return"], "seeds": list(result["seed_returns"])}


def value_of(study: Study, result: Result) -> float:
    """The same as one number; NaN if it is not known."""
    found = outcome_of(study, result)
    return math.nan if found is None else number(found["mean"])


def gain_of(study: Study, result: Result) -> float:
    """The same, negative where less is better: the larger, the better."""
    return -value_of(study, result) if compared(study)["better"] == "lower" else value_of(study, result)


def title_of(quantity: Quantity) -> str:
    """What it is called in a table.

    >>> title_of(quantity_named("return", ())), title_of(quantity_named("success", ()))
    ('final return', 'final success')
    """
    return f"final {readable(quantity['name'])}"


def shown(quantity: Quantity, value: float | None) -> str:
    """A value of it as people read it."""
    return with_unit(value, quantity["unit"])


def value_on_the_way(quantity: Quantity, record: Mapping[str, Any], greedy: bool) -> float:
    """What it came to in a round, over all agents: of greedy episodes, or of training; NaN if it was not measured."""
    found = (
        (record.get("greedy_measures") or {}).get(quantity["name"]) if greedy else value_in(record, quantity["name"])
    )
    return number(found)


def rounds_to(target: Reached | None) -> str:
    """How many rounds it took, the median over seeds, and how many seeds got there if not all did."""
    if target is None or not target["seeds"]:
        return NOTHING
    if target["reached"] == 0:
        return "never"
    median = "not by most" if target["rounds"]["median"] is None else short(target["rounds"]["median"])
    all_of_them = target["reached"] == target["seeds"]
    return median if all_of_them else f"{median} ({target['reached']} of {target['seeds']} seeds)"
