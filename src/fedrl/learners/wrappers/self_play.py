"""Self-play against a pool of earlier policies: in every copy of a world one player learns, and the others are frozen.

    pool of earlier policies --a policy for each copy--> the opponents ---+
    current policy ----------one player of each copy---> who learns ------+--> Trajectory, in which the frozen weigh 0
          |                                                                            |
          +--every so many iterations--> pool                      learner <-----------+

In zero-sum games the current policy need not converge: two policies that answer each other go round in circles, and
what converges is their average over time. So an agent acts with the average of the pool.

The pool is a uniform sample of all policies so far (Vitter 1985, https://doi.org/10.1145/3147.3165, algorithm R), and
not the latest ones: answers to an average over a sliding window go round in circles, too, with the window's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.component import component, written
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner, Trajectory, behaviours_of, explore, policy_of, restored
from fedrl.core.players import dealt, players_of, rows
from fedrl.core.ranges import Count, Fraction, Traced
from fedrl.core.types import Key, Metrics, Params, PyTree
from fedrl.learners.parts.actors import check_forgets
from fedrl.learners.parts.rollout import Position, Sampler, start
from fedrl.learners.parts.rollout import collect as roll_out
from fedrl.learners.parts.trajectories import check_bounds_each
from fedrl.learners.wrappers.inner_state import within

Act = Callable[[Key, Params, jax.Array, bool], jax.Array]
Probabilities = Callable[[Params, jax.Array], jax.Array]
NAME = "self_play"
"""Its name in `Learner.personalised`."""


class SelfPlayState(NamedTuple):
    """State of a learner in self-play.

    Attributes:
        learner: State of the wrapped learner.
        pool: Acting parameters of earlier policies, `[pool_size, ...]`.
        seen: Int32; the policies so far of which the pool is a sample, the first of them those of `adopt`.
        iterations: Int32; local iterations so far.
        position: Current episodes of the environment copies.
        env_params: Parameters of the agent's environment.
    """

    learner: PyTree
    pool: Params
    seen: jax.Array
    iterations: jax.Array
    position: Position
    env_params: PyTree


@component("learner", reference="Heinrich, Lanctot & Silver (2015), https://proceedings.mlr.press/v37/heinrich15.html")
def self_play(
    learner: Traced[Learner], pool_size: Count = 32, every: Count = 1, latest: Traced[Fraction] = 0.0
) -> Learner:
    """Train against earlier policies of the agent itself, and act with their average.

    In copy c of the world, and in iteration t, player (c + t) mod P acts and learns by the current policy. The others
    act by a policy of the pool, drawn for the copy and the iteration: uniformly, or with the probability `latest` the
    current one. With `network = per_player(...)` each player has policies of its own, as an
    asymmetric game needs.

    The agent acts with the mean over the pool of the probabilities of actions, also where it acts greedily: the policy
    that can't be exploited is a mixed one, and its most probable action can be. In a game of one move this is the
    average policy exactly. In longer episodes a policy of the pool is drawn in every step: the mean in each state, and
    not a policy drawn for the whole episode.

    A federation averages the current policy. The pool stays with the agent, so that each acts with an average of its
    own and has no policy in common with the others. It is as large as `pool_size` times the parameters, and so is what
    an action costs.

    Args:
        learner: Learner to wrap; it learns from trajectories of a world.
        pool_size: Policies in the pool, a uniform sample of all that were offered to it.
        every: Local iterations between two policies that are offered.
        latest: Probability that the opponents of a copy act by the current policy.

    Raises:
        ConfigError: The environment has no players or is stepped on the host, or the learner plays whole episodes,
            takes no trajectory, clips each episode's gradient, or is in self-play already.
    """
    check_positive(pool_size=pool_size, every=every)
    players = _checked_players(learner)
    environment, num_envs = learner.environment, learner.num_envs

    def init(key: Key, env_params: PyTree) -> SelfPlayState:
        for_learner, for_start = jax.random.split(key)
        inner = learner.init(for_learner, env_params)
        pool = jax.tree.map(lambda x: jnp.repeat(x[None], pool_size, axis=0), policy_of(learner, inner))
        position = start(for_start, environment, env_params, num_envs)
        return SelfPlayState(inner, pool, jnp.int32(1), jnp.int32(0), position, env_params)

    def collect(key: Key, state: SelfPlayState) -> tuple[Trajectory, SelfPlayState, Metrics]:
        for_pool, for_opponents, for_rollout = jax.random.split(key, 3)
        now = policy_of(learner, state.learner)
        state = stored(for_pool, state, now, every)
        others = opponents(for_opponents, state, now, num_envs, latest)
        own, others = jax.lax.optimization_barrier((behaviours_of(learner, state.learner), others))
        seat = (jnp.arange(num_envs) + state.iterations) % players
        learning = rows(jnp.arange(players)[:, None] == seat, players)

        def choose(key: Key, seen: jax.Array) -> jax.Array:
            for_own, for_others = jax.random.split(key)
            keys = jax.random.split(for_others, num_envs)
            frozen: Any = jax.vmap(lambda k, p, shown: learner.act(k, p, shown, False), (0, 0, -1), -1)
            theirs = frozen(keys, others, dealt(seen, players))
            return jnp.where(learning, explore(learner, for_own, own, seen), rows(theirs, players))

        sampler = Sampler(lambda key, batch: key, choose)
        seen, position, counts = roll_out(
            for_rollout,
            environment,
            state.env_params,
            sampler,
            learner.horizon,
            state.position,
            learner.reads_overview,
        )
        # What the frozen do is no experience of the current policy: like the dead, they weigh nothing.
        alive = jnp.broadcast_to(learning, seen.reward.shape)
        seen = seen._replace(alive=alive if seen.alive is None else alive & seen.alive)
        return seen, state._replace(position=position, iterations=state.iterations + 1), counts

    def adopt(state: SelfPlayState, params: Params) -> SelfPlayState:
        inner = learner.adopt(state.learner, params)
        unborn = state.iterations == 0
        pool = jax.tree.map(lambda x, new: jnp.where(unborn, new[None], x), state.pool, policy_of(learner, inner))
        return state._replace(learner=inner, pool=pool)

    act, probabilities = acting_on_average(learner, pool_size)
    return replace(
        within(learner),
        init=init,
        collect=collect,
        act=act,
        adopt=adopt,
        policy=lambda state: average(state, policy_of(learner, state.learner)),
        restore=lambda state, params: _restored(learner, state, params),
        behaviours=None,
        probabilities=probabilities,
        personalised=(*learner.personalised, NAME),
    )


def stored(key: Key, state: SelfPlayState, now: Params, every: int) -> SelfPlayState:
    """Offer the current policy to the pool, if it is due, so that each of n policies is in it with the same chance."""
    # The first policy is in the pool already: it is the one that was adopted last.
    due = (state.iterations % every == 0) & (state.iterations > 0)
    pool_size = jax.tree.leaves(state.pool)[0].shape[0]
    place = jnp.where(state.seen < pool_size, state.seen, jax.random.randint(key, (), 0, state.seen + 1))
    place = jnp.where(due, place, pool_size)
    pool = jax.tree.map(lambda pool, new: pool.at[place].set(new, mode="drop"), state.pool, now)
    return state._replace(pool=pool, seen=state.seen + due)


def opponents(key: Key, state: SelfPlayState, now: Params, num_envs: int, latest: Number) -> Params:
    """Draw the policy of the opponents in each copy, `[num_envs, ...]`."""
    for_member, for_latest = jax.random.split(key)
    pool_size = jax.tree.leaves(state.pool)[0].shape[0]
    member = jax.random.randint(for_member, (num_envs,), 0, jnp.minimum(state.seen, pool_size))
    itself = jax.random.uniform(for_latest, (num_envs,)) < latest

    def drawn(pool: jax.Array, now: jax.Array) -> jax.Array:
        return jnp.where(itself.reshape(-1, *[1] * now.ndim), now, pool[member])

    return jax.tree.map(drawn, state.pool, now)


def average(state: SelfPlayState, now: Params) -> Params:
    """Return the acting parameters: the policies of the pool, the share of each, and the current policy."""
    pool_size = jax.tree.leaves(state.pool)[0].shape[0]
    count = jnp.minimum(state.seen, pool_size)
    return {"policies": state.pool, "share": (jnp.arange(pool_size) < count) / count, "current": now}


def acting_on_average(learner: Learner, pool_size: int) -> tuple[Act, Probabilities | None]:
    """Return `act` and `probabilities` of the mean of policies; the latter is None if the learner has none."""
    each = learner.probabilities

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        del greedy  # the average is what was learned, and its most probable action alone can be exploited
        for_choice, for_actions = jax.random.split(key)
        keys = jax.random.split(for_actions, pool_size)
        actions = jax.vmap(lambda k, p: learner.act(k, p, observation, False))(keys, params["policies"])
        count = observation.shape[-1]
        thresholds = jnp.cumsum(params["share"])[:-1, None]
        chosen = (jax.random.uniform(for_choice, (count,)) >= thresholds).sum(0)
        return jnp.moveaxis(jnp.moveaxis(actions, -1, 0)[jnp.arange(count), chosen], 0, -1)

    def probabilities(params: Params, observation: jax.Array) -> jax.Array:
        assert each is not None
        return jnp.tensordot(params["share"], jax.vmap(each, (0, None))(params["policies"], observation), 1)

    return act, None if each is None else probabilities


def _restored(learner: Learner, state: SelfPlayState, params: Params) -> SelfPlayState:
    """Return the state whose acting parameters are these."""
    # How many policies a full pool is a sample of is not among them: further ones replace them as if it were new.
    count = (params["share"] > 0.0).sum(dtype=jnp.int32)
    inner = restored(learner, state.learner, params["current"])
    return state._replace(learner=inner, pool=params["policies"], seen=count)


def _checked_players(learner: Learner) -> int:
    """Return the number of players.

    Raises:
        ConfigError: There are none, or the learner collects in a way of its own.
    """
    check_bounds_each(
        learner,
        "self_play",
        "plays against policies that were trained on earlier episodes, which nothing bounds",
        "Leave trajectory_clip or self_play out.",
    )
    check_forgets(learner, "self_play")
    if NAME in learner.personalised:
        raise ConfigError(
            f"{written(learner)} acts with an average of its policies already, and self_play would train it on what "
            "that average does instead of on what its current policy does. Leave one self_play out."
        )
    if isinstance(learner.environment, HostEnvironment):
        raise ConfigError(
            f"{learner.environment!r} is stepped on the host, where all players of a copy act by one policy, and "
            "self_play has to say who acts by a policy of the pool. Use a world written in JAX."
        )
    players = players_of(learner.environment)
    if players is None or players < 2:
        raise ConfigError(
            f"{learner.environment!r} has a single agent, and in self-play it needs an opponent. Use a world of two or "
            "more players, such as rock_paper_scissors()."
        )
    if learner.horizon < 1 or learner.episodic:
        raise ConfigError(
            f"{written(learner)} collects its experience in a way of its own, and self_play has to say who acts in "
            "which copy. Wrap a learner that learns from trajectories, such as a2c or ppo."
        )
    return players
