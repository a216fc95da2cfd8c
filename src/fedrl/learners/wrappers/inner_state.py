"""Wrappers whose state contains the wrapped learner's state in a field `learner`, beside fields of their own.

    wrapper's state --.learner--> state --> the learner --> state --.learner--> wrapper's state

A wrapper starts from `within(learner)` and replaces the functions that it changes:
`replace(within(learner), init=..., adopt=...)`.
"""

from __future__ import annotations

from dataclasses import replace

from fedrl.core.learner import Experience, Learner, behaviours_of, policy_of, restored
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree


def within(learner: Learner) -> Learner:
    """Return the learner with functions that find its state in the field `learner` of a NamedTuple.

    `init` is still that of the learner: the wrapper has to replace it.
    """
    counts, slope = learner.statistics, learner.gradient

    def collect(key: Key, state: PyTree) -> tuple[Experience, PyTree, Metrics]:
        experience, inner, metrics = learner.collect(key, state.learner)
        return experience, state._replace(learner=inner), metrics

    def learn(key: Key, state: PyTree, experience: Experience, context: LocalContext) -> tuple[PyTree, Metrics]:
        inner, metrics = learner.learn(key, state.learner, experience, context)
        return state._replace(learner=inner), metrics

    def gradient(key: Key, state: PyTree, experience: Experience, context: LocalContext) -> tuple[Params, Metrics]:
        assert slope is not None
        return slope(key, state.learner, experience, context)

    return replace(
        learner,
        collect=collect,
        learn=learn,
        gradient=None if slope is None else gradient,
        params=lambda state: learner.params(state.learner),
        adopt=lambda state, params: state._replace(learner=learner.adopt(state.learner, params)),
        statistics=None if counts is None else counts._replace(gathered=lambda state: counts.gathered(state.learner)),
        policy=lambda state: policy_of(learner, state.learner),
        restore=lambda state, params: state._replace(learner=restored(learner, state.learner, params)),
        behaviours=None if learner.behaviours is None else lambda state: behaviours_of(learner, state.learner),
    )
