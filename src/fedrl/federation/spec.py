"""What both halves of a federation are made of, after every check."""

from __future__ import annotations

from typing import NamedTuple

import optax

from fedrl.core.aggregator import Aggregator
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage
from fedrl.federation.downlink import Downlink
from fedrl.federation.parts import Group


class Spec(NamedTuple):
    """What both halves of a federation are made of.

    Attributes:
        learner: What every agent runs.
        aggregator: The rule that merges; of a federation with parts, the rules of all parts as one.
        optimizer: The server's optimiser, likewise.
        stages: The stages of the pipeline, in order.
        pipe: The same as one stage.
        groups: Parts of the parameters that are merged in a way of their own; empty if there are none.
        in_periods: Whether some part is merged less often than in every version.
        payload: "delta" or "gradient".
        local_steps: Local iterations of an agent in a round, at most.
        reports: The names of the scalars that each agent reports.
        down: The compression of what the server sends, if there is any.
    """

    learner: Learner
    aggregator: Aggregator
    optimizer: optax.GradientTransformation
    stages: tuple[Stage, ...]
    pipe: Stage
    groups: tuple[Group, ...]
    in_periods: bool
    payload: str
    local_steps: int
    reports: tuple[str, ...]
    down: Downlink | None
