"""Check arguments that any constructor may have: counts, sizes and words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrl.core.errors import ConfigError, nearest


def check_positive(**values: int) -> None:
    """Refuse a count below one.

    Raises:
        ConfigError: A value is below one; the message has the argument's name and value.
    """
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}. It counts something, so it is at least 1. Set it to 1 or more.")


def check_above_zero(**values: float) -> None:
    """Refuse a size that is not above zero, or not finite.

    Raises:
        ConfigError: A value is out of range; the message has the argument's name and value.
    """
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(f"{name} is {value}. It is a size, so it is finite and above zero. Set it above 0.")


def check_one_of(value: str, allowed: Sequence[str], name: str) -> None:
    """Refuse a word that is not among the allowed ones.

    Raises:
        ConfigError: The word is unknown; the message has the argument's name and the nearest allowed word.
    """
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}, which is not known. {nearest(str(value), allowed)}")
