"""Correlated noise is what its matrix says, no agent can move more of it, and its past leaves the server nowhere."""

from itertools import combinations, pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Secret
from fedrl.core.types import Update
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.privacy import factorised
from fedrl.privacy.composition import epsilon_of
from fedrl.privacy.factorised import Strategy, matrix_of, strategy_for
from fedrl.privacy.pricing import round_price
from fedrl.runs.states import load_state, save_state
from fedrl.server import round_robin, spaced, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import synchronous
from tests.support.quadratic import FLEET, quadratic

ROUNDS, APART, Z, CLIP, N = 8, 3, 1.5, 0.4, 4.0
LIKE = {"a": jnp.zeros(2), "b": jnp.zeros(3)}


def patterns():
    """All sets of rounds in which an agent may take part."""
    for count in range(1, ROUNDS + 1):
        for rounds in combinations(range(ROUNDS), count):
            if all(later - earlier >= APART for earlier, later in pairwise(rounds)):
                yield rounds


def worst(strategy: Strategy) -> float:
    matrix = matrix_of(strategy, ROUNDS)
    assert (matrix >= 0).all()  # so updates that agree in their direction are the worst ones
    return max(float(np.linalg.norm(matrix[:, list(rounds)].sum(1))) for rounds in patterns())


STRATEGY = Strategy((0.58, 0.2), (0.44, 0.05), 0.0)
STRATEGY = STRATEGY._replace(sensitivity=worst(STRATEGY))


@pytest.fixture(scope="module")
def stage():
    with pytest.MonkeyPatch.context() as patch:  # the optimisation of a strategy takes seconds
        patch.setattr(factorised, "strategy_for", lambda rounds, separation: STRATEGY)
        yield factorised.factorised_gaussian(CLIP, Z, N, rounds=ROUNDS, separation=APART)


def test_no_pattern_of_participation_moves_more_than_the_sensitivity() -> None:
    strategy = strategy_for(ROUNDS, APART)
    assert worst(strategy) <= strategy.sensitivity * (1 + 1e-6)
    assert worst(strategy) == pytest.approx(strategy.sensitivity, rel=0.05)
    # The worst sum of rounds has less noise than with any simpler matrix.
    assert worst_noise(strategy) < min(worst_noise(STRATEGY), worst_noise(Strategy((0.0,), (0.0,), 3**0.5)))


def worst_noise(strategy: Strategy) -> float:
    sums = np.tril(np.ones((ROUNDS, ROUNDS))) @ np.linalg.inv(matrix_of(strategy, ROUNDS))
    return float(strategy.sensitivity * np.sqrt((sums**2).sum(1).max()))


def noise_of(stage, runs: int) -> np.ndarray:
    """The noise of all rounds in many runs, `[runs, rounds, entries]`."""

    def run(key):
        def one(state, key):
            merged, state = stage.finish(key, state, Update(LIKE, jnp.float32(N), jnp.int32(0)))
            return state, jnp.concatenate(jax.tree.leaves(merged.value))

        return jax.lax.scan(one, stage.init(LIKE)[0], jax.random.split(key, ROUNDS))[1]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), runs)), np.float64)


def test_the_noise_has_the_covariance_of_the_inverse_matrix(stage) -> None:
    strategy, runs = STRATEGY, 20_000
    noise = noise_of(stage, runs)
    inverse = np.linalg.inv(matrix_of(strategy, ROUNDS))
    expected = (Z * CLIP * strategy.sensitivity / N) ** 2 * inverse @ inverse.T
    found = np.einsum("rte,rse->ts", noise, noise) / (runs * 5)
    np.testing.assert_allclose(found, expected, atol=5 * expected.max() / (runs * 5) ** 0.5)
    across = np.einsum("rt,rs->ts", noise[:, :, 0], noise[:, :, 3]) / runs
    assert np.abs(across).max() < 5 * expected.max() / runs**0.5


def test_the_sum_of_all_rounds_has_less_noise_than_independent_noise(stage) -> None:
    most = len(range(0, ROUNDS, APART))
    independent = Z * CLIP / N * most**0.5 * ROUNDS**0.5  # z grows by the root of the number of participations
    assert noise_of(stage, 4000).sum(1).std() < 0.85 * independent


def test_all_rounds_together_are_one_gaussian_mechanism(stage) -> None:
    price = round_price(stage.noise, spaced(APART), (4,))
    one = epsilon_of({stage.noise.event: 1}, 1e-5)
    assert price.epsilon(0, 1, 1e-5) == price.epsilon(0, ROUNDS, 1e-5) == one
    assert price.epsilon(0, ROUNDS + 1, 1e-5) == epsilon_of({stage.noise.event: 2}, 1e-5)


@pytest.mark.parametrize("selection", [None, uniform(2), spaced(APART - 1)])
def test_a_selection_that_selects_an_agent_too_soon_is_refused(stage, selection) -> None:
    with pytest.raises(UnsoundError, match=r"spaced\(3\)"):
        round_price(stage.noise, selection, (4,))


def test_earlier_noise_leaves_by_no_broadcast_and_no_checkpoint(stage, tmp_path: Path) -> None:
    federation = federate(quadratic(sgd(0.1)), mean("uniform"), stage)
    with simulate(federation, FLEET, scheduler=Scheduler(synchronous(), selection=spaced(APART))) as simulation:
        state, _ = simulation.round(simulation.init(0))
        held = jax.tree.leaves(state.server.stage_states)
        assert all((np.asarray(leaf) != 0).any() for leaf in held)
        assert jax.tree.leaves(federation.broadcast(state.server).stage_states) == []
        save_state(tmp_path / "state", simulation, state, 1)
        again = load_state(tmp_path / "state", simulation, simulation.init(0))
    assert isinstance(again.server.stage_states[0], Secret)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(again.server.stage_states))
    np.testing.assert_array_equal(again.server.params["head"], state.server.params["head"])


@pytest.mark.parametrize("inner", [None, uniform(1), round_robin(1)])
def test_a_spaced_selection_lets_agents_wait(inner) -> None:
    rule, draws, seen = spaced(3, inner), np.random.default_rng(0), np.full(4, -9)
    state, sizes = rule.init(4), []
    for number in range(1, 40):
        chosen = rule.choose(draws, np.arange(4), number, state)
        assert (number - seen[chosen] >= 3).all()
        seen[chosen] = number
        sizes.append(len(chosen))
        state = rule.noted(chosen, number, state)
    assert sum(sizes) == (52 if inner is None else 39)


def test_agents_wait_in_a_simulation_too() -> None:
    federation = federate(quadratic(sgd(0.1)), mean("uniform"))
    with simulate(federation, FLEET, scheduler=Scheduler(synchronous(), selection=spaced(3))) as simulation:
        state, counts = simulation.init(0), []
        for _ in range(7):
            state, seen = simulation.round(state)
            counts.append(len(seen.arrivals.sender))
    assert counts == [4, 0, 0, 4, 0, 0, 4]
