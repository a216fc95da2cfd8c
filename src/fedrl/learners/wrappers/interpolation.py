"""Personalisation by interpolating between the global model and an agent's own.

interpolate   one model:  adopting sets theta <- theta + a (global - theta)
apfl          two models: the shared one is averaged as in FedAvg, the private one is trained as part of a mixture
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, restored, same_stream
from fedrl.core.ranges import Fraction, NonNegative, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.wrappers.inner_state import within


class InterpolatedState(NamedTuple):
    """State of the learner, and `met`: whether it has adopted parameters before (the first are adopted whole)."""

    learner: PyTree
    met: jax.Array


class ApflState(NamedTuple):
    """State of an APFL agent.

    Attributes:
        global_state: State of the learner of the shared parameters w, which are averaged.
        acting: State of the learner of the mixture, which acts.
        private: Private parameters v.
        share: a, the share of v in the mixture.
        met: Whether the agent has adopted parameters before.
    """

    global_state: PyTree
    acting: PyTree
    private: Params
    share: jax.Array
    met: jax.Array


@component("learner", reference="Hanzely & Richtárik (2020), https://arxiv.org/abs/2002.05516")
def interpolate(learner: Traced[Learner], share: Traced[Fraction] = 0.5) -> Learner:
    """Move only part of the way to the global parameters on adoption: theta_k <- a theta_global + (1 - a) theta_k.

    This is the aggregation step of "loopless local gradient descent". Agents send their whole own parameters, so the
    global ones are the mean over all agents. The first parameters are adopted whole, so that all agents start equal.

    Args:
        learner: Learner to wrap.
        share: a, from 0 (no adoption: independent agents) to 1 (FedAvg).

    Raises:
        ConfigError: The share is outside [0, 1], or the learner has statistics, which can't be interpolated.
    """
    _check(learner, "interpolate")

    def adopt(state: InterpolatedState, params: Params) -> InterpolatedState:
        def between(own: jax.Array, given: jax.Array) -> jax.Array:
            return jnp.where(state.met, own + share * (given - own), given)

        mixed = jax.tree.map(between, learner.params(state.learner), params)
        return InterpolatedState(learner.adopt(state.learner, mixed), jnp.bool_(True))

    return replace(
        within(learner),
        init=lambda key, env_params: InterpolatedState(learner.init(key, env_params), jnp.bool_(False)),
        adopt=adopt,
        gradient=None,
        personalised=("interpolate",),
    )


@component("learner", reference="Deng et al. (2020), https://arxiv.org/abs/2003.13461")
def apfl(learner: Traced[Learner], share: Traced[Fraction] = 0.5, rate: Traced[NonNegative] = 0.0) -> Learner:
    """APFL: act with a mixture of a private and the shared model, a v + (1 - a) w, and train both.

    Each iteration trains the shared model w as federated averaging does, and the private model v by the learner's step
    from the mixture: v <- v + a (mixture after - mixture before), which with SGD is the gradient step of the paper.
    In reinforcement learning w and the mixture each need experience of their own policy, so an iteration takes twice
    the samples of the wrapped learner. A learner from trajectories gets twice the environment copies: the first half
    acts with the mixture, the second half with w.

    Args:
        learner: Learner to wrap.
        share: a, the initial share of the private model, from 0 to 1.
        rate: Step size of the share, a <- a + rate <v - w, mixture after - mixture before>, clipped to [0, 1]. It is
            the paper's step size divided by the learner's learning rate. 0 keeps the share fixed.

    Raises:
        ConfigError: A number is out of range, or the learner has statistics.
    """
    _check(learner, "apfl")

    def init(key: Key, env_params: PyTree) -> ApflState:
        for_global, for_acting = jax.random.split(key)
        global_state = learner.init(for_global, env_params)
        acting = learner.init(for_acting, env_params)
        return ApflState(global_state, acting, learner.params(global_state), jnp.float32(share), jnp.bool_(False))

    def mixture(state: ApflState) -> Params:
        global_state = learner.params(state.global_state)
        return jax.tree.map(lambda w, v: w + state.share * (v - w), global_state, state.private)

    def collect(key: Key, state: ApflState) -> tuple[Experience, ApflState, Metrics]:
        for_global, for_acting = (learner.split_key(each)[0] for each in jax.random.split(key))
        by_global, global_state, _ = learner.collect(for_global, state.global_state)
        by_mixture, acting, counts = learner.collect(for_acting, learner.adopt(state.acting, mixture(state)))
        after = state._replace(global_state=global_state, acting=acting)
        if not learner.horizon:
            return (by_mixture, by_global), after, counts
        return beside(by_mixture, by_global, learner.num_envs), after, counts

    def learn(key: Key, state: ApflState, experience: Experience, context: LocalContext) -> tuple[ApflState, Metrics]:
        for_global, for_acting = (learner.split_key(each)[1] for each in jax.random.split(key))
        by_mixture, by_global = halves(experience, learner.num_envs) if learner.horizon else experience
        # Each model has noise of its own, if the learner adds any.
        keys = (None, None) if context.noise is None else tuple(jax.random.split(context.noise))
        shared = context._replace(noise=keys[0])
        global_state, _ = learner.learn(for_global, state.global_state, by_global, shared)
        before = mixture(state)
        # The mixture is trained without the server's correction, and FedProx would anchor it at its own start: the
        # global parameters and SCAFFOLD's c - c_k concern w only.
        alone = LocalContext(before, jax.tree.map(jnp.zeros_like, before), keys[1])
        acting, metrics = learner.learn(for_acting, learner.adopt(state.acting, before), by_mixture, alone)
        step = jax.tree.map(jnp.subtract, learner.params(acting), before)
        private = jax.tree.map(lambda v, d: v + state.share * d, state.private, step)
        apart = jax.tree.map(jnp.subtract, state.private, learner.params(state.global_state))
        gain = sum(jax.tree.leaves(jax.tree.map(lambda x, y: (x * y).sum(), apart, step)), jnp.float32(0.0))
        after = jnp.clip(state.share + rate * gain, 0.0, 1.0)
        return ApflState(global_state, acting, private, after, state.met), metrics

    def adopt(state: ApflState, params: Params) -> ApflState:
        private = jax.tree.map(lambda own, given: jnp.where(state.met, own, given), state.private, params)
        return state._replace(
            global_state=learner.adopt(state.global_state, params), private=private, met=jnp.bool_(True)
        )

    def restore(state: ApflState, params: Params) -> ApflState:
        # Both models are the trained policy, and so is every mixture of them.
        global_state = restored(learner, state.global_state, params)
        return state._replace(global_state=global_state, private=learner.params(global_state))

    return replace(
        learner,
        init=init,
        collect=collect,
        learn=learn,
        params=lambda state: learner.params(state.global_state),
        adopt=adopt,
        samples=2 * learner.samples,
        num_envs=2 * learner.num_envs,
        behaviours=lambda state: (mixture(state), learner.params(state.global_state)),
        split_key=same_stream,  # each half splits it for the two models
        gradient=None,
        policy=mixture,
        restore=restore,
        personalised=("apfl",),
    )


def beside(first: Experience, second: Experience, num_envs: int) -> Experience:
    """Join experience from `num_envs` environment copies each; every player of a world keeps its rows together."""

    def joined(a: jax.Array, b: jax.Array) -> jax.Array:
        apart = [x.reshape(*x.shape[:-1], -1, num_envs) for x in (a, b)]
        return jnp.concatenate(apart, -1).reshape(*a.shape[:-1], -1)

    return jax.tree.map(joined, first, second)


def halves(experience: Experience, num_envs: int) -> tuple[Experience, Experience]:
    """Split experience into that of the first and of the second `num_envs` environment copies, as `beside` joins it."""

    def part(x: jax.Array, of: slice) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, 2 * num_envs)[..., of].reshape(*x.shape[:-1], -1)

    first, second = slice(None, num_envs), slice(num_envs, None)
    return jax.tree.map(lambda x: part(x, first), experience), jax.tree.map(lambda x: part(x, second), experience)


def _check(learner: Learner, name: str) -> None:
    if learner.statistics is not None:
        raise ConfigError(
            f"{learner!r} has statistics, and {name} would interpolate them as if they were parameters. "
            f"Use the learner without them, or put {name} inside, as in normalize({name}(ppo(...)))."
        )
    if learner.personalised:
        raise ConfigError(
            f"{learner!r} is personalised already, so {name} can't tell the parameters it acts with from those it "
            f"shares. Swap the wrappers, as in personal({name}(...), local=[...])."
        )
