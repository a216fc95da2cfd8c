"""The common part of advantage actor-critics: two networks, one optimiser, and fresh experience in every iteration.

collect --> Trajectory --> evaluate --> Experience --+--> improve (the algorithm) --> parameters
                                                     +--> slope (if it has one)   --> gradient
                                                     +--> explained variance of the returns
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.environment import AnyEnvironment, Overview
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner, Trajectory
from fedrl.core.measures import LOSS, Measure
from fedrl.core.players import check_lives_once, check_players, dealt, players_of, rows_of
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.actors import acting_facts, actor_and_critic, sampler_of
from fedrl.learners.parts.networks import Network, critic_of
from fedrl.learners.parts.policies import Policy
from fedrl.learners.parts.returns import advantages
from fedrl.learners.parts.rollout import Position, episodes, first_episodes, start
from fedrl.learners.parts.rollout import collect as roll_out
from fedrl.learners.parts.trajectories import MEASURES, PerTrajectory, privacy_facts

EXPLAINED = Measure(
    "iteration",
    better="higher",
    parts=("unexplained", "spread"),
    finish=lambda sums: 1.0 - sums["unexplained"] / sums["spread"],
)
"""The measure `explained_variance`, computed from its sums; NaN if all returns are equal."""


class ActorCriticState(NamedTuple):
    """State of an actor-critic.

    Attributes:
        params: Parameters `{"actor", "critic"}`.
        optimizer: State of the optimiser.
        position: Current episodes of the environment copies; () if each iteration plays whole episodes.
        env_params: Parameters of the agent's environment.
    """

    params: Params
    optimizer: optax.OptState
    position: Position | tuple[()]
    env_params: PyTree


class Experience(NamedTuple):
    """A flat trajectory, every leaf `[*features, samples]`, with advantages and the critic's targets.

    In a world the samples of the first player come first, then those of the second (`flat`).

    `weight` is the weight of each sample in a mean over all of them, None if all count alike: 0 after the end of an
    episode, where each copy plays one whole episode, and after the death of a player. The weights of the living have
    the mean 1 over an iteration. Advantages are 0 where the weight is.

    `overview` is what a centralised critic reads, `[features, samples of one player]`; None if it reads observations.
    """

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    target: jax.Array
    weight: jax.Array | None = None
    overview: jax.Array | None = None


Improve = Callable[
    [Policy, Network, Key, Params, optax.OptState, Experience, LocalContext], tuple[Params, optax.OptState, Metrics]
]

Slope = Callable[[Policy, Network, Params, Experience, LocalContext], tuple[Params, Metrics]]


def actor_critic(
    environment: AnyEnvironment,
    network: Network,
    optimizer: optax.GradientTransformation,
    improve: Improve,
    slope: Slope | None = None,
    *,
    num_envs: int,
    num_steps: int,
    gamma: Number,
    gae_lambda: Number,
    how: PerTrajectory | None = None,
    critic: Network | None = None,
) -> Learner:
    """Build an actor-critic from its algorithm: `improve` trains on one batch of experience.

    `slope` is the gradient on one batch, for algorithms that have a single one; the rest is as for `a2c`. With `how`,
    each iteration plays one whole episode in each environment copy, of at most `num_steps` steps. With `critic`, this
    network reads the overview of the world and has an output for each player; `how` is then None.
    """
    check_players(environment, network.players)
    if how is not None:
        check_lives_once(environment, "trajectory_clip")
    whole = None if critic is None else overview_of(environment)
    judge = critic_of(network if critic is None else critic)
    length, players = num_steps if how is None else min(num_steps, environment.max_steps), players_of(environment)
    found = actor_and_critic(environment, network, judge, length, observes=critic is None)
    environment, policy, judge = found.environment, found.policy, found.critic

    def init(key: Key, env_params: PyTree) -> ActorCriticState:
        for_actor, for_critic, for_position = jax.random.split(key, 3)
        read, outputs = (environment.spaces.observation, 1) if whole is None else (whole.space, players or 1)
        params = {"actor": policy.init(for_actor), "critic": judge.init(for_critic, read, outputs, 1.0)}
        position = start(for_position, environment, env_params, num_envs) if how is None else ()
        return ActorCriticState(params, optimizer.init(params), position, env_params)

    def evaluate(params: Params, seen: Trajectory) -> Experience:
        # Of whole episodes, what comes after the end of each is to be ignored.
        seen, playing, _ = (seen, None, None) if how is None else first_episodes(seen)
        return evaluated(policy, judge, params, seen, playing, gamma, gae_lambda, players)

    def learn(
        key: Key, state: ActorCriticState, seen: Trajectory, context: LocalContext
    ) -> tuple[ActorCriticState, Metrics]:
        experience = evaluate(state.params, seen)
        parts = found.trained, found.trained_critic
        params, memory, metrics = improve(*parts, key, state.params, state.optimizer, experience, context)
        return state._replace(params=params, optimizer=memory), metrics | explained_variance(experience)

    def gradient(key: Key, state: ActorCriticState, seen: Trajectory, context: LocalContext) -> tuple[Params, Metrics]:
        del key
        assert slope is not None
        experience = evaluate(state.params, seen)
        direction, metrics = slope(found.trained, found.trained_critic, state.params, experience, context)
        return direction, metrics | explained_variance(experience)

    def collect(key: Key, state: ActorCriticState) -> tuple[Trajectory, ActorCriticState, Metrics]:
        sampler = sampler_of(found, state.params)
        if how is not None:
            played, counts = episodes(key, environment, state.env_params, sampler, num_envs, length)
            return played.trajectory, state, counts
        assert isinstance(state.position, Position)
        seen, position, counts = roll_out(
            key, environment, state.env_params, sampler, num_steps, state.position, overview=whole is not None
        )
        return seen, state._replace(position=position), counts

    return Learner(
        init=init,
        collect=collect,
        learn=learn,
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        samples=rows_of(environment, num_envs) * length,
        gradient=None if slope is None else gradient,
        horizon=length,
        num_envs=num_envs,
        episodic=how is not None,
        measures={"loss": LOSS, "explained_variance": EXPLAINED} | ({} if how is None else MEASURES),
        gamma=gamma,
        reads_overview=whole is not None,
        acts_for=network.players,
        **privacy_facts(how),
        **acting_facts(found),
    )


def evaluated(
    policy: Policy,
    critic: Network,
    params: Params,
    seen: Trajectory,
    playing: jax.Array | None,
    gamma: Number,
    gae_lambda: Number,
    players: int | None = None,
) -> Experience:
    """Return a trajectory as flat experience, with advantages and targets by the critic of these parameters."""
    observation, action, next_observation = (
        flat(x, players) for x in (seen.observation, seen.action, seen.next_observation)
    )
    outputs = policy.outputs(params["actor"], observation)
    above, beyond = (None if x is None else flat(x) for x in (seen.overview, seen.next_overview))
    here, there = (value_of(critic, params, x, y) for x, y in ((observation, above), (next_observation, beyond)))
    ahead = advantages(
        seen.reward,
        by_time(here, seen.reward, players),
        by_time(there, seen.reward, players),
        seen.terminated,
        seen.truncated,
        gamma,
        gae_lambda,
    )
    advantage, weight = flat(ahead, players), weights(seen.alive, playing, players)
    if weight is not None:
        advantage = jnp.where(weight > 0.0, advantage, 0.0)
    log_prob = policy.log_prob(outputs, action)
    return Experience(observation, action, log_prob, advantage, advantage + here, weight, above)


def value_of(critic: Network, params: Params, observation: jax.Array, overview: jax.Array | None) -> jax.Array:
    """Return the critic's value of each sample, from its observation or, for all players at once, the overview."""
    if overview is None:
        return critic.apply(params["critic"], observation)[0]
    # An output for each player: in this order, player by player, they are those of the samples.
    return critic.apply(params["critic"], overview).reshape(-1)


