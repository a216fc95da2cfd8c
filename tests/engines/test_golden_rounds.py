"""Whole rounds against numbers that are known: by hand, in closed form, and from plain NumPy loops."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.core.errors import UnsoundError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import add_correction, chain, fedprox, sgd
from fedrl.server import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum
from fedrl.stages import clip, download_only, flatten, scaffold
from tests.support.quadratic import FLEET, Valley, flat, quadratic, simulated_rounds

CURVATURE, MINIMUM = FLEET.curvature.astype(np.float64), FLEET.minimum.astype(np.float64)
RATE = 0.1
DEVICE = jax.devices()[:1]  # one device, one compilation
STEPS = [1, 2, 5, 3]
OPTIMUM = (CURVATURE * MINIMUM).mean(0) / CURVATURE.mean(0)


def fixed_point(pull: np.ndarray) -> np.ndarray:
    """Where sum_k pull_k (m_k - x) = 0."""
    return (pull * MINIMUM).sum(0) / pull.sum(0)


def settled(federation, fleet=FLEET, rounds: int = 300, **options) -> np.ndarray:
    return flat(simulated_rounds(simulate(federation, fleet, devices=DEVICE, **options), rounds).server.params)


def test_one_round_of_fedavg_by_hand():
    fleet = Valley(np.array([[1.0, 1.0], [2.0, 4.0]], np.float32), np.array([[1.0, 0.0], [3.0, -1.0]], np.float32))
    federation = federate(quadratic(sgd(0.25), size=2, samples=8), mean(), local_steps=2)
    # agent 0, two steps from 0: 0.25, then 0.25 + 0.25 * 0.75 = 0.4375;  weight 16
    # agent 1, one step from 0:  0.25 * 2 * 3 = 1.5 and 0.25 * 4 * -1 = -1; weight 8
    simulation = simulate(federation, fleet, local_steps=[2, 1], devices=DEVICE)
    run_state, seen = simulation.round(simulation.init(0))
    np.testing.assert_allclose(flat(run_state.server.params), [(16 * 0.4375 + 8 * 1.5) / 24, -8 / 24], rtol=1e-6)
    np.testing.assert_allclose(flat(run_state.blocks[0].learner.params)[0], [0.4375, 0.0], rtol=1e-6)
    np.testing.assert_allclose(seen.metrics["loss"], [0.5 * (1 + 0.75**2), 0.5 * (2 * 9 + 4)], rtol=1e-6)
    assert seen.bytes_up == 2 * (2 * 4 + 4 + 4)  # parameters, weight, version


def test_uniform_weights_count_every_agent_once():
    fleet = Valley(np.ones((2, 1, 2), np.float32)[:, 0], np.array([[1.0, 0.0], [3.0, -1.0]], np.float32))
    federation = federate(quadratic(sgd(1.0), size=2, samples=8), mean("uniform"), local_steps=2)
    np.testing.assert_allclose(settled(federation, fleet, 1, local_steps=[2, 1]), [2.0, -0.5], rtol=1e-6)


def test_one_round_of_fedsgd_by_hand():
    fleet = Valley(np.array([[1.0, 1.0], [2.0, 4.0]], np.float32), np.array([[1.0, 0.0], [3.0, -1.0]], np.float32))
    learner = quadratic(sgd(0.25), size=2)
    federation = federate(learner, mean("uniform"), payload="gradient", server_optimizer=fedavg(0.1), local_steps=3)
    # gradients at 0: (-1, 0) and (-6, 4); the mean of three equal batches is the batch; no local step is taken
    np.testing.assert_allclose(settled(federation, fleet, 1, local_steps=[3, 1]), [0.35, -0.2], rtol=1e-6)


def test_gradients_and_deltas_of_one_step_are_the_same_algorithm():
    by_gradient = federate(quadratic(sgd(RATE)), mean(), payload="gradient", server_optimizer=fedavg(RATE))
    by_delta = federate(quadratic(sgd(RATE)), mean())
    np.testing.assert_allclose(settled(by_gradient, rounds=7), settled(by_delta, rounds=7), rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_fedavg_settles_at_its_biased_fixed_point(steps):
    found = settled(federate(quadratic(sgd(RATE)), mean(), local_steps=steps))
    expected = fixed_point(1 - (1 - RATE * CURVATURE) ** steps)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    bias = np.abs(expected - OPTIMUM).max()
    assert bias < 1e-12 if steps == 1 else bias > 0.05


def test_unequal_local_steps_bias_fedavg_as_computed():
    work = np.array(STEPS)
    found = settled(federate(quadratic(sgd(RATE)), mean("uniform"), local_steps=5), local_steps=STEPS)
    np.testing.assert_allclose(found, fixed_point(1 - (1 - RATE * CURVATURE) ** work[:, None]), atol=2e-6)


def test_fedprox_settles_at_its_fixed_point():
    strength, steps = 0.5, 5
    found = settled(federate(quadratic(chain(fedprox(strength), sgd(RATE))), mean(), local_steps=steps))
    stiffness = CURVATURE + strength
    pull = (1 - (1 - RATE * stiffness) ** steps) * CURVATURE / stiffness
    np.testing.assert_allclose(found, fixed_point(pull), atol=2e-6)


@pytest.mark.parametrize("work", [[5, 5, 5, 5], STEPS])
def test_scaffold_reaches_the_optimum_exactly_even_with_unequal_work(work):
    learner = quadratic(chain(add_correction(), sgd(RATE)))
    federation = federate(learner, mean("uniform"), scaffold(RATE), local_steps=5)
    run_state = simulated_rounds(simulate(federation, FLEET, local_steps=work, devices=DEVICE), 300)
    np.testing.assert_allclose(flat(run_state.server.params), OPTIMUM, atol=3e-6)
    own = flat(
        run_state.blocks[0].stage_states[0].variate
    )  # the first two agents' control variates: their gradients there
    np.testing.assert_allclose(own, (CURVATURE * (OPTIMUM - MINIMUM))[:2], atol=2e-5)
    np.testing.assert_allclose(flat(run_state.server.stage_states[0]), 0.0, atol=2e-5)


def test_scaffold_with_a_cohort_keeps_c_the_mean_of_all_control_variates():
    learner = quadratic(chain(add_correction(), sgd(RATE)))
    federation = federate(learner, mean("uniform"), scaffold(RATE), local_steps=3)
    simulation = simulate(federation, FLEET, devices=DEVICE)
    draws = np.random.default_rng(0)
    run_state = simulated_rounds(simulation, 40, cohort=lambda i: draws.choice(4, 2, replace=False).tolist())
    own = np.concatenate([flat(block.stage_states[0].variate) for block in run_state.blocks])
    np.testing.assert_allclose(flat(run_state.server.stage_states[0]), own.mean(0), atol=1e-5)
    run_state = simulated_rounds(simulation, 600, cohort=lambda i: draws.choice(4, 2, replace=False).tolist())
    np.testing.assert_allclose(flat(run_state.server.params), OPTIMUM, atol=1e-4)


def test_scaffold_steers_what_is_sent_and_nothing_else():
    learner = quadratic(chain(add_correction(), sgd(RATE)))
    steered = federate(learner, mean("uniform"), download_only(["head"]), scaffold(RATE), local_steps=5)
    run_state = simulated_rounds(simulate(steered, FLEET, devices=DEVICE), 300)
    found = flat(run_state.server.params)
    np.testing.assert_allclose(found[1:], OPTIMUM[1:], atol=3e-6)
    assert found[0] == 0.0  # nobody sends it
    alone = MINIMUM[:, 0] * (1 - (1 - RATE * CURVATURE[:, 0]) ** 5)  # plain descent from the server's zero
    heads = np.concatenate([block.learner.params["head"] for block in run_state.blocks])
    np.testing.assert_allclose(heads[:, 0], alone, rtol=1e-5)


def test_scaffold_of_what_are_no_parameters_any_more_is_refused():
    learner = quadratic(chain(add_correction(), sgd(RATE)))
    federation = federate(learner, mean("uniform"), flatten(), scaffold(RATE))
    with pytest.raises(UnsoundError, match=r"scaffold\(0.1\) corrects.*Put scaffold\(0.1\) first"):
        simulate(federation, FLEET, devices=DEVICE)


def test_a_median_of_three_ignores_the_liar():
    fleet = Valley(np.ones((3, 2), np.float32), np.array([[1.0, 0.0], [2.0, -1.0], [1e6, -1e6]], np.float32))
    np.testing.assert_allclose(settled(federate(quadratic(sgd(1.0), size=2), median()), fleet, 1), [2.0, -1.0])


def adaptive(rule, rate, b1=0.9, tau=1e-3):
    """Algorithm 2 of Reddi et al. (2021), in NumPy: `rule` says how v grows."""

    def step(memory, delta):
        m, v = memory or (0.0, tau**2)
        m, v = b1 * m + (1 - b1) * delta, rule(v, delta**2)
        return (m, v), rate * m / (np.sqrt(v) + tau)

    return step


def heavy_ball(rate, momentum):
    def step(memory, delta):
        v = momentum * (0.0 if memory is None else memory) + delta
        return v, rate * v

    return step


def normalized(rate, alpha, decay_steps):
    def step(memory, delta):
        d, t = memory or (0.0, 0)
        d = (1 - alpha) * d + alpha * delta
        return (d, t + 1), rate * max(0.0, 1 - t / decay_steps) * d / np.linalg.norm(d)

    return step


TWINS = [
    (fedavg(0.7), heavy_ball(0.7, 0.0)),
    (fedavgm(0.5, 0.9), heavy_ball(0.5, 0.9)),
    (fedadam(0.1), adaptive(lambda v, square: 0.99 * v + 0.01 * square, 0.1)),
    (fedyogi(0.1), adaptive(lambda v, square: v - 0.01 * np.sign(v - square) * square, 0.1)),
    (fedadagrad(0.3), adaptive(lambda v, square: v + square, 0.3, b1=0.0)),
    (normalized_momentum(0.3, 0.4, decay_steps=4), normalized(0.3, 0.4, 4)),
]


@pytest.mark.parametrize(
    ("server", "twin"), TWINS, ids=["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "normalized"]
)
def test_rounds_equal_plain_numpy_loops(server, twin):
    """Local momentum, a clip, unequal work, weights by samples and the server's optimiser, all in one."""
    rounds, momentum, bound = 12, 0.5, 0.8
    stages = [clip(bound)]
    learner = quadratic(sgd(RATE, momentum), samples=3)
    federation = federate(learner, mean(), *stages, server_optimizer=server, local_steps=5)

    x, memory, speed = np.zeros(3), None, np.zeros((4, 3))
    for _ in range(rounds):
        total, weights = np.zeros(3), 0.0
        for k in range(4):
            y = x.copy()
            for _ in range(STEPS[k]):
                speed[k] = momentum * speed[k] + CURVATURE[k] * (y - MINIMUM[k])
                y = y - RATE * speed[k]
            delta = (y - x) * min(1.0, bound / np.linalg.norm(y - x))
            total += 3 * STEPS[k] * delta
            weights += 3 * STEPS[k]
        memory, step = twin(memory, total / weights)
        x = x + step

    np.testing.assert_allclose(settled(federation, rounds=rounds, local_steps=STEPS), x, rtol=2e-4, atol=2e-5)
