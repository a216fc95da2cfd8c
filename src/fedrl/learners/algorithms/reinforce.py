"""REINFORCE: climb the gradient of the return, estimated from whole episodes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.learner import Learner, Trajectory
from fedrl.core.measures import LOSS
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.actor_critic import flat
from fedrl.learners.parts.losses import policy_gradient, squared_error
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.policies import act_with, policy_for, probabilities_with
from fedrl.learners.parts.returns import discounted
from fedrl.learners.parts.rollout import Episodes, Sampler, episodes

BASELINES = ("none", "mean", "value")


class ReinforceState(NamedTuple):
    """Parameters `{"actor"}`, and `"critic"` for a learned baseline; the optimiser's state; in which environment."""

    params: Params
    optimizer: optax.OptState
    env_params: PyTree


@component("learner", reference="Williams (1992), https://doi.org/10.1007/BF00992696")
def reinforce(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(),
    optimizer: optax.GradientTransformation = adam(0.005),
    baseline: str = "mean",
    episodes_per_step: int = 16,
    horizon: int | None = None,
    gamma: float = 0.99,
    value_coef: float = 0.5,
) -> Learner:
    r"""REINFORCE with rewards to go (GPOMDP) and a baseline, for discrete and continuous actions.

    One iteration plays `episodes_per_step` episodes from their reset on and takes one step along

        g = (1/n) sum_i sum_t grad log pi(a_t|s_t) (G_t - b_t),   G_t = r_t + gamma G_{t+1}.

    The factor gamma^t of the discounted objective is left out, as in common practice. The gradient may travel instead
    of the step: `federate(..., payload="gradient")` is the federated policy gradient.

    Every iteration begins a new episode in each instance, also in an environment that is stepped on the host, and the
    instance stands still once it is over. So each counts once, however long it is: the mean over what happens to end
    within a stretch of time would count short episodes more often than long ones. An episode that is cut off at the
    horizon counts up to there and its rewards to go end there: what is climbed is the return of the first `horizon`
    steps. With `baseline="value"`, the critic stands for the rest.

    Args:
        environment: Where to learn.
        network: Shape of actor and critic.
        optimizer: What descends the gradient.
        baseline: "none"; "mean", the mean G_t of the other episodes still under way at t (unbiased, and 0 for the last
            one); or "value", a learned critic V(s_t), which also stands for what lies beyond a cut.
        episodes_per_step: n, episodes played side by side.
        horizon: Steps after which an episode is cut off; the environment's `max_steps` by default.
        gamma: gamma.
        value_coef: Weight of the critic's squared error.

    Raises:
        ConfigError: A count is below one or the baseline is not known.

    Reference: rewards to go, Baxter & Bartlett (2001), https://doi.org/10.1613/jair.806; federated, Fan et al. (2021),
        https://arxiv.org/abs/2110.14074.
    """
    length = environment.max_steps if horizon is None else min(horizon, environment.max_steps)
    check_positive(episodes_per_step=episodes_per_step, horizon=length)
    check_one_of(baseline, BASELINES, "baseline")
    policy = policy_for(environment.spaces, network)
    learns_value = baseline == "value"

    def init(key: Key, env_params: PyTree) -> ReinforceState:
        for_actor, for_critic = jax.random.split(key)
        params = {"actor": policy.init(for_actor)}
        if learns_value:
            params["critic"] = network.init(for_critic, environment.spaces.observation, 1, 1.0)
        return ReinforceState(params, optimizer.init(params), env_params)

    def loss(params: Params, played: Episodes) -> jax.Array:
        observation = flat(played.trajectory.observation)
        log_prob = policy.log_prob(policy.outputs(params["actor"], observation), flat(played.trajectory.action))
        if not learns_value:
            return -length * policy_gradient(log_prob, advantage_of(played, gamma, baseline))
        value = network.apply(params["critic"], observation)[0].reshape(played.playing.shape)
        beyond = network.apply(params["critic"], played.final)[0]
        advantage, error = against_critic(played, value, beyond, gamma)
        return value_coef * error - length * policy_gradient(log_prob, advantage)

    def collect(key: Key, state: ReinforceState) -> tuple[Trajectory, ReinforceState, Metrics]:
        actor = jax.lax.optimization_barrier(state.params["actor"])
        sampler = Sampler(policy.draw, lambda noise, seen: policy.sample(noise, policy.outputs(actor, seen)))
        played, counts = episodes(key, environment, state.env_params, sampler, episodes_per_step, length)
        return played.trajectory, state, counts

    def gradient(key: Key, state: ReinforceState, seen: Trajectory, context: LocalContext) -> tuple[Params, Metrics]:
        del key, context
        cost, slope = jax.value_and_grad(loss)(state.params, first_episodes(seen))
        return slope, {"loss": cost}

    def learn(
        key: Key, state: ReinforceState, seen: Trajectory, context: LocalContext
    ) -> tuple[ReinforceState, Metrics]:
        slope, metrics = gradient(key, state, seen, context)
        params, memory = descend(optimizer, slope, state.optimizer, state.params, context)
        return state._replace(params=params, optimizer=memory), metrics

    act = act_with(policy)
    return Learner(
        init=init,
        collect=collect,
        learn=learn,
        act=lambda key, params, observation, greedy: act(key, params["actor"], observation, greedy),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=episodes_per_step * length,
        gradient=gradient,
        horizon=length,
        num_envs=episodes_per_step,
        episodic=True,
        probabilities=probabilities_with(policy, environment.spaces),
        measures={"loss": LOSS},
        gamma=gamma,
    )


