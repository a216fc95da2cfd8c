"""Personal layers: parts of the parameters that stay local, while the others are averaged.

    all parameters --params--> without the local parts --> federation --> joined with the agent's own --adopt--> learner

Sharing the critic only is `personal(learner, local=["actor"])`; a personal head is `local=["actor/-1"]`; normalisation
statistics per agent are `personal(normalize(learner), local=["moments"])`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, Statistics, merged_into, parameters_of, policy_of, restored
from fedrl.core.ranges import Traced
from fedrl.core.subtrees import belonging, check_parts, joined, without
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.trajectories import check_bounds_each


@component("learner", reference="Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818")
def personal(learner: Traced[Learner], local: Sequence[str]) -> Learner:
    """Keep some parts of the parameters local to every agent; only the others are averaged.

    Local parts are initialised by each agent, never leave it and are in no message, so they cost no bytes. A part is
    named by consecutive names in the path of a parameter, such as "critic", "actor/-1" (its last layer) or "bias".

    There are no global parameters to which FedProx could pull local parts: their anchor is their value at the start of
    the iteration. The learner has no gradient payload, because an agent that sends gradients takes no local step, so
    its local parts would never be trained.

    Args:
        learner: Learner to wrap.
        local: Parts that stay with the agent.

    Raises:
        ConfigError: There is no such part, nothing is left to share, statistics are local only in part, or the learner
            clips each episode's gradient and adds no noise.
    """
    # Noise in each local step covers the local parts as well: they are trained by the same noisy gradients.
    if learner.noise is None:
        check_bounds_each(
            learner,
            "personal",
            "trains local parts on every episode for the rounds to come, outside of what is bounded in a round",
            "Add noise in each local step (noise_multiplier), which covers local parts, or leave trajectory_clip out.",
        )
    whole = parameters_of(learner)
    check_parts(whole, local, "local")
    if all(belonging(whole, local)):
        raise ConfigError(
            f"local is {list(local)}, which is every parameter. Agents that share nothing need no federation. "
            "Name fewer parts, or run the baseline 'independent'."
        )

    def extended(state: PyTree, context: LocalContext) -> LocalContext:
        # Local parts are their own anchor for FedProx, and get no correction.
        own = learner.params(state)
        correction = joined(context.correction, jax.tree.map(jnp.zeros_like, own))
        return context._replace(params=joined(context.params, own), correction=correction)

    def learn(key: Key, state: PyTree, experience: Experience, context: LocalContext) -> tuple[PyTree, Metrics]:
        return learner.learn(key, state, experience, extended(state, context))

    return replace(
        learner,
        learn=learn,
        params=lambda state: without(learner.params(state), local),
        adopt=lambda state, params: learner.adopt(state, joined(params, learner.params(state))),
        gradient=None,
        statistics=_shared(learner, whole, local),
        policy=lambda state: policy_of(learner, state),
        restore=lambda state, params: restored(learner, state, params),
        personalised=(*learner.personalised, "personal"),
    )


def _shared(learner: Learner, whole: Params, local: Sequence[str]) -> Statistics | None:
    """Return the statistics of a learner, or None if every parameter they are merged into is local."""
    counts = learner.statistics
    if counts is None:
        return None
    # Which parameters the statistics are merged into: the server merges all of them or none.
    kept = [
        inside for inside, merged in zip(belonging(whole, local), merged_into(learner, whole), strict=True) if merged
    ]
    if any(kept) and not all(kept):
        raise ConfigError(
            f"local is {list(local)}, which keeps some of the learner's statistics and shares the rest. The server "
            "merges all of them or none. Name all of them, such as 'moments', or none."
        )
    return None if any(kept) else counts
