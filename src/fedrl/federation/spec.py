"""Define the parts of a federation as both halves use them, after every check."""

from __future__ import annotations

from typing import NamedTuple

import optax

from fedrl.core.aggregator import Aggregator
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage, pipeline
from fedrl.core.types import Key
from fedrl.federation.downlink import Downlink
from fedrl.federation.parts import Group


class Spec(NamedTuple):
    """The parts of a federation, as both halves use them.

    Attributes:
        learner: The learning algorithm of every agent.
        aggregator: The rule that merges updates; with parts, one rule that applies the rules of all parts.
        optimizer: The server's optimiser, likewise.
        stages: The stages of the pipeline, in order.
        pipe: All stages as one stage.
        groups: The parts of the parameters with their own rule, optimiser or period; empty if there are none.
        in_periods: Whether some part is not merged in every version.
        payload: "delta" or "gradient".
        local_steps: The largest number of local iterations of an agent in a round.
        reports: The names of the scalars that each agent reports.
        down: The compression of the broadcast, if there is any.
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

    def with_noise(self, noise: Key | None) -> Stage:
        """Return all stages as one, with the key of those that add calibrated noise, if there are any."""
        if noise is None or all(stage.noise is None for stage in self.stages):
            return self.pipe
        return pipeline(self.stages, noise)
