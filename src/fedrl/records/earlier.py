"""Files that an earlier version wrote: their keys have other names today, and nothing else differs."""

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
"""Tables whose keys a user has chosen."""


def with_todays_names(value: Any) -> Any:
    """The same, with the keys of today.

    >>> with_todays_names({"round": 3, "refused": 1, "measures": {"lost": 2.0}})
    {'round': 3, 'rejected': 1, 'measures': {'lost': 2.0}}
    """
    if isinstance(value, dict):
        return {
            NAMES.get(key, key): item if key in MEASURED else with_todays_names(item) for key, item in value.items()
        }
    return [with_todays_names(item) for item in value] if isinstance(value, list) else value
