"""Files of earlier versions: their keys are renamed to today's names; nothing else differs."""

from __future__ import annotations

from typing import Any

NAMES = {
    "refused": "rejected",
    "refusals": "rejections",
    "lost": "dropped",
    "late": "cancelled",
    "admitted": "selected",
    "alarms": "warnings",
    "cures": "remedies",
}
MEASURED = ("measures", "greedy_measures", "sums", "values", "grid", "env_params")
"""Tables with keys that a user chose, which may be called like an old key."""


def with_todays_names(value: Any) -> Any:
    """Return the value with today's keys.

    >>> with_todays_names({"round": 3, "refused": 1, "measures": {"lost": 2.0}})
    {'round': 3, 'rejected': 1, 'measures': {'lost': 2.0}}
    """
    if isinstance(value, dict):
        # Keys below `MEASURED` were chosen by users: a measure of theirs may be called "lost".
        return {
            NAMES.get(key, key): item if key in MEASURED else with_todays_names(item) for key, item in value.items()
        }
    return [with_todays_names(item) for item in value] if isinstance(value, list) else value
