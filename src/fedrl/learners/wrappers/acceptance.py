"""Acceptance test: an agent adopts the merged policy only if it does no worse in the agent's own environment.

merged, own --play the same episodes--> mean returns --> adopt the merged policy, or keep the own one
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, policy_of
from fedrl.core.measures import Measure
from fedrl.core.ranges import Count, NonNegative, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.rollout import Sampler, episodes
from fedrl.learners.parts.trajectories import check_bounds_each
from fedrl.learners.wrappers.inner_state import within


class GatedState(NamedTuple):
    """State of a learner with an acceptance test.

    Attributes:
        learner: State of the wrapped learner.
        env_params: Parameters of the agent's environment.
        noise: Data of the key from which the trials are drawn.
        trials: Number of adoptions tried so far.
        rejected: 1 from a rejected adoption until the next metrics report it, else 0.
    """

    learner: PyTree
    env_params: PyTree
    noise: jax.Array
    trials: jax.Array
    rejected: jax.Array


@component(
    "learner", reference="trying what was sent before using it: Zhang et al. (2021), https://arxiv.org/abs/2012.08565"
)
def accept_if_better(
    learner: Traced[Learner], trials: Count = 4, horizon: Count | None = None, margin: Traced[NonNegative] = 0.0
) -> Learner:
    """Let an agent keep its own policy if the merged one has a lower return in the agent's environment.

    Both policies play the same `trials` greedy episodes (with the same noise) in the agent's environment; the merged
    policy is rejected if its mean return is below that of the own policy by more than `margin`. The agent then
    continues from its own parameters and sends its updates like any other agent. The first parameters are adopted
    without a test.

    The measure `adoptions_refused` is the share of rounds in which an agent kept its own policy.

    Cost: `2 * trials * horizon` environment steps per agent and round, inside the compiled program, which are not
    counted as samples.

    Args:
        learner: Learner to wrap; its environment has to be written in JAX.
        trials: Episodes played with each policy.
        horizon: Steps after which a trial is cut off; the environment's `max_steps` by default.
        margin: How much lower the return of the merged policy may be; above 0 it allows for the noise of few trials.

    Raises:
        ConfigError: A count is below one, the margin is negative, the environment is stepped on the host, or the
            learner clips each episode's gradient.
    """
    check_bounds_each(
        learner,
        "accept_if_better",
        "decides what the agent trains from by the returns of further episodes, which nothing bounds",
        "Leave accept_if_better or trajectory_clip out.",
    )
    environment = learner.environment
    length = environment.max_steps if horizon is None else min(horizon, environment.max_steps)
    if isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} is stepped on the host, and accept_if_better plays its trials inside the compiled "
            "program. Drop accept_if_better, or use an environment written in JAX."
        )

    def init(key: Key, env_params: PyTree) -> GatedState:
        for_learner, for_trials = jax.random.split(key)
        noise = jax.random.key_data(for_trials)
        return GatedState(learner.init(for_learner, env_params), env_params, noise, jnp.int32(0), jnp.float32(0.0))

    def earned(key: Key, state: GatedState, params: Params) -> jax.Array:
        sampler = Sampler(lambda key, batch: key, lambda key, seen: learner.act(key, params, seen, True))
        _, counts = episodes(key, environment, state.env_params, sampler, trials, length)
        return counts["episode_return"] / trials

    def adopt(state: GatedState, params: Params) -> GatedState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.noise), state.trials)
        merged = learner.adopt(state.learner, params)
        # With one key: the same episodes for both policies, so that luck does not decide.
        ours, theirs = (earned(key, state, policy_of(learner, s)) for s in (state.learner, merged))
        # Not `theirs < ours - margin`: a merged policy whose return is not a number has to be rejected too.
        rejected = (state.trials > 0) & ~(theirs >= ours - margin)
        kept = jax.tree.map(lambda own, new: jnp.where(rejected, own, new), state.learner, merged)
        return GatedState(kept, state.env_params, state.noise, state.trials + 1, rejected.astype(jnp.float32))

    inner = within(learner)

    def learn(key: Key, state: GatedState, experience: Experience, context: LocalContext) -> tuple[GatedState, Metrics]:
        after, metrics = inner.learn(key, state, experience, context)
        return after._replace(rejected=jnp.float32(0.0)), metrics | {"adoptions_refused": state.rejected}

    own = (*learner.personalised, "accept_if_better")
    measures = {**learner.measures, "adoptions_refused": Measure("round")}
    return replace(inner, init=init, learn=learn, adopt=adopt, gradient=None, personalised=own, measures=measures)
