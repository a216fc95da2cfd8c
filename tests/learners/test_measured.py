"""What learners and environments measure, against counts by hand and NumPy."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl import federate
from fedrl.aggregators import mean
from fedrl.config.measures import declared
from fedrl.core.measures import Measure, added, value_of
from fedrl.core.types import LocalContext
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole, gridworld
from fedrl.environments.fleet import fleet
from fedrl.federation.nested import as_learner
from fedrl.learners import a2c, accept_if_better, ppo, q_table
from fedrl.learners.parts.actor_critic import EXPLAINED, Experience, explained_variance
from fedrl.learners.parts.rollout import Sampler, collect, episodes, start
from fedrl.runs.measuring import sums_in

ACTIONS = Sampler(jax.random.uniform, lambda noise, seen: (noise * 4).astype(jnp.int32))
CORRIDOR = "S.G"
"""Right, right ends in the goal; anything else wastes a step."""


def played(environment, steps, num_envs=3, seed=0):
    position = start(jax.random.key(seed), environment, environment.params, num_envs)
    return collect(jax.random.key(seed + 1), environment, environment.params, ACTIONS, steps, position)


def test_success_in_a_gridworld_is_counted_as_by_hand():
    environment = gridworld("S.O\n..G", max_steps=6)
    seen, _, counts = played(environment, 200)
    ended = np.asarray(seen.terminated | seen.truncated)
    won = np.asarray(seen.reward) > 0.5  # only the goal pays
    assert 0 < won.sum() < ended.sum()
    assert counts["success"] == won.sum()
    assert counts["episodes"] == ended.sum()


def test_collecting_in_two_halves_counts_what_one_whole_does():
    """A value per episode counts as its episode ends: the running sum stands in the position between two rollouts."""
    tiles = replace(gridworld("S....G", max_steps=7), measures={"tiles": Measure("episode"), "cells": Measure("step")})

    def step(noise, params, state, action):
        timestep, state = gridworld("S....G", max_steps=7).step(noise, params, state, action)
        cell = timestep.observation.astype(jnp.float32)
        return timestep._replace(measures={"tiles": cell, "cells": cell}), state

    environment = replace(tiles, step=step)
    seen, position, first = played(environment, 10)
    later, _, second = collect(jax.random.key(9), environment, environment.params, ACTIONS, 10, position)
    cells = np.concatenate([seen.next_observation, later.next_observation]).astype(float)
    ends = np.concatenate([seen.terminated | seen.truncated, later.terminated | later.truncated])
    by_hand = sum(
        cells[: np.flatnonzero(ends[:, i])[-1] + 1, i].sum() for i in range(cells.shape[1]) if ends[:, i].any()
    )
    sums = added([{name: float(x) for name, x in counts.items()} for counts in (first, second)])
    assert sums["tiles"] == pytest.approx(by_hand)
    assert sums["cells"] == pytest.approx(cells.sum())
    assert sums["steps"] == cells.size


def test_what_is_taken_at_the_end_of_an_episode_is_its_last_value():
    def step(noise, params, state, action):
        timestep, state = plain.step(noise, params, state, action)
        return timestep._replace(measures={"cell": timestep.observation.astype(jnp.float32)}), state

    plain = gridworld("S...G", max_steps=5)
    environment = replace(plain, step=step, measures={"cell": Measure("episode", take="last")})
    seen, _, counts = played(environment, 60)
    ends = np.asarray(seen.terminated | seen.truncated)
    assert counts["cell"] == np.asarray(seen.next_observation)[ends].sum()
    whole, sums = episodes(jax.random.key(0), environment, environment.params, ACTIONS, 4, 3)
    assert sums["cell"] == np.asarray(whole.final).sum()  # cut off after three steps
    assert sums["episodes"] == 4


def test_environments_without_measures_have_no_further_columns():
    *_, counts = played(cartpole(), 5)
    assert set(counts) == {"episodes", "episode_return"}


def numpy_explained(advantage, target):
    """Of one batch, as it is usually defined."""
    return 1.0 - np.var(advantage.astype(np.float64)) / np.var(target.astype(np.float64))


def experience(advantage, target):
    nothing = jnp.zeros(advantage.shape)
    return Experience(nothing, nothing, nothing, jnp.asarray(advantage), jnp.asarray(target))


def test_explained_variance_is_that_of_numpy():
    rng = np.random.default_rng(0)
    target = rng.normal(50.0, 3.0, 400).astype(np.float32)
    error = rng.normal(1.0, 1.0, 400).astype(np.float32)
    sums = {name: float(x) for name, x in explained_variance(experience(error, target)).items()}
    found = value_of("explained_variance", EXPLAINED, sums | {"iterations": 1.0})
    assert found == pytest.approx(numpy_explained(error, target), rel=1e-4)
    assert 0.8 < found < 0.95


def test_explained_variance_of_batches_weighs_each_by_the_spread_of_its_returns():
    rng = np.random.default_rng(1)
    shapes = [(1.0, 0.0, 40), (5.0, 900.0, 70)]  # spread, mean, samples
    errors = [rng.normal(0.0, spread, n).astype(np.float32) for spread, _, n in shapes]
    targets = [rng.normal(centre, 2 * spread, n).astype(np.float32) for spread, centre, n in shapes]
    each = [explained_variance(experience(*batch)) for batch in zip(errors, targets, strict=True)]
    sums = added([{name: float(x) for name, x in found.items()} for found in each])
    unexplained, spread = (sum(np.var(x.astype(float)) * len(x) for x in batch) for batch in (errors, targets))
    found = value_of("explained_variance", EXPLAINED, sums | {"iterations": 2.0})
    assert found == pytest.approx(1.0 - unexplained / spread, rel=1e-4)


def test_returns_far_from_zero_keep_their_spread():
    rng = np.random.default_rng(2)
    target = (1e5 + rng.normal(0.0, 1.0, 1024)).astype(np.float32)
    error = rng.normal(0.0, 0.5, 1024).astype(np.float32)
    sums = {name: float(x) for name, x in explained_variance(experience(error, target)).items()}
    assert value_of("e", EXPLAINED, sums | {"iterations": 1.0}) == pytest.approx(
        numpy_explained(error, target), abs=0.02
    )


@pytest.mark.parametrize(
    ("learner", "payload"),
    [(ppo(cartpole(), num_steps=16), "delta"), (a2c(cartpole()), "delta"), (a2c(cartpole()), "gradient")],
)
def test_critics_say_how_much_they_explain(learner, payload):
    federation = federate(learner, mean(), local_steps=2, payload=payload)
    simulation = simulate(federation, fleet(learner.environment, 2))
    _, seen = simulation.round(simulation.init(0))
    assert (seen.metrics["spread"] > 0).all()
    assert (seen.metrics["unexplained"] > 0).all()


def test_the_gate_says_how_often_it_refused():
    learner = accept_if_better(q_table(gridworld(CORRIDOR), num_envs=2, num_steps=8), trials=2, horizon=5)
    simulation = simulate(federate(learner, mean(), local_steps=3), fleet(learner.environment, 3))
    run_state = simulation.init(0)
    rejected = []
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        rejected.append(seen.metrics["adoptions_refused"])
    assert np.isin(rejected, [0.0, 1.0]).all()  # once a round, however many local steps


def test_a_federation_as_a_learner_counts_the_iterations_and_rounds_of_its_agents():
    inner = federate(
        accept_if_better(q_table(gridworld(CORRIDOR), num_envs=2, num_steps=8), trials=2, horizon=5),
        mean(),
        local_steps=3,
    )
    learner = as_learner(inner, 4)
    state = learner.init(jax.random.key(0), learner.environment.params)
    context = LocalContext(learner.params(state), learner.params(state))
    experience, state, counts = learner.collect(jax.random.key(1), state)
    _, metrics = learner.learn(jax.random.key(2), state, experience, context)
    metrics = counts | metrics
    assert metrics["iterations"] == 4 * 3
    assert metrics["rounds"] == 4
    outer = simulate(federate(learner, mean(), local_steps=2), fleet(learner.environment, 2))
    _, seen = outer.round(outer.init(0))
    sums = sums_in(declared(learner, {}), learner, seen, np.array([2, 2]))
    assert sums["loss"]["iterations"] == 2 * 2 * 4 * 3
    assert sums["adoptions_refused"]["rounds"] == 2 * 2 * 4
