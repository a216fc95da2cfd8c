"""Faults of a mechanism, planted as doubles of its stage or of its selection, and the federation around it.

Each double claims what the right mechanism claims. Building a federation tries clips on numbers and would refuse some
of them at once, so that check is switched off here: an audit must not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.aggregators import mean
from fedrl.audit.canary import AuditedMechanism, audited
from fedrl.core.keys import Stream, keys_of, server_noise, stream_key
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage
from fedrl.environments import cartpole
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.learners import mlp, reinforce
from fedrl.privacy import central_gaussian
from fedrl.server import poisson
from fedrl.server.decisions import Selection
from fedrl.server.scheduler import Scheduler
from fedrl.stages.clip import clipped, norm_of

AGENTS, CLIP = 4, 1.0


def small_learner() -> Learner:
    """A policy with four arrays of 58 numbers together."""
    return reinforce(cartpole(), network=mlp((8,)), episodes_per_step=1, horizon=2)


def right(stage: Stage, expected: float) -> Stage:
    del expected
    return stage


def noise_times(stage: Stage, expected: float, factor: float) -> Stage:
    """The noise that the stage adds, times a factor."""

    def finish(key, server_state, update):
        noisy, after = stage.finish(key, server_state, update)
        summed = jax.tree.map(lambda x: x * (update.weight / expected), update.value)
        weaker = jax.tree.map(lambda x, y: x + factor * (y - x), summed, noisy.value)
        return noisy._replace(value=weaker), after

    return replace(stage, finish=finish)


def no_clip(stage: Stage, expected: float) -> Stage:
    del expected
    return replace(stage, encode=lambda key, context, server_state, agent_state, update: (update, agent_state))


def clip_of_each_layer(stage: Stage, expected: float) -> Stage:
    """Each array is clipped to C alone, so that all together may have sqrt(L) C."""
    del expected

    def encode(key, context, server_state, agent_state, update):
        value = jax.tree.map(lambda leaf: clipped(leaf, CLIP, norm_of), update.value)
        return update._replace(value=value), agent_state

    return replace(stage, encode=encode)


def noise_shared_by_arrays(stage: Stage, expected: float) -> Stage:
    """Every array has the noise that a single draw gives it, in place of a draw of its own."""

    def finish(key, server_state, update):
        noisy, after = stage.finish(key, server_state, update)
        summed = jax.tree.map(lambda x: x * (update.weight / expected), update.value)
        noise = jax.tree.map(jnp.subtract, noisy.value, summed)
        longest = max(jax.tree.leaves(noise), key=lambda leaf: leaf.size).reshape(-1)
        shared = jax.tree.map(lambda x: x + longest[: x.size].reshape(x.shape), summed)
        return noisy._replace(value=shared), after

    return replace(stage, finish=finish)


def everybody(selection: Selection) -> Selection:
    """Everybody is in every round, and the price is that of a sample."""
    return replace(selection, choose=lambda rng, ids, number, state: ids)


def one_key_for_all_rounds() -> Any:
    """While it is open, an audit derives the noise key of every round as that of the first."""
    return mock.patch("fedrl.audit.driver.server_noise", lambda keys, version: server_noise(keys, 0))


STAGES: dict[str, Callable[[Stage, float], Stage]] = {
    "correct": right,
    "half noise": partial(noise_times, factor=0.5),
    "noise x 0.8": partial(noise_times, factor=0.8),
    "no clip": no_clip,
    "clip of each layer": clip_of_each_layer,
    "no noise": partial(noise_times, factor=0.0),
    "noise divided by K": partial(noise_times, factor=1.0 / AGENTS),
    "arrays share noise": noise_shared_by_arrays,
}
"""The faults of a stage, by name, and none first."""
CORRECT, SHARED = "correct", "arrays share noise"
ALWAYS_SAMPLED, ONE_KEY = "always sampled", "one key for all rounds"


def unchecked(*stages: Stage, learner: Learner | None = None, **options) -> Federation:
    """A federation whose stages are not tried on numbers when it is built."""
    with mock.patch("fedrl.federation.federate.check_claims"):
        return federate(small_learner() if learner is None else learner, mean(weighting="uniform"), *stages, **options)


def settings(learner: Learner, agents: int = AGENTS):
    return fleet(learner.environment, agents, {}, stream_key(keys_of(0), Stream.FLEET))


def mechanism(fault: str, multiplier: float, rate: float = 1.0) -> AuditedMechanism:
    """Central Gaussian noise with a fault, or with none, "correct"."""
    expected = AGENTS * rate
    stage = central_gaussian(CLIP, multiplier, expected)
    federation = unchecked(STAGES.get(fault, right)(stage, expected))
    scheduler = None
    if rate < 1.0:
        selection = poisson(rate)
        scheduler = Scheduler(selection=everybody(selection) if fault == ALWAYS_SAMPLED else selection)
    return audited(federation, settings(federation.learner), scheduler)


def exact_gaussian_scores(mu: float, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood ratios of a Gaussian mechanism that is exactly as claimed, with the canary and without."""
    draws = np.random.default_rng(seed).normal(size=(2, runs))
    return mu * (draws[0] + mu) - mu**2 / 2, mu * draws[1] - mu**2 / 2
