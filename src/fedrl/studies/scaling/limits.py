"""Limits of one round, in words: "round <= 1 s", "memory <= 8 GB", "bytes <= 50 MB".

quantity          measured as                                     units
round             seconds of wall time, the median over rounds    ms s min
memory            peak resident memory of all its processes       B kB MB GB TB, and KiB MiB GiB TiB
bytes             bytes of a round, up plus down                  the same
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from fedrl.core.errors import ConfigError, nearest
from fedrl.records.formatting import with_unit

_TIME = {"ms": 1e-3, "s": 1.0, "min": 60.0}
_SIZE = {
    "B": 1.0,
    **{f"{prefix}B": 1000.0**power for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
}
FORM = re.compile(r"\s*(?P<quantity>\w+)\s*(?:<=|≤)\s*(?P<number>[^\sA-Za-z]\S*?)\s*(?P<unit>[A-Za-z]*)\s*")
EXAMPLE = '"round <= 1 s", "memory <= 8 GB" or "bytes <= 50 MB"'


class LimitedQuantity(NamedTuple):
    """A quantity of a round that can be limited.

    Attributes:
        unit: "s" or "B".
        units: Factors of the units in which a limit may be given.
    """

    unit: str
    units: Mapping[str, float]


QUANTITIES = {
    "round": LimitedQuantity("s", _TIME),
    "memory": LimitedQuantity("B", _SIZE),
    "bytes": LimitedQuantity("B", _SIZE),
}


class Limit(NamedTuple):
    """A limit that a number of agents keeps or breaks.

    Attributes:
        quantity: A key of `QUANTITIES`.
        most: The largest value that keeps it, in seconds or bytes.
    """

    quantity: str
    most: float

    def __str__(self) -> str:
        return f"{self.quantity} <= {with_unit(self.most, QUANTITIES[self.quantity].unit)}"


def limit_of(text: str) -> Limit:
    """Return the limit that a text describes.

    Args:
        text: A quantity, "<=", and a number with a unit.

    Raises:
        ConfigError: The text has another form, or an unknown quantity, number or unit.

    >>> limit_of("round <= 250 ms")
    Limit(quantity='round', most=0.25)
    >>> limit_of("memory<=2GiB").most
    2147483648.0
    """
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"The limit is {text!r}. It needs a quantity, <= and a number with a unit. Write, for example, {EXAMPLE}."
        )
    name, number, unit = match["quantity"], match["number"], match["unit"]
    if name not in QUANTITIES:
        raise ConfigError(f"The limit is {text!r}, and {name!r} is not a quantity. {nearest(name, QUANTITIES)}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(
            f"The limit is {text!r}, and {number!r} is not a finite number above 0. Write, for example, {EXAMPLE}."
        )
    units = QUANTITIES[name].units
    if unit not in units:
        given = f"{unit!r} is not a unit of {name}" if unit else "the number has no unit"
        raise ConfigError(f"The limit is {text!r}, and {given}. {nearest(unit, units)}")
    return Limit(name, value * units[unit])
