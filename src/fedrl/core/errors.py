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
    """The combination of parts would not do what it promises.

    Attributes:
        reason: One of `REASONS`, where two parts of a simulation exclude each other; else "".
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


REASONS = {
    "no server": "There is nobody to hold what only a server holds, or to decide what only a server decides.",
    "only sums": "A rule needs each update, or what each agent says, where only sums arrive.",
    "gradients": "A payload of gradients, with a learner without one or with several steps, or where parameters mix.",
    "hidden": "Noise, or masks that cancel in a sum of all, where time decides who is merged with whom.",
    "moments": "Statistics about moments that change between two merges of all agents.",
    "graph": "Differences to copies that neighbours keep, where neighbours change or do not hear each other, or where "
    "copies do not come closer with every difference.",
    "private": "Parts that stay with an agent, and a rule or a merge that needs them.",
    "isolated": "Agents that hear nobody, and something that communicates.",
    "in the clear": "Something that depends on private data leaves beside what noise or a hidden sum covers.",
    "unbounded": "Noise, and nothing that bounds what one agent or one trajectory adds to the result, or what it is "
    "divided by.",
    "momentum": "Agents that look ahead along a momentum which the server does not have.",
    "no time": "Without a clock all answer at once, and the agents with the lowest numbers would fill every merge.",
}
"""Why two parts of a simulation exclude each other: all of them are mathematical."""


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
