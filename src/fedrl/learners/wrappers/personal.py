"""Personal parts: what an agent keeps to itself, and what it shares.

    all parameters --params--> without the kept parts --> federation --> joined with the agent's own --adopt--> learner

Sharing the critic only is `personal(learner, local=["actor"])`; a personal head is `local=["actor/-1"]`; statistics of
its own for every agent are `personal(normalize(learner), local=["moments"])`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, Statistics, merged_into, parameters_of, policy_of
from fedrl.core.subtrees import belonging, check_parts, joined, without
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree


@component("learner", reference="Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818")
def personal(learner: Learner, local: Sequence[str]) -> Learner:
    """Let every agent keep some parts of the parameters to itself; only the others are averaged.

    Kept parts start anew in every agent, never leave it and are in no message: they cost no bytes. A part is a run of
    names in the path of a parameter, such as "critic", "actor/-1" (its last layer) or "bias".

    FedProx has no global parameters to pull kept parts to: for them its anchor is where the iteration began. An agent
    that sends gradients takes no step, so its kept parts would never learn: there is no gradient to send.

    Args:
        learner: What to wrap.
        local: The parts that stay.

    Raises:
        ConfigError: There is no such part, nothing is left to share, or statistics are kept only in part.
    """
    whole = parameters_of(learner)
    check_parts(whole, local, "local")
    if all(belonging(whole, local)):
        raise ConfigError(
            f"keep is {list(local)}, which is all there is. Agents that share nothing need no federation. "
            "Keep less, or run the baseline 'independent'."
        )

    def extended(state: PyTree, context: LocalContext) -> LocalContext:
        own = learner.params(state)
        return LocalContext(joined(context.params, own), joined(context.correction, jax.tree.map(jnp.zeros_like, own)))

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
        personalised=(*learner.personalised, "personal"),
    )


def _shared(learner: Learner, whole: Params, local: Sequence[str]) -> Statistics | None:
    """The statistics of a learner, or None if every parameter they are merged into is kept."""
    counts = learner.statistics
    if counts is None:
        return None
    kept = [
        inside for inside, merged in zip(belonging(whole, local), merged_into(learner, whole), strict=True) if merged
    ]
    if any(kept) and not all(kept):
        raise ConfigError(
            f"keep is {list(local)}, which keeps some of what is counted and shares the rest. Agents count it together "
            "or not at all. Keep all of it, such as 'moments', or nothing."
        )
    return None if any(kept) else counts
