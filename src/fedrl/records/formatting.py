"""Numbers for people: rounded, with a unit, and a dash where a number is missing."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "\N{EN DASH}"
LONGEST_S = 3_600_000
"""Durations from here on, 1,000 hours, are shown without minutes."""


def number(value: Any) -> float:
    """Return the value as a float; NaN if it is no number.

    >>> number(None), number("4"), number(True)
    (nan, nan, 1.0)
    """
    return float(value) if isinstance(value, int | float) else math.nan


def short(value: Any, digits: int = 4) -> str:
    """Return a number with `digits` significant digits and thousands separators.

    >>> short(487.123), short(0.51234567), short(1234567), short(-3.0)
    ('487.1', '0.5123', '1,234,567', '-3')
    """
    x = number(value)
    if not math.isfinite(x):
        return NOTHING
    whole = len(str(int(abs(x)))) if abs(x) >= 1 else 0
    if whole >= digits or x == int(x):
        return f"{x:,.0f}" if abs(x) < 1e15 else f"{x:.{digits}g}"
    return f"{x:.{digits - whole}f}".rstrip("0").rstrip(".") if whole else f"{x:.{digits}g}"


def count(value: Any) -> str:
    """Return a count in thousands, millions or billions.

    >>> count(950), count(303_200), count(5_120_000)
    ('950', '303 k', '5.12 M')
    """
    return _scaled(number(value), 1000, ("", " k", " M", " G"))


def size(value: Any) -> str:
    """Return a number of bytes with a decimal prefix.

    >>> size(900), size(36_900_000)
    ('900 B', '36.9 MB')
    """
    return _scaled(number(value), 1000, (" B", " kB", " MB", " GB", " TB"))


def duration(value: Any) -> str:
    """Return seconds as milliseconds, seconds, minutes or hours.

    >>> duration(0.01234), duration(-4.21), duration(75.2), duration(7321), duration(3.6e21)
    ('12 ms', '-4.2 s', '1 min 15 s', '2 h 02 min', '1e+18 h')
    """
    x = number(value)
    if not math.isfinite(x):
        return NOTHING
    if x < 0:
        return f"-{duration(-x)}"
    # The thresholds are where the rounded text would read "1000 ms" or "60.0 s".
    if x < 0.9995:
        return f"{1000 * x:.0f} ms"
    if x < 59.95:
        return f"{x:.1f} s"
    seconds = round(x)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    # A year in hours and minutes would be read digit by digit, and a measure may have any number of seconds.
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min" if seconds < LONGEST_S else f"{short(x / 3600)} h"


def with_unit(value: Any, unit: str) -> str:
    """Return a number with its unit; seconds and bytes with a suitable prefix.

    >>> with_unit(0.75, ""), with_unit(12.0, "m/s"), with_unit(0.00042, "s"), with_unit(36_900_000, "B")
    ('0.75', '12 m/s', '0.42 ms', '36.9 MB')
    """
    x = number(value)
    if not math.isfinite(x):
        return NOTHING
    if unit == "s":
        return duration(x) if abs(x) >= 0.1 else f"{short(1000 * x, 3)} ms"
    return size(x) if unit == "B" else f"{short(x)} {unit}".rstrip()


def ends(low: Any, high: Any, unit: str = "") -> str:
    """Return the ends of an interval in words.

    >>> ends(480.26, 500), ends(0.002, 0.25, "s")
    ('480.3 to 500', '2 ms to 250 ms')
    """
    known = math.isfinite(number(low)) and math.isfinite(number(high))
    return f"{with_unit(low, unit)} to {with_unit(high, unit)}" if known else NOTHING


def _scaled(x: float, step: int, units: tuple[str, ...]) -> str:
    if not math.isfinite(x):
        return NOTHING
    power = 0
    # 0.9995: a number that three digits would round up to 1000 takes the next prefix.
    while abs(x) >= 0.9995 * step and power < len(units) - 1:
        x, power = x / step, power + 1
    return f"{short(x, 3) if power else short(x)}{units[power]}"
