"""What a server asks of an agent beside its broadcast, and what it then says of the update."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Order(NamedTuple):
    """What an agent is asked for.

    Attributes:
        version: Of the broadcast that goes with it.
        cohort: How many agents are asked.
        steps: Local steps.
        share: p_k, the weight of the agent among all: `fedrl.federation.shares`.
    """

    version: int
    cohort: int
    steps: int
    share: float


class Verdict(Enum):
    """What became of an update."""

    MERGED = "merged"
    REJECTED = "rejected"
    DROPPED = "dropped"
