"""How much the updates of a round differ from agent to agent: heterogeneity as the server would meet it.

start --local training--> end      delta_k = end_k - start_k, whatever an engine makes of the deltas after
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fedrl.core.federation import AgentState
from fedrl.core.learner import Learner
from fedrl.core.types import Params
from fedrl.engines.simulation import Population, Simulation


class Spread(NamedTuple):
    """How much updates delta_k differ, with their mean delta.

    Attributes:
        dispersion: mean ||delta_k - delta||^2 / ||delta||^2: 0 where all agents move alike. One more than it is
            B(w)^2, the local dissimilarity of FedProx, with updates for gradients.
        cosine: The mean cosine of the angle between two agents' updates: 1 where they agree, 0 where they have nothing
            in common, below 0 where they undo each other.

    Noise counts: agents alike in everything but their luck have a dispersion above 0, too.

    Reference: Li et al. (2020), https://arxiv.org/abs/1812.06127
    """

    dispersion: float
    cosine: float


def spread(deltas: Float[np.ndarray, "agents params"]) -> Spread | None:
    """How much the rows differ; None if there are fewer than two, or no direction that they have in common.

    >>> import numpy as np
    >>> spread(np.array([[3.0, 0.0], [0.0, 3.0]]))
    Spread(dispersion=1.0, cosine=0.0)
    """
    return _measured([deltas])


def starts(learner: Learner, simulation: Simulation, population: Population, heard: Params | None) -> list[Params]:
    """Where the agents of each block begin a round: at what all hear, else at what each makes of what it hears."""
    if heard is not None:
        return [heard] * len(population.blocks)
    return [_held(learner, block) for block in simulation.adopt(population).blocks]


def update_spread(
    learner: Learner, begun: Sequence[Params], after: Population, without: Sequence[int] = ()
) -> Spread | None:
    """The spread of the updates of a round that everybody took part in.

    Args:
        learner: Whose parameters.
        begun: From `starts`, before the round.
        after: After it, when agents hold what they have trained.
        without: Agents that have no update, because theirs was refused.
    """

    def deltas(start: Params, block: AgentState) -> np.ndarray:
        end, ids = _held(learner, block), np.asarray(block.agent)
        seated = (ids >= 0) & ~np.isin(ids, without)
        rows = [
            (np.asarray(new, np.float64) - np.asarray(old, np.float64)).reshape(len(ids), -1)
            for old, new in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)
        ]
        return np.concatenate(rows, axis=1)[seated]

    return _measured([deltas(*pair) for pair in zip(begun, after.blocks, strict=True)])


def _held(learner: Learner, block: AgentState) -> Params:
    return jax.tree.map(np.asarray, jax.vmap(learner.params)(block.learner))


def _measured(parts: Sequence[np.ndarray]) -> Spread | None:
    lengths = [np.sqrt(np.square(rows).sum(1)) for rows in parts]
    agents = sum(map(len, parts))
    mean = sum(rows.sum(0) for rows in parts) / max(agents, 1)
    common = float(np.square(mean).sum())
    if agents < 2 or not np.isfinite(common) or common == 0.0 or min(x.min() for x in lengths if len(x)) == 0.0:
        return None
    directions = sum((rows / length[:, None]).sum(0) for rows, length in zip(parts, lengths, strict=True))
    total = sum(np.square(length).sum() for length in lengths)
    cosine = (float(np.square(directions).sum()) - agents) / (agents * (agents - 1))
    return Spread(float(total / agents / common - 1.0), cosine)
