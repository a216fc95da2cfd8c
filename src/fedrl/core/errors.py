"""The errors of fedrl, one tree:

    FedrlError
    ├── ConfigError        a configuration file, a flag or an argument is wrong       (exit code 2)
    ├── UnsoundError       the parts are right, their combination is not; raised when a federation is built
    ├── RunError           a run folder is missing, incomplete or of another experiment
    └── WireError          bytes that arrived are not a message of this federation

Each message is one sentence of fact with the name and the value, one of cause, one of cure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedrlError(Exception):
    """Any error that fedrl raises on purpose."""


class ConfigError(FedrlError, ValueError):
    """A configuration file, a flag or an argument is wrong."""


class UnsoundError(FedrlError, ValueError):
    """The combination of parts would not do what it promises."""


class RunError(FedrlError, RuntimeError):
    """A run folder is missing, incomplete or of another experiment."""


class WireError(FedrlError, ValueError):
    """Bytes that arrived are not a message of this federation."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint that names the valid names, the nearest one first: "Did you mean 'ppo'? Allowed: a2c, ppo." """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Allowed: {', '.join(names) or 'nothing'}."
