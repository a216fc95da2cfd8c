"""Rules that weigh agents by what they are worth or how badly they fare, against weights worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from fedrl.aggregators import afl, mean, q_ffl, weight_by_diversity, weight_by_environment
from fedrl.aggregators.afl import Mixture, on_simplex
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.types import Update
from fedrl.engines.simulate import simulate
from fedrl.environments import gridworld, random_mdp
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import q_table, sgd
from tests.support.quadratic import FLEET, flat, quadratic, simulated_rounds
from tests.support.rules import alone, applied, traced

X = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], np.float32)
SAMPLES = np.array([1.0, 2.0, 5.0], np.float32)


def updates(value=X, **told) -> Update:
    told = {name: np.asarray(x, np.float32) for name, x in told.items()}
    return Update(value, SAMPLES[: len(value)], np.zeros(len(value), np.int32), report=told)


def merged(rule, given: Update, state=()):
    return applied(rule, given, state)[0].value


class TestQFair:
    def test_follows_the_formula_of_the_paper(self):
        loss, q, lipschitz = np.array([2.0, 1.0, 3.0]), 2.0, 0.5
        power = loss**q  # 4, 1, 9
        bound = q * loss ** (q - 1) * lipschitz * (X**2).sum(1) + power  # 2*2*.5*1+4, 2*1*.5*4+1, 2*3*.5*18+9
        np.testing.assert_allclose(bound, [6.0, 5.0, 63.0])
        expected = np.array([4.0 * 1 + 9 * 3, 1 * 2.0 + 9 * 3]) / 74.0
        np.testing.assert_allclose(merged(q_ffl(q, lipschitz), updates(loss=loss)), expected, rtol=1e-6)

    def test_is_a_plain_mean_for_no_fairness(self):
        np.testing.assert_allclose(merged(q_ffl(0.0), updates(loss=[5.0, 0.0, 1.0])), X.mean(0), rtol=1e-6)

    def test_takes_the_distance_from_the_best_return_for_a_loss_and_a_silent_agent_for_the_mean(self):
        by_return = merged(q_ffl(1.0, reference_return=10.0), updates(**{"return": [8.0, 12.0, np.nan]}))
        by_loss = merged(q_ffl(1.0), updates(loss=[2.0, 0.0, 1.0]))
        np.testing.assert_allclose(by_return, by_loss, rtol=1e-6)

    def test_leans_to_the_agents_that_fare_badly_as_q_grows(self):
        shares = []
        for q in (0.0, 1.0, 4.0):
            value = merged(q_ffl(q), updates(np.eye(3, dtype=np.float32), loss=[1.0, 2.0, 4.0]))
            shares.append(value[2] / value.sum())
        np.testing.assert_allclose(shares, [1 / 3, 4 / 7, 256 / 273], rtol=1e-5)

    def test_one_agent_alone_takes_a_step_damped_by_the_curvature(self):
        value = merged(q_ffl(1.0, lipschitz=2.0), updates(X[2:], loss=[3.0]))
        np.testing.assert_allclose(value, X[2] * 3.0 / (2.0 * 18.0 + 3.0), rtol=1e-6)

    @pytest.mark.parametrize("lipschitz", [1e-6, 1e5])
    @pytest.mark.parametrize("q", [0.0, 0.3, 1.0, 2.5, 20.0, 50.0])
    def test_is_its_formula_in_float64_for_losses_and_changes_of_any_size(self, q, lipschitz):
        rule, draw = q_ffl(q, lipschitz), np.random.default_rng(0)
        compiled = alone(rule, compiled=True)
        for losses in ([1e-6, 1e-3, 1.0, 1e4], [1e-6] * 4, [500.0] * 4, 10.0 ** draw.uniform(-6, 4, 4), [0.0, 0, 0, 2]):
            for size in (1e-20, 1e-3, 1.0, 1e6, 1e18):
                loss, x = np.array(losses, np.float32), (size * draw.normal(size=(4, 5))).astype(np.float32)
                if q < 1.0:  # zero to a negative power: what the rule takes for it is in its docstring
                    loss = np.maximum(loss, 1e-10 * loss.max())
                expected = self.twin(q, lipschitz, loss.astype(float), x.astype(float))
                for update in (alone(rule), compiled):
                    found = update(self.of(x, loss), ())[0].value
                    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())

    @pytest.mark.parametrize("q", [0.5, 1.0, 10.0, 20.0])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_agents_that_are_all_at_their_best_take_no_step(self, q, compiled):
        rule = q_ffl(q, reference_return=500.0)
        update = alone(rule, compiled)
        given_updates = updates(X, **{"return": [500.0] * 3})
        np.testing.assert_array_equal(update(given_updates, ())[0].value, 0.0)
        # which is the limit of the formula: the step is in proportion to a loss that vanishes
        near = [self.twin(q, 1.0, np.full(3, loss), X.astype(float)) for loss in (1e-9, 1e-12)]
        np.testing.assert_allclose(near[1], near[0] / 1000, rtol=1e-5)
        np.testing.assert_allclose(merged(q_ffl(0.0, reference_return=500.0), given_updates), X.mean(0), rtol=1e-6)

    def test_rounds_with_losses_beyond_float32_to_the_power_of_q_are_those_in_float64(self):
        fleet = FLEET._replace(minimum=np.float32(1e4) * FLEET.minimum)  # losses of 1e8, to the power of ten
        federation = federate(quadratic(sgd(0.1)), q_ffl(10.0, lipschitz=1.0))
        simulation = simulate(federation, fleet, devices=jax.devices()[:1])
        x, curvature, minimum = np.zeros(3), *(np.asarray(leaf, float) for leaf in fleet)
        for _ in range(5):
            slope = curvature * (x - minimum)
            x = x + self.twin(10.0, 1.0, 0.5 * (slope * (x - minimum)).sum(1), -0.1 * slope)
        assert np.abs(x).max() > 1.0
        np.testing.assert_allclose(flat(simulated_rounds(simulation, 5).server.params), x, rtol=1e-4)

    def twin(self, q, lipschitz, loss, x):
        power = loss**q
        with np.errstate(divide="ignore"):
            whole = q * loss ** (q - 1) * lipschitz * (x**2).sum(1) + power if q else power
        return (power / whole.sum()) @ x

    def of(self, x, loss):
        return Update(x, np.ones(len(x), np.float32), np.zeros(len(x), np.int32), report={"loss": loss})


class TestAgnostic:
    def test_weighs_by_the_mixture_and_moves_it_towards_the_losses(self):
        start = Mixture(np.array([0.5, 0.3, 0.2], np.float32))
        rule = afl(3, step=0.1)
        update, after = applied(rule, updates(loss=[0.0, 1.0, 4.0]), start)
        np.testing.assert_allclose(update.value, 0.5 * X[0] + 0.3 * X[1] + 0.2 * X[2], rtol=1e-6)
        # 0.5, 0.4, 0.6 add up to 1.5: a third of the excess of 0.5 comes off each
        np.testing.assert_allclose(after.weights, np.array([0.5, 0.4, 0.6]) - 0.5 / 3, rtol=1e-6)

    def test_takes_the_absent_for_agents_without_a_loss(self):
        start = Mixture(np.array([0.25, 0.25, 0.25, 0.25], np.float32))
        update, after = applied(afl(4, step=0.5), updates(X[:2], loss=[1.0, 0.0]), start, sender=[3, 1])
        np.testing.assert_allclose(update.value, 0.5 * X[0] + 0.5 * X[1], rtol=1e-6)
        np.testing.assert_allclose(after.weights, [0.125, 0.125, 0.125, 0.625], rtol=1e-6)

    def test_whose_weight_is_gone_counts_like_the_others_who_have_none(self):
        start = Mixture(np.array([1.0, 0.0, 0.0], np.float32))
        update, _ = applied(afl(3), updates(X[:2], loss=[1.0, 1.0]), start, sender=[1, 2])
        np.testing.assert_allclose(update.value, X[:2].mean(0), rtol=1e-6)

    def test_more_agents_than_it_knows_are_refused(self):
        with pytest.raises(ConfigError, match=r"agents is 2, and agent 2 takes part"):
            merged(afl(2), updates(loss=[1, 1, 1]), afl(2).init(None))

    @given(arrays(np.float32, st.integers(1, 9), elements=st.floats(-8, 8, width=32)))
    def test_the_projection_is_the_nearest_point_of_the_simplex(self, point):
        found = on_simplex(point)
        assert found.min() >= 0.0
        assert found.sum() == pytest.approx(1.0, abs=1e-5)
        for corner in np.eye(len(point)):  # the angle to every corner is at least a right one
            assert (point - found) @ (corner - found) <= 1e-4
        np.testing.assert_allclose(jax.jit(on_simplex)(point), found, atol=1e-5)

    def test_the_projection_is_a_solvers(self):
        point = np.array([0.9, 0.6, -0.3, 0.2], np.float32)
        solved = minimize(
            lambda x: ((x - point) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        )
        np.testing.assert_allclose(on_simplex(point), solved.x, atol=1e-5)

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("offset", [0.0, 1e6, 2e38])
    @pytest.mark.parametrize("step", [1e-3, 0.1, 1e35, 1e60])
    def test_large_losses_move_the_mixture_by_their_differences(self, step, offset, compiled):
        start = Mixture(np.array([0.5, 0.3, 0.2], np.float32))
        loss = np.array([0.0, 1.0, 4.0]) + offset
        after = alone(afl(3, step), compiled)(updates(loss=loss), start)[1].weights
        given_losses = np.float32(loss).astype(float)
        point = start.weights + min(step, 1e6) * (given_losses - given_losses.max())
        np.testing.assert_allclose(after, nearest_on_simplex(point), atol=1e-6)

    @given(arrays(np.float32, st.integers(1, 9), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
    def test_the_projection_of_any_numbers_is_on_the_simplex(self, point):
        for project in (on_simplex, compiled_on_simplex):
            np.testing.assert_allclose(project(point), nearest_on_simplex(point.astype(float)), atol=1e-5)


compiled_on_simplex = jax.jit(on_simplex)


def nearest_on_simplex(point: np.ndarray) -> np.ndarray:
    """By bisection for nu in sum_k max(x_k - nu, 0) = 1, in float64."""
    point = point - point.max()
    low, high = -1.0, 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point - middle, 0.0).sum() > 1.0 else (low, middle)
    return np.maximum(point - high, 0.0)


class TestDiversity:
    def test_an_outlier_counts_for_as_much_as_its_difference(self):
        x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], np.float32)  # cosines 1, 0, 0
        weight = SAMPLES * np.array([0.5, 0.5, 1.0])  # 1, 2, 5 samples
        expected = (weight[:, None] * x).sum(0) / weight.sum()
        np.testing.assert_allclose(merged(weight_by_diversity(), updates(x)), expected, rtol=1e-6)

    def test_copies_count_by_the_floor(self):
        x = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)  # diversities 1, 1, 2
        expected = (1 * 1.0 + 2 * 1.0 - 5 * 2.0) / 13.0
        np.testing.assert_allclose(merged(weight_by_diversity(0.1), updates(x))[0], expected, rtol=1e-6)
        x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)  # diversities 0.5, 0.5, 1, the floor 0.8
        weight = SAMPLES * np.array([0.8, 0.8, 1.0])
        np.testing.assert_allclose(merged(weight_by_diversity(0.8), updates(x))[1], weight[2] / weight.sum(), rtol=1e-6)
        same = np.ones((3, 2), np.float32)
        np.testing.assert_allclose(merged(weight_by_diversity(0.1), updates(same)), 1.0, rtol=1e-6)


class TestSettings:
    LENGTH, MASS = "setting/length", "setting/mass"

    def test_who_is_set_up_otherwise_counts_by_the_mean_difference_from_the_others(self):
        # lengths 0, 0, 2 and masses 1, 3, 2, over their ranges: 0, 0, 1 and 0, 1, 1/2
        # mean distances of lengths 1/2, 1/2, 1, of masses 3/4, 3/4, 1/2; of both 5/8, 5/8, 3/4
        told = {self.LENGTH: [0.0, 0.0, 2.0], self.MASS: [1.0, 3.0, 2.0]}
        weight = SAMPLES * np.array([5 / 8, 5 / 8, 3 / 4])
        expected = (weight[:, None] * X).sum(0) / weight.sum()
        np.testing.assert_allclose(
            merged(weight_by_environment(["length", "mass"]), updates(**told)), expected, rtol=1e-6
        )

    def test_agents_all_alike_count_by_their_samples_and_copies_by_the_floor(self):
        same = updates(**{self.LENGTH: [0.7, 0.7, 0.7]})
        np.testing.assert_allclose(merged(weight_by_environment(["length"]), same), SAMPLES @ X / 8.0, rtol=1e-6)
        odd = updates(**{self.LENGTH: [0.0, 0.0, 1.0]})  # 1/2, 1/2, 1; with a floor of 3/4: 3/4, 3/4, 1
        weight = SAMPLES * np.array([0.75, 0.75, 1.0])
        np.testing.assert_allclose(
            merged(weight_by_environment(["length"], floor=0.75), odd), weight @ X / weight.sum(), rtol=1e-6
        )
        np.testing.assert_allclose(
            merged(weight_by_environment(["length"]), updates(X[:1], **{self.LENGTH: [3.0]})), X[0], rtol=1e-6
        )

    @given(
        arrays(np.float32, st.integers(2, 9), elements=st.floats(-100, 100, width=16)),
        st.floats(0.5, 100.0),
        st.floats(-10, 10),
    )
    def test_distances_are_those_of_all_pairs_in_any_units(self, x, scale, offset):
        extent = x.max() - x.min()
        pairs = np.abs(x[:, None] - x) / (extent if extent > 0 else 1.0)
        weight = np.maximum(pairs.sum(1, dtype=np.float64) / (len(x) - 1), 0.1)
        given_updates = Update(
            np.eye(len(x), dtype=np.float32),
            np.ones(len(x), np.float32),
            np.zeros(len(x), np.int32),
            report={self.LENGTH: x},
        )
        np.testing.assert_allclose(
            merged(weight_by_environment(["length"]), given_updates), weight / weight.sum(), atol=2e-5
        )
        other = given_updates._replace(report={self.LENGTH: (scale * x + offset).astype(np.float32)})
        np.testing.assert_allclose(merged(weight_by_environment(["length"]), other), weight / weight.sum(), atol=1e-3)

    @pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e12, 1.5e38])
    def test_units_make_no_difference(self, unit):
        values = np.array([-2.0, -2.0, 2.0])
        plain, other = (
            merged(weight_by_environment(["mass"]), updates(**{self.MASS: scale * values})) for scale in (1.0, unit)
        )
        np.testing.assert_allclose(other, plain, rtol=1e-5)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_setting_that_is_not_finite_counts_as_the_mean_of_the_others(self, compiled):
        rule = weight_by_environment(["mass"])
        update = alone(rule, compiled)
        for told, taken in (([0.0, np.inf, 2.0], [0.0, 1.0, 2.0]), ([np.nan] * 3, [0.0] * 3)):
            found = update(updates(**{self.MASS: told}), ())[0].value
            np.testing.assert_allclose(found, merged(rule, updates(**{self.MASS: taken})), rtol=1e-6)

    def test_a_setting_is_told_by_each_agent_and_counted_and_nothing_else_is(self):
        world = gridworld("S.G", max_steps=8)
        learner, slips = q_table(world, num_steps=4, num_envs=2), fleet(world, 3, {"slip": [0.0, 0.1, 0.4]})
        plain, asked = (
            simulate(federate(learner, rule), slips, devices=jax.devices()[:1])
            for rule in (mean(), weight_by_environment(["slip"]))
        )
        _, silent = plain.round(plain.init(0))
        _, seen = asked.round(asked.init(0))
        np.testing.assert_allclose(seen.uploads.report["setting/slip"], [0.0, 0.1, 0.4], rtol=1e-6)
        assert set(seen.uploads.report) == {"setting/slip"}
        assert seen.bytes_up == silent.bytes_up + 3 * 4
        assert silent.uploads.report == {}

    def test_what_an_environment_has_not_is_named(self):
        learner = q_table(gridworld("S.G"))
        with pytest.raises(ConfigError, match=r"report 'setting/slop' is requested.*Did you mean 'slip'"):
            federate(learner, weight_by_environment(["slop"]))
        with pytest.raises(UnsoundError, match=r"report 'setting/reward' is requested, and the parameter has shape"):
            federate(q_table(random_mdp()), weight_by_environment(["reward"]))
        with pytest.raises(ConfigError, match=r"names is \['slip', 'slip'\]"):
            weight_by_environment(["slip", "slip"])


class TestWhatIsTold:
    def test_it_travels_in_the_update_and_is_counted_in_bytes(self):
        plain, asked = (
            simulate(federate(quadratic(sgd(0.1)), rule), FLEET, devices=jax.devices()[:1]) for rule in (mean(), afl(4))
        )
        _, silent = plain.round(plain.init(0))
        _, seen = asked.round(asked.init(0))
        assert seen.bytes_up == silent.bytes_up + 4 * 4
        np.testing.assert_allclose(seen.uploads.report["loss"], seen.metrics["loss"], rtol=1e-6)
        assert not silent.uploads.report

    def test_without_being_asked_nothing_is_told(self):
        federation = federate(quadratic(sgd(0.1)), mean(), reports=["norm"])
        simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
        _, seen = simulation.round(simulation.init(0))
        assert set(seen.uploads.report) == {"norm"}
        slope = 0.1 * np.abs(np.asarray(FLEET.curvature) * FLEET.minimum)
        np.testing.assert_allclose(seen.uploads.report["norm"], np.linalg.norm(slope, axis=1), rtol=1e-5)

    def test_what_a_learner_does_not_measure_is_named(self):
        with pytest.raises(UnsoundError, match=r"report 'return' is requested, and the learner measures \['loss'\]"):
            simulate(federate(quadratic(sgd(0.1)), q_ffl(reference_return=1.0)), FLEET, devices=jax.devices()[:1])
        with pytest.raises(ConfigError, match=r"reports is 'returns'.*Did you mean 'return'"):
            federate(quadratic(sgd(0.1)), mean(), reports=["returns"])


@pytest.mark.parametrize("unit", [1e-37, 1e-12, 1e12, 1e37])
def test_the_unit_of_weights_makes_no_difference_to_a_mean(unit):
    for rule in (mean(), weight_by_diversity()):
        scaled = updates()._replace(weight=SAMPLES * np.float32(unit))
        for found in (merged(rule, scaled), traced(rule, scaled)[0].value):
            np.testing.assert_allclose(found, merged(rule, updates()), rtol=1e-5)


def test_who_tells_no_loss_counts_as_the_mean_of_losses_whose_sum_is_beyond_float32():
    for compiled in (False, True):
        rule = afl(4, step=2e-38)
        update = alone(rule, compiled)
        told = updates(np.ones((4, 2), np.float32), loss=[3e38, 2.9e38, 2.95e38, np.nan])
        told = told._replace(weight=np.ones(4, np.float32))
        after = update(told, rule.init(None))[1].weights
        np.testing.assert_allclose(after, nearest_on_simplex(np.array([0.0, -0.2, -0.1, -0.1])), atol=1e-6)


def settled_worst_loss(rule, rounds: int = 400) -> float:
    """The worst f_k at the parameters a federation of quadratics settles on."""
    simulation = simulate(federate(quadratic(sgd(0.05)), rule), FLEET, devices=jax.devices()[:1])
    return worst_loss(flat(simulated_rounds(simulation, rounds).server.params))


def worst_loss(x) -> float:
    return (0.5 * FLEET.curvature * (x - FLEET.minimum) ** 2).sum(1).max()


def test_rules_that_care_for_the_worst_bring_the_worst_loss_down():
    """From the mean's towards the least that any parameters have, by a solver for min t with f_k(x) <= t."""
    solved = minimize(
        lambda xt: xt[3],
        np.append(FLEET.minimum.mean(0), 10.0),
        constraints={
            "type": "ineq",
            "fun": lambda xt: xt[3] - (0.5 * FLEET.curvature * (xt[:3] - FLEET.minimum) ** 2).sum(1),
        },
    )
    least, plain = worst_loss(solved.x[:3]), settled_worst_loss(mean("uniform"))
    assert least < 0.95 * plain
    assert settled_worst_loss(afl(4, step=0.02)) == pytest.approx(least, rel=1e-3)
    assert settled_worst_loss(q_ffl(4.0)) < 0.5 * plain + 0.5 * least


def test_a_rule_gives_the_same_in_numpy_and_compiled():
    for rule in (q_ffl(1.5), afl(3), weight_by_diversity(), weight_by_environment(["length"])):
        answers = {"loss": [1.0, 0.5, np.nan], "setting/length": [1.0, 0.5, 2.0]}
        told = {name: answers[name] for name in rule.requested}
        given_updates, state = updates(**told), rule.init(None)
        host, compiled = applied(rule, given_updates, state), traced(rule, given_updates, state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), host, compiled)
        assert host[0].value.dtype == jnp.float32
