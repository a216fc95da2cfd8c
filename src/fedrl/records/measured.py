"""How measures are read from files and shown, each by its name and declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.records import MeasureResult

RETURN = "return"
OWN_KEYS = (RETURN, "loss")
"""The measures that have a key of their own in a record; all others are in its "measures"."""


def value_in(record: Mapping[str, Any], name: str) -> float | None:
    """Return the value of a measure in the round of a record; None if it has none."""
    # Return and loss had keys of their own before measures were declared, and keep them.
    return record.get(name) if name in OWN_KEYS else (record.get("measures") or {}).get(name)


def values_of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return all measures of a round by name, those of its greedy episodes with "greedy_" in front; None if unknown.

    With a privacy budget, "epsilon" is what was spent of it.

    >>> values_of({"return": 3.0, "loss": None, "greedy": [4.0, None, 6.0], "greedy_measures": {"success": 1.0}})
    {'return': 3.0, 'loss': None, 'greedy': 5.0, 'greedy_success': 1.0}
    """
    known = [value for value in record.get("greedy") or () if value is not None]
    return {
        **{name: value_in(record, name) for name in OWN_KEYS},
        "greedy": sum(known) / len(known) if known else None,
        **(record.get("measures") or {}),
        **{f"greedy_{name}": value for name, value in (record.get("greedy_measures") or {}).items()},
        **({"epsilon": record["privacy"]["epsilon"]} if record.get("privacy") else {}),
    }


def unsummarised() -> MeasureResult:
    """Return the declaration of a measure of an unfinished run, of which only the name is known."""
    return {"per": "", "unit": "", "better": None, "source": "training", "methods": {}}


def title_of(name: str, measure: MeasureResult) -> str:
    """Return a measure in words, with its unit.

    >>> title_of("agents_compute", {**unsummarised(), "unit": "s", "per": "round"})
    'agents compute, s per round'
    """
    unit = " ".join(filter(None, (measure["unit"], f"per {measure['per']}" if measure["per"] else "")))
    return f"{readable(name)}, {unit}" if unit else readable(name)


def readable(name: str) -> str:
    """Return a name as words of a sentence."""
    return name.replace("_", " ")


def direction_of(measure: MeasureResult) -> str:
    """Return the better direction in words; empty if there is none."""
    return "" if measure["better"] is None else f"{measure['better']} is better"
