"""Where one seed of one method ended."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from fedrl.core.types import Params


class Omission(NamedTuple):
    """What a seed of a method goes without; the fields are those of `LeftOut`."""

    what: Literal["return", "policy", "everything"]
    agents: tuple[int, ...]
    reason: str


class SeedResult(NamedTuple):
    """Where one seed of one method got to.

    Attributes:
        seed: Of the run.
        round: The last one.
        params: Of one policy for all agents, or of one per agent (`stacked`).
        stacked: Whether every leaf has a leading agent axis.
        greedy: Mean greedy return of each agent in its own environment.
        held_out: The same in each environment that no agent trained in.
        unlearned: Agents whose parameters are none to go on from, and why.
        left_out: Why a greedy return is None, and whose policies are not among these.
        held_out_left_out: The same of `held_out`.
        sums: What the environment measures, over the greedy episodes of each agent, as in `Played`; empty if nobody has
            a policy.
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
