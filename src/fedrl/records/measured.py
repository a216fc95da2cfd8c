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
