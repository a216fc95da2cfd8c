"""The final result of one seed of one method."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from fedrl.core.types import Params


class Omission(NamedTuple):
    """Agents that a seed of a method leaves out; the fields are those of `LeftOut`."""

    what: Literal["return", "policy", "everything"]
    agents: tuple[int, ...]
    reason: str


class SeedResult(NamedTuple):
    """The final result of one seed of one method.

    Attributes:
        seed: Seed of the run.
        round: Number of its last round.
        params: Parameters of one policy for all agents, or of one per agent (`stacked`).
        stacked: Whether every leaf has a leading agent axis.
        greedy: Mean greedy return of each agent in its own environment; None if it has none.
        held_out: The same in each environment in which no agent trained.
        unlearned: Agents whose parameters are not the result of learning, with the reason.
        left_out: Agents without a greedy return, or without a part in the policy, with the reason.
        held_out_left_out: The same for `held_out`.
        sums: Measures of the environment over the greedy episodes of each agent, as in `Played`; empty if no agent has
            a policy.
        common: The policy of the server, where agents have parameters of their own beside it.
        ended: Why it has fewer rounds than planned, if no update would have arrived in the next one; else empty.
    """

    seed: int
    round: int
    params: Params
    stacked: bool
    greedy: list[float | None]
    held_out: list[float | None]
    unlearned: Mapping[int, str] = MappingProxyType({})
    left_out: tuple[Omission, ...] = ()
    held_out_left_out: tuple[Omission, ...] = ()
    sums: Mapping[str, np.ndarray] = MappingProxyType({})
    common: Params | None = None
    ended: str = ""
