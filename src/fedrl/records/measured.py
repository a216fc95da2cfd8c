"""How what was measured is read from files and shown: it is told by name, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.records import MeasureResult

RETURN = "return"
OWN_KEYS = (RETURN, "loss")
"""The measures that have a key of their own in a record; all others are in its "measures"."""


def value_in(record: Mapping[str, Any], name: str) -> float | None:
    """What a measure came to in the round of a record; None where there is nothing."""
    return record.get(name) if name in OWN_KEYS else (record.get("measures") or {}).get(name)


def unsummarised() -> MeasureResult:
    """What is known of a measure without a summary: nothing but its name."""
    return {"per": "", "unit": "", "better": None, "source": "training", "methods": {}}


def title_of(name: str, measure: MeasureResult) -> str:
    """A measure in words, with its unit.

    >>> title_of("agents_compute", {**unsummarised(), "unit": "s", "per": "round"})
    'agents compute, s per round'
    """
    unit = " ".join(filter(None, (measure["unit"], f"per {measure['per']}" if measure["per"] else "")))
    return f"{readable(name)}, {unit}" if unit else readable(name)


def readable(name: str) -> str:
    """A name in a sentence."""
    return name.replace("_", " ")


def direction_of(measure: MeasureResult) -> str:
    """Which way is better, in words; empty if neither is."""
    return "" if measure["better"] is None else f"{measure['better']} is better"