def overview_of(environment: AnyEnvironment) -> Overview:
    """Return what an observer of the whole world sees.

    Raises:
        ConfigError: The environment has no overview.
    """
    if environment.overview is None:
        raise ConfigError(
            f"{environment!r} has no overview, which a centralised critic reads. Use an environment with one, such as "
            "navigation(), or a learner whose critic reads observations, such as ppo."
        )
    return environment.overview


def weights(alive: jax.Array | None, playing: jax.Array | None, players: int | None) -> jax.Array | None:
    """Return the weights of flat samples, as in `Experience`.

    Args:
        alive: `[time, num_envs]`, whether the player of a sample is alive.
        playing: `[time, num_envs]`, whether a sample belongs to the only episode of its copy, until the player's death.
            Its weights are 0 and 1, so that no episode changes those of another.
        players: The number of players.
    """
    if playing is not None:
        return flat(playing, players).astype(jnp.float32)
    return None if alive is None else flat(alive / jnp.maximum(alive.mean(), 1.0 / alive.size), players)


def explained_variance(experience: Experience) -> Metrics:
    r"""Return the sums of the explained variance: the share of the returns' variance that a critic predicts.

    1 - sum_b n_b Var_b(G - V) / sum_b n_b Var_b(G),   G_t = A_t + V(s_t), over the batches b of local iterations

    It is computed before the critic is trained on the batch: 1 for a perfect critic, 0 for one that predicts the mean
    of the batch, negative for a worse one.
    """
    # About the mean of each batch: differences between agents are not for a critic to explain, and pooled moments would
    # need E[x^2] - E[x]^2, which cancels in float32 for returns far from zero.
    target, advantage = experience.target, experience.advantage
    playing = None if experience.weight is None else experience.weight > 0.0
    spread = jnp.square(target - target.mean(where=playing)).sum(where=playing)
    return {
        "unexplained": jnp.square(advantage - advantage.mean(where=playing)).sum(where=playing),
        "spread": spread,
    }


def flat(x: jax.Array, players: int | None = None) -> jax.Array:
    """Reshape `[time, *features, num_envs]` to `[*features, time * num_envs]`.

    The rows `players * num_envs` of a world become `[*features, players * time * num_envs]`, so that rows are
    player-major in every batch.

    >>> flat(jnp.array([[1, 2], [3, 4]]), players=2).tolist()
    [1, 3, 2, 4]
    """
    return jnp.moveaxis(dealt(x, players), 0, -2).reshape(*x.shape[1:-1], -1)


def by_time(x: jax.Array, like: jax.Array, players: int | None = None) -> jax.Array:
    """Return flat numbers, `[samples]`, in the shape `[time, num_envs]` of `like`, the inverse of `flat`."""
    if players is None:
        return x.reshape(like.shape)
    return jnp.moveaxis(x.reshape(players, like.shape[0], -1), 1, 0).reshape(like.shape)


def by_episode(experience: Experience, episodes: int) -> Experience:
    """Return flat experience, every leaf `[*features, time * n]`, as n episodes, `[n, *features, time]`.

    An episode of a world is that of all its players: `[n, *features, players * time]`.
    """

    def apart(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, episodes), -1, 0)

    return jax.tree.map(apart, experience)


def averaged(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Return the mean over samples, each times its weight; those of weight 0 may be any number, such as NaN."""
    return weighed(x, weight).mean()


def weighed(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Return samples times their weights."""
    return x if weight is None else jnp.where(weight > 0.0, weight * x, 0.0)