def advantage_of(played: Episodes, gamma: float, baseline: str) -> jax.Array:
    """Rewards to go less the baseline, flat; 0 where an episode is over."""
    playing = played.playing
    going = discounted(played.trajectory.reward, jnp.zeros_like(playing), gamma)
    advantage = going - others(going, playing) if baseline == "mean" else going
    return (advantage * playing).reshape(-1)


def against_critic(played: Episodes, value: jax.Array, beyond: jax.Array, gamma: float) -> tuple[jax.Array, jax.Array]:
    """Rewards to go less the critic's value, flat, and the mean squared error of the critic.

    Args:
        played: The episodes.
        value: Of each state, `[time, num_envs]`.
        beyond: Of the state after the last one, `[num_envs]`.
        gamma: Discount.
    """
    playing = played.playing
    target = jax.lax.stop_gradient(discounted(bootstrapped(played, beyond, gamma), ~playing, gamma))
    advantage = (target - value) * playing
    share = playing.size / playing.sum()
    return advantage.reshape(-1), squared_error(value * playing, target * playing) * share


def first_episodes(seen: Trajectory) -> Episodes:
    """The first episode of each instance in a trajectory: what comes after its end earns nothing and does not count."""
    done = seen.terminated | seen.truncated
    playing = jnp.cumsum(done, axis=0) - done == 0
    last = (playing.sum(0) - 1).reshape(1, *[1] * (seen.next_observation.ndim - 2), -1)
    final = jnp.take_along_axis(seen.next_observation, last, axis=0)[0]
    trajectory = seen._replace(
        reward=jnp.where(playing, seen.reward, 0.0),
        terminated=seen.terminated & playing,
        truncated=seen.truncated & playing,
    )
    return Episodes(trajectory, playing, final)


def others(going: jax.Array, playing: jax.Array) -> jax.Array:
    """The mean reward to go of the other episodes still under way, `[time, num_envs]`; 0 where there is none.

    It does not depend on the episode's own actions from there on, so it leaves the gradient unbiased.
    """
    count = playing.sum(1, keepdims=True)
    total = (going * playing).sum(1, keepdims=True)
    return jnp.where(count > 1, (total - going) / jnp.maximum(count - 1, 1), 0.0)


def bootstrapped(played: Episodes, beyond: jax.Array, gamma: float) -> jax.Array:
    """Rewards with the discounted value `beyond` `[num_envs]` added to the last one of an episode that was cut off."""
    seen, playing = played.trajectory, played.playing
    last = playing & ~jnp.concatenate([playing[1:], jnp.zeros_like(playing[:1])])
    return seen.reward + gamma * beyond * (last & ~seen.terminated)
