"""What agents say their updates are worth, against the formulas worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.stages import weight_by_capacity, weight_by_improvement, weight_by_signal
from tests.support.quadratic import FLEET, flat, quadratic

KEY = jax.random.key(0)


def weights(stage, values, agent=0, returns=None) -> list[float]:
    """The weights of one agent's updates, round by round; each has ten samples behind it."""
    _, agent_state = stage.init(values[0])
    encode, found = jax.jit(stage.encode), []
    for i, value in enumerate(values):
        episodes, total = (0.0, 0.0) if returns is None or returns[i] is None else (2.0, 2.0 * returns[i])
        measured = {"episodes": jnp.float32(episodes), "episode_return": jnp.float32(total)}
        context = UpdateContext(jnp.int32(agent), jnp.int32(i), jnp.int32(4), jnp.int32(1), measured)
        update, agent_state = encode(KEY, context, (), agent_state, Update(value, jnp.float32(10.0), jnp.int32(i)))
        found.append(float(update.weight))
    return found


def test_improvement_is_counted_from_the_last_return_that_was_known():
    values = [jnp.zeros(2)] * 5
    found = weights(weight_by_improvement(floor=2.0), values, returns=[20.0, 25.0, None, 21.0, 22.0])
    assert found == [10.0, 25.0, 10.0, 10.0, 10.0]
    assert weights(weight_by_improvement(floor=2.0), values[:2], returns=[None, 9.0]) == [10.0, 10.0]


def test_a_round_without_an_episode_is_no_news():
    found = weights(weight_by_improvement(0.5), [jnp.zeros(2)] * 3, returns=[1.0, None, 4.0])
    assert found == [10.0, 10.0, 60.0]


def test_the_signal_to_noise_ratio_is_the_unbiased_one():
    x, decay = np.random.default_rng(0).normal([2.0, 0.0, 1.0], 1.0, (6, 3)).astype(np.float32), 0.8
    found = weights(weight_by_signal(decay), list(jnp.asarray(x)))
    for rounds in range(2, 7):  # moving means are weighted means: here are the weights
        share = decay ** np.arange(rounds)[::-1]
        share /= share.sum()
        m, v, s = share @ x[:rounds], share @ (x[:rounds] ** 2).sum(1), (share**2).sum()
        noise = (v - m @ m) / (1 - s)
        assert found[rounds - 1] == pytest.approx(10.0 * np.clip((m @ m - s * noise) / noise, 0.01, 100.0), rel=1e-3)
    assert found[0] == 10.0


def test_signal_is_told_from_noise():
    """4 / 12 for a mean of norm 2 in noise of variance 1 in twelve directions; next to nothing for noise alone."""
    noise = np.random.default_rng(1).normal(0.0, 1.0, (400, 12)).astype(np.float32)
    constant = weights(weight_by_signal(0.99), list(jnp.asarray(noise + 2.0 / np.sqrt(12))))[-1] / 10.0
    nothing = weights(weight_by_signal(0.99), list(jnp.asarray(noise)))[-1] / 10.0
    assert constant == pytest.approx(1 / 3, abs=0.1)
    assert nothing < 0.03
    assert weights(weight_by_signal(), [jnp.ones(3)] * 3)[-1] == 1000.0  # no noise at all: the most there is


def test_an_update_that_is_not_finite_leaves_no_trace_in_the_moments():
    x = list(jnp.asarray(np.random.default_rng(2).normal([2.0, 0.0, 1.0], 1.0, (4, 3)), jnp.float32))
    poisoned = [*x[:2], jnp.array([1.0, jnp.inf, 0.0]), *x[2:]]
    found = weights(weight_by_signal(), poisoned)
    assert [*found[:2], *found[3:]] == weights(weight_by_signal(), x)


def test_weights_fall_with_the_resources_taken():
    stage = weight_by_capacity([1.0, 2.0, 4.0])
    assert [weights(stage, [jnp.zeros(2)], agent)[0] for agent in range(3)] == [10.0, 5.0, 2.5]


def test_the_mean_goes_by_what_the_stages_say():
    resources = [1.0, 2.0, 4.0, 8.0]
    federation = federate(quadratic(sgd(0.1)), mean(), weight_by_capacity(resources))
    simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
    run_state, seen = simulation.round(simulation.init(0))
    share = 1 / np.array(resources)
    expected = (share / share.sum()) @ (0.1 * np.asarray(FLEET.curvature) * FLEET.minimum)
    np.testing.assert_allclose(flat(run_state.server.params), expected, rtol=1e-5)
    assert seen.weight == pytest.approx(share.sum())
    assert seen.rejected == ()


UNITS = [1e-30, 1e-12, 1e-7, 1e9, 1e12, 1e30]


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_resources_makes_no_difference_to_a_round(unit):
    resources, steps = np.array([1.0, 2.0, 1.0, 1.0]), []
    for scale in (1.0, unit):
        federation = federate(quadratic(sgd(0.1)), mean(), weight_by_capacity((scale * resources).tolist()))
        simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
        run_state, seen = simulation.round(simulation.init(0))
        assert seen.rejected == ()
        assert seen.weight == pytest.approx(3.5)
        steps.append(flat(run_state.server.params))
    expected = (1 / resources) @ (0.1 * np.asarray(FLEET.curvature, float) * FLEET.minimum) / 3.5
    np.testing.assert_allclose(steps, [expected, expected], rtol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_returns_and_its_floor_makes_no_difference_to_weights(unit):
    values, returns = [jnp.zeros(2)] * 4, np.array([20.0, 25.0, 21.0, 40.0])
    found = weights(weight_by_improvement(2.0 * unit), values, returns=(unit * returns).tolist())
    np.testing.assert_allclose(found, [10.0, 25.0, 10.0, 95.0], rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-16, 1e-12, 1e12, 1e16])
def test_the_unit_of_updates_makes_no_difference_to_their_signal(unit):
    x = np.random.default_rng(3).normal([2.0, 0.0, 1.0], 1.0, (5, 3))
    plain, scaled = (weights(weight_by_signal(), list(jnp.asarray(scale * x, jnp.float32))) for scale in (1.0, unit))
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)
    assert plain[-1] != 10.0


def test_an_agent_without_a_capacity_is_refused_and_counted():
    federation = federate(quadratic(sgd(0.1)), mean(), weight_by_capacity([1.0, 2.0, 4.0]))
    simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
    assert len(simulation.round(simulation.init(0))[1].rejected) == 1


def test_weights_that_nobody_goes_by_are_refused():
    with pytest.raises(UnsoundError, match=r"weight_by_signal\(\) changes the weights.*mean\(weighting='uniform'\)"):
        federate(quadratic(sgd(0.1)), mean("uniform"), weight_by_signal())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: weight_by_improvement(0.0),
        lambda: weight_by_signal(decay=1.0),
        lambda: weight_by_signal(least=2.0, most=1.0),
        lambda: weight_by_capacity([]),
        lambda: weight_by_capacity([1.0, 0.0]),
        lambda: weight_by_capacity([1.0, 1e13]),
    ],
)
def test_what_makes_no_weight_is_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()
