"""The adoption gate: an agent takes over the merged policy only if it does no worse at home.

merged, own --play the same episodes--> returns --> adopt the merged one, or go on with the own
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, policy_of
from fedrl.core.measures import Measure
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.rollout import Sampler, episodes
from fedrl.learners.wrappers.inner_state import within


class GatedState(NamedTuple):
    """The learner's state and its environment, and what the gate remembers.

    `noise` is the data of the key from which trials are drawn, `trials` their number; `rejected` is 1 from a refusal
    until it is reported.
    """

    learner: PyTree
    env_params: PyTree
    noise: jax.Array
    trials: jax.Array
    rejected: jax.Array


@component(
    "learner", reference="trying what was sent before using it: Zhang et al. (2021), https://arxiv.org/abs/2012.08565"
)
def accept_if_better(learner: Learner, trials: int = 4, horizon: int | None = None, margin: float = 0.0) -> Learner:
    """Let an agent keep its old policy if the merged one earns less in a small evaluation of its own.

    Both policies play the same `trials` greedy episodes (same noise) in the agent's environment; the merged one is
    refused if its mean return is below the old one's by more than `margin`. An agent that refuses goes on from its own
    parameters and tells the server where they are, like any other. The first parameters are adopted untried.

    It measures `adoptions_refused`, the share of rounds in which an agent kept its own policy.

    The price: `2 * trials * horizon` environment steps per agent and round, beyond those counted as samples. They run
    in the compiled program.

    Args:
        learner: What to wrap; its environment is a pure one.
        trials: Episodes of each policy.
        horizon: Steps after which a trial is cut off; the environment's `max_steps` by default.
        margin: How much worse the merged policy may be, in units of return; above 0 it forgives bad luck.

    Raises:
        ConfigError: A count is below one, the margin is negative, or the environment lives outside compiled programs.
    """
    environment = learner.environment
    length = environment.max_steps if horizon is None else min(horizon, environment.max_steps)
    check_positive(trials=trials, horizon=length)
    if margin < 0.0:
        raise ConfigError(f"margin is {margin}. An equal policy would be refused. Set it to 0 or more.")
    if isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} lives outside compiled programs, and the gate plays its trials inside. Drop gated, or "
            "use an environment written in JAX."
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
        ours, theirs = (earned(key, state, policy_of(learner, s)) for s in (state.learner, merged))
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
