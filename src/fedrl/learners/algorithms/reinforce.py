"""REINFORCE: ascend the gradient of the return, estimated from whole episodes.

    g = (1/n) sum_i sum_t grad log pi(a_t|s_t) (G_t - b_t),   G_t = r_t + gamma G_{t+1}

One iteration plays n whole episodes and takes one step along g, with rewards to go G_t (GPOMDP) and a baseline b_t.
Agents can send g itself: `federate(..., payload="gradient")` is the federated policy gradient.

Every iteration begins a new episode in each environment copy, also in an environment that is stepped on the host, and a
copy idles once its episode is over. So every episode counts once, whatever its length: averaging over the episodes that
happen to end within a fixed number of steps would count short episodes more often than long ones.

An episode that is cut off at the horizon counts up to there, and its rewards to go end there: the objective is the
return of the first `horizon` steps. With `baseline="value"`, the critic estimates the remaining return.

The factor gamma^t of the discounted objective is left out, as in common practice.

Rewards to go: Baxter & Bartlett (2001), https://doi.org/10.1613/jair.806. Federated: Fan et al. (2021),
https://arxiv.org/abs/2110.14074.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner, Trajectory
from fedrl.core.measures import LOSS
from fedrl.core.players import check_lives_once, check_players, dealt, players_of, rows, rows_of
from fedrl.core.ranges import Count, Fraction, NonNegative, Positive, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.actor_critic import by_time, flat
from fedrl.learners.parts.actors import acting_facts, actor_and_critic, sampler_of
from fedrl.learners.parts.losses import policy_gradient, squared_error
from fedrl.learners.parts.networks import Network, critic_of, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.returns import discounted
from fedrl.learners.parts.rollout import Episodes, episodes, first_episodes
from fedrl.learners.parts.trajectories import MEASURES, by_episode, per_trajectory, privacy_facts, private_gradient

BASELINES = ("none", "mean", "value")


class ReinforceState(NamedTuple):
    """Parameters `{"actor"}` (and `"critic"` for a learned baseline), optimiser state, environment parameters."""

    params: Params
    optimizer: optax.OptState
    env_params: PyTree


class SingleEpisode(NamedTuple):
    """Episodes by themselves: `[n, *features, time]` each, with the rewards to go, 0 after the end of an episode."""

    observation: jax.Array
    action: jax.Array
    to_go: jax.Array
    playing: jax.Array


@component("learner", reference="Williams (1992), https://doi.org/10.1007/BF00992696")
def reinforce(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(),
    optimizer: Traced[optax.GradientTransformation] = adam(0.005),
    baseline: str = "mean",
    episodes_per_step: Count = 16,
    horizon: Count | None = None,
    gamma: Traced[Fraction] = 0.99,
    value_coef: Traced[NonNegative] = 0.5,
    trajectory_clip: Traced[Positive] | None = None,
    noise_multiplier: Traced[NonNegative] = 0.0,
) -> Learner:
    """Build a REINFORCE learner with rewards to go and a baseline, for discrete and continuous actions.

    Args:
        environment: Environment to learn in.
        network: Architecture of the actor and of the critic.
        optimizer: Local optimiser.
        baseline: "none"; "mean", the mean G_t of the other episodes still running at t, in a world of the same player;
            or "value", a learned critic.
        episodes_per_step: n, episodes played side by side.
        horizon: Steps after which an episode is cut off; the environment's `max_steps` by default.
        gamma: Discount factor.
        value_coef: Weight of the critic's squared error.
        trajectory_clip: C, the L2 norm to which each episode's gradient is scaled down, of actor and critic together;
            the gradient is then the mean of the clipped ones, with n as divisor. The gradient of an episode is a sum
            over its steps, so that norms differ tenfold: choose C about their median, `trajectory_norm_median`. In a
            world each player's part is clipped, and the gradient is their mean.
        noise_multiplier: z: normal noise of standard deviation z C / n is added to every entry of each gradient, from a
            secret of the agent. `Learner.noise` is its price, for the privacy of single episodes.

    Raises:
        ConfigError: A count is below one, the baseline is unknown or that of other episodes beside `trajectory_clip`,
            there is noise without a clip, or players of the environment may live again.
    """
    length = _checked_length(environment, network, episodes_per_step, horizon, baseline, trajectory_clip)
    how = per_trajectory(trajectory_clip, noise_multiplier, episodes_per_step)
    players = players_of(environment)
    found = actor_and_critic(environment, network, critic_of(network), length, observes=baseline == "value")
    environment, policy, critic = found.environment, found.policy, found.critic

    def init(key: Key, env_params: PyTree) -> ReinforceState:
        for_actor, for_critic = jax.random.split(key)
        params = {"actor": policy.init(for_actor)}
        if baseline == "value":
            params["critic"] = critic.init(for_critic, environment.spaces.observation, 1, 1.0)
        return ReinforceState(params, optimizer.init(params), env_params)

    def loss(params: Params, played: Episodes) -> jax.Array:
        observation, action = flat(played.trajectory.observation, players), flat(played.trajectory.action, players)
        log_prob = found.trained.log_prob(found.trained.outputs(params["actor"], observation), action)
        if baseline != "value":
            return -length * policy_gradient(log_prob, flat(advantage_of(played, gamma, baseline, players), players))
        value = by_time(found.trained_critic.apply(params["critic"], observation)[0], played.playing, players)
        beyond = critic.apply(params["critic"], played.final)[0]
        advantage, error = against_critic(played, value, beyond, gamma)
        return value_coef * error - length * policy_gradient(log_prob, flat(advantage, players))

    def alone(params: Params, of: SingleEpisode) -> jax.Array:
        log_prob = found.trained.log_prob(found.trained.outputs(params["actor"], of.observation), of.action)
        value = found.trained_critic.apply(params["critic"], of.observation)[0] if baseline == "value" else None
        return loss_of_one(of, log_prob, value, value_coef)

    def collect(key: Key, state: ReinforceState) -> tuple[Trajectory, ReinforceState, Metrics]:
        sampler = sampler_of(found, state.params)
        played, counts = episodes(key, environment, state.env_params, sampler, episodes_per_step, length)
        return played.trajectory, state, counts

    def gradient(key: Key, state: ReinforceState, seen: Trajectory, context: LocalContext) -> tuple[Params, Metrics]:
        del key
        played = first_episodes(seen)
        if how is not None:
            beyond = critic.apply(state.params["critic"], played.final)[0] if baseline == "value" else None
            return private_gradient(how, context, 0, alone, state.params, apart(played, beyond, gamma))
        cost, slope = jax.value_and_grad(loss)(state.params, played)
        return slope, {"loss": cost}

    def learn(
        key: Key, state: ReinforceState, seen: Trajectory, context: LocalContext
    ) -> tuple[ReinforceState, Metrics]:
        slope, metrics = gradient(key, state, seen, context)
        params, memory = descend(optimizer, slope, state.optimizer, state.params, context)
        return state._replace(params=params, optimizer=memory), metrics

    return Learner(
        init=init,
        collect=collect,
        learn=learn,
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        samples=rows_of(environment, episodes_per_step) * length,
        gradient=gradient,
        horizon=length,
        num_envs=episodes_per_step,
        episodic=True,
        measures={"loss": LOSS} | ({} if how is None else MEASURES),
        gamma=gamma,
        acts_for=network.players,
        **privacy_facts(how),
        **acting_facts(found),
    )


def _checked_length(
    environment: AnyEnvironment,
    network: Network,
    episodes_per_step: int,
    horizon: int | None,
    baseline: str,
    trajectory_clip: Number | None,
) -> int:
    length = environment.max_steps if horizon is None else min(horizon, environment.max_steps)
    check_players(environment, network.players)
    check_lives_once(environment, "reinforce")
    check_positive(episodes_per_step=episodes_per_step, horizon=length)
    check_baseline(baseline, trajectory_clip)
    return length


def check_baseline(baseline: str, trajectory_clip: Number | None) -> None:
    """Refuse an unknown baseline, and that of other episodes where each episode's contribution is to be bounded.

    Raises:
        ConfigError: The baseline is unknown, or it is "mean" and there is a clip.
    """
    check_one_of(baseline, BASELINES, "baseline")
    if baseline == "mean" and trajectory_clip is not None:
        raise ConfigError(
            f"baseline is 'mean' and trajectory_clip is {trajectory_clip}. This baseline is the mean over the other "
            "episodes, so that one episode would change the contributions of all. Use baseline = 'value' or 'none'."
        )


def apart(played: Episodes, beyond: jax.Array | None, gamma: Number) -> SingleEpisode:
    """Return episodes with a leading axis of n; `beyond` as in `bootstrapped`, None without a critic."""
    seen, playing = played.trajectory, played.playing
    reward = seen.reward if beyond is None else bootstrapped(played, beyond, gamma)
    to_go = jnp.where(playing, discounted(reward, ~playing, gamma), 0.0)
    return SingleEpisode(*(by_episode(x) for x in (seen.observation, seen.action, to_go, playing)))


def loss_of_one(of: SingleEpisode, log_prob: jax.Array, value: jax.Array | None, value_coef: Number) -> jax.Array:
    """Return the loss of one episode: the score summed over its steps, and the critic's mean squared error over them.

    Args:
        of: The episode, without the axis of n.
        log_prob: Of its actions, `[time]`.
        value: The critic's value of its states, `[time]`; None without a critic.
        value_coef: Weight of the critic's error.
    """
    if value is None:
        return -of.playing.size * policy_gradient(log_prob, of.to_go)
    value = jnp.where(of.playing, value, of.to_go)
    error = squared_error(value, of.to_go) * (of.playing.size / of.playing.sum())
    return value_coef * error - of.playing.size * policy_gradient(log_prob, of.to_go - value)


def advantage_of(played: Episodes, gamma: Number, baseline: str, players: int | None = None) -> jax.Array:
    """Return the rewards to go less the baseline, `[time, num_envs]`; 0 where an episode is over."""
    # Zero for idle steps: the score is then a mean over length * n slots, and times length it is the mean per episode.
    playing = played.playing
    going = discounted(played.trajectory.reward, jnp.zeros_like(playing), gamma)
    advantage = going - others(going, playing, players) if baseline == "mean" else going
    return advantage * playing


def against_critic(played: Episodes, value: jax.Array, beyond: jax.Array, gamma: Number) -> tuple[jax.Array, jax.Array]:
    """Return the rewards to go less the critic's value, `[time, num_envs]`, and the critic's mean squared error.

    Args:
        played: The episodes.
        value: The critic's value of each state, `[time, num_envs]`.
        beyond: The critic's value of the state after the last one, `[num_envs]`.
        gamma: Discount factor.
    """
    playing = played.playing
    target = jax.lax.stop_gradient(discounted(bootstrapped(played, beyond, gamma), ~playing, gamma))
    advantage = (target - value) * playing
    share = playing.size / playing.sum()
    return advantage, squared_error(value * playing, target * playing) * share


def others(going: jax.Array, playing: jax.Array, players: int | None = None) -> jax.Array:
    """Return the mean reward to go of the other episodes still running, `[time, num_envs]`; 0 where there is none.

    This "mean" baseline does not depend on the episode's own later actions, so it leaves the gradient unbiased. In a
    world it is the mean of the same player in other episodes, because its actions change what the others of its own
    episode earn.
    """
    going, playing = dealt(going, players), dealt(playing, players)
    count = playing.sum(-1, keepdims=True)
    total = (going * playing).sum(-1, keepdims=True)
    return rows(jnp.where(count > 1, (total - going) / jnp.maximum(count - 1, 1), 0.0), players)


def bootstrapped(played: Episodes, beyond: jax.Array, gamma: Number) -> jax.Array:
    """Return the rewards, with gamma * `beyond` `[num_envs]` added to the last one of an episode that was cut off."""
    seen, playing = played.trajectory, played.playing
    last = playing & ~jnp.concatenate([playing[1:], jnp.zeros_like(playing[:1])])
    return seen.reward + gamma * beyond * (last & ~seen.terminated)
