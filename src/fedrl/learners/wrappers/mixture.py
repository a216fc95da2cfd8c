"""The mixture policy: one policy that acts with the policies of all agents."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import ActionSpace, Discrete, Product
from fedrl.core.learner import Learner
from fedrl.core.types import Key, Params
from fedrl.learners.parts.actors import check_forgets


@component("ensemble", reference="Wiering & van Hasselt (2008), https://doi.org/10.1109/TSMCB.2008.920231")
def mixture(learner: Learner) -> Learner:
    """Build a learner that acts with the mean of K policies, pi(a|s) = (1/K) sum_k pi_k(a|s), and does not learn.

    Its parameters are those of the learner with a leading agent axis on every leaf, as `Simulation.params_of` returns
    them. One action costs as much as one action of each of the K policies.

    An action is sampled by drawing one policy uniformly and then its action. The greedy action is the most probable
    one of the mixture or, for continuous actions, the mean of the policies' greedy actions. Of several choices at once,
    whose mixture is no product, each continuous one is that mean, and each discrete one the value that most of the
    policies choose, the lowest of equally many (majority voting).

    Args:
        learner: Learner whose policies are mixed.

    >>> import jax.numpy as jnp
    >>> from fedrl.environments import gridworld
    >>> from fedrl.learners import q_table
    >>> both = mixture(q_table(gridworld("S.G"), epsilon=0.0))
    >>> tables = {"q": jnp.array([[[0.0, 0, 1, 0]] * 3, [[0.0, 1, 0, 0]] * 3])}
    >>> both.probabilities(tables, jnp.array([0])).T.tolist()
    [[0.0, 0.5, 0.5, 0.0]]
    """
    check_forgets(learner, "mixture")
    each = learner.probabilities

    def probabilities(params: Params, observation: jax.Array) -> jax.Array:
        assert each is not None
        return jax.vmap(each, (0, None))(params, observation).mean(0)

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        if greedy and each is not None:
            return jnp.argmax(probabilities(params, observation), axis=0).astype(jnp.int32)
        policies, num_envs = jax.tree.leaves(params)[0].shape[0], observation.shape[-1]
        for_choice, for_actions = jax.random.split(key)
        keys = jax.random.split(for_actions, policies)
        actions = jax.vmap(lambda k, p: learner.act(k, p, observation, greedy))(keys, params)
        if greedy:
            return _voted(learner.environment.spaces.action, actions)
        # A policy is drawn for each environment copy and step: that is a draw from the mean of the policies.
        chosen = jax.random.randint(for_choice, (num_envs,), 0, policies)
        return jnp.moveaxis(jnp.moveaxis(actions, -1, 0)[jnp.arange(num_envs), chosen], 0, -1)

    return replace(learner, act=act, probabilities=None if each is None else probabilities)


def _voted(space: ActionSpace, actions: jax.Array) -> jax.Array:
    """Return the mean of greedy actions `[policies, *action, num_envs]`, and of discrete parts the most frequent."""
    if not isinstance(space, Product):
        return actions.mean(0)

    def one(part: ActionSpace, chosen: jax.Array) -> jax.Array:
        if not isinstance(part, Discrete):
            return chosen.mean(0)
        votes = (chosen[:, None] == chosen[None]).sum(0)  # of each policy's choice, without a table of all values
        winning = jnp.where(votes == votes.max(0), chosen, part.n)
        return winning.min(0)

    each = jax.vmap(space.split)(actions)
    return space.join([one(part, chosen) for part, chosen in zip(space.parts, each, strict=True)])
