"""The errors of fedrl, one tree:

    FedrlError
    ├── ConfigError        a configuration file, a flag or an argument is wrong       (exit code 2)
    │   └── NoMoreUpdatesError   on a virtual clock no update will arrive any more; it ends a seed of a run, not the run
    ├── StoppedWaitingError    a round was given up because a coordinator was asked to stop while it waited for agents
    ├── UnsoundError       the parts are right, their combination is not; raised when a federation is built
    ├── RunError           a run folder is missing, incomplete or of another experiment
    ├── FailedEnvironmentError    an environment raised, hung, ended its process, or returned what it may not
    ├── WireError          received bytes are not a message of this federation
    └── SecureSumError     a party of a secure sum deviated from its protocol; what it sent has changed nothing
        └── TooFewAgentsError    fewer agents are left than the threshold; the sum stays hidden

Each message has a sentence of fact with the name and the value, one of cause, and one of remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedrlError(Exception):
    """Any error that fedrl raises on purpose."""


class ConfigError(FedrlError, ValueError):
    """A configuration file, a flag or an argument is wrong."""


class NoMoreUpdatesError(ConfigError):
    """On a virtual clock, no update will arrive any more; a run keeps the rounds before and has a result."""


class StoppedWaitingError(FedrlError):
    """A round was given up because the coordinator was asked to stop while it waited for agents."""


class UnsoundError(FedrlError, ValueError):
    """Valid parts are combined in a way that would not do what they promise; raised when a federation is built.

    Attributes:
        reason: A key of `REASONS` where two parts of a simulation exclude each other; else "".
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


REASONS = {
    "no server": "A part needs a server that stores state or makes decisions, and the topology has none.",
    "only sums": "A rule needs each update or each agent's report, and only sums arrive.",
    "gradients": "The payload is gradients, and the learner has none or takes several steps, or parameters are mixed.",
    "hidden": "Noise or cancelling masks need a fixed set of agents in each sum, and timing decides which are merged.",
    "moments": "Statistics are counted about moments that change between two merges of all agents.",
    "graph": "Neighbours store copies that are updated by differences, and neighbours change, do not receive each "
    "other's messages, or the copies do not converge.",
    "private": "Some parts stay with their agent, and a rule or a merge needs them.",
    "isolated": "The agents are isolated, and a part communicates.",
    "in the clear": "A message that depends on private data is sent outside what noise or a hidden sum protects.",
    "unbounded": "Noise is added, and nothing bounds the contribution of one agent or one trajectory, or the divisor.",
    "momentum": "Agents extrapolate along a momentum that the server does not have.",
    "no rounds": "Players are present or absent for a round, and a schedule merges updates as they arrive.",
    "no time": "Without a clock all updates arrive at once, and the lowest-numbered agents would fill every merge.",
}
"""Why two parts of a simulation exclude each other, keyed by `UnsoundError.reason`; all reasons are mathematical."""


class RunError(FedrlError, RuntimeError):
    """A run folder is missing, incomplete or of another experiment."""


class FailedEnvironmentError(FedrlError, RuntimeError):
    """An environment outside compiled programs raised, hung, ended its process, or returned what it may not."""


class WireError(FedrlError, ValueError):
    """Received bytes are not a message of this federation."""


class SecureSumError(FedrlError, ValueError):
    """A party of a secure sum deviated from its protocol: its message was rejected and has changed nothing."""


class TooFewAgentsError(SecureSumError):
    """Fewer agents are left in a secure sum than its threshold or its minimum; the sum stays hidden."""


def reason(fault: Exception) -> str:
    """Return what went wrong in words, without the number and the path that Python writes beside them.

    >>> reason(FileNotFoundError(2, "No such file or directory", "a.csv")), reason(ValueError("not a number"))
    ('No such file or directory', 'not a number')
    """
    return getattr(fault, "strerror", None) or str(fault)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint with the most similar valid name and all valid names.

    >>> nearest("poo", ["ppo", "a2c"])
    "Did you mean 'ppo'? Allowed: a2c, ppo."
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Allowed: {', '.join(names) or 'nothing'}."
