"""Server optimisers against their papers, in float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.core.errors import ConfigError
from fedrl.server import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum

RATE, TAU = 0.01, 0.1


def moved(server: optax.GradientTransformation, deltas: np.ndarray) -> np.ndarray:
    """The parameters after each round, `[rounds, size]`, from zero."""
    x = {"a": jnp.zeros(deltas.shape[1] - 1), "b": jnp.zeros((1, 1))}
    state, path, update = server.init(x), [], jax.jit(server.update)
    for delta in jnp.asarray(-deltas, jnp.float32):
        step, state = update({"a": delta[:-1], "b": delta[None, -1:]}, state, x)
        x = optax.apply_updates(x, step)
        path.append(np.concatenate([x["a"], x["b"][0]]))
    return np.array(path)


def algorithm_2(grow, deltas: np.ndarray, tau: float, b1: float = 0.9) -> np.ndarray:
    """Reddi et al. (2021), Algorithm 2: m_0 = 0 and v_{-1} = tau^2."""
    x, m, v = np.zeros(deltas.shape[1]), 0.0, tau**2
    path = []
    for delta in deltas.astype(np.float64):
        m = b1 * m + (1 - b1) * delta
        v = grow(v, delta**2)
        x = x + RATE * m / (np.sqrt(v) + tau)
        path.append(x)
    return np.array(path)


PAPER = {
    "fedadam": (lambda tau: fedadam(RATE, tau=tau), lambda v, d2: 0.99 * v + 0.01 * d2, 0.9),
    "fedyogi": (lambda tau: fedyogi(RATE, tau=tau), lambda v, d2: v - 0.01 * d2 * np.sign(v - d2), 0.9),
    "fedadagrad": (lambda tau: fedadagrad(RATE, tau=tau), lambda v, d2: v + d2, 0.0),
}


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("tau", [1e-3, 0.1])
@pytest.mark.parametrize("name", PAPER)
def test_an_adaptive_server_is_algorithm_2_of_its_paper(name, tau, size):
    server, grow, b1 = PAPER[name]
    deltas = (size * np.random.default_rng(0).normal(0.3, 1.0, (150, 4))).astype(np.float32)
    expected = algorithm_2(grow, deltas, tau, b1)
    np.testing.assert_allclose(moved(server(tau), deltas), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", PAPER)
def test_no_change_moves_nothing_and_the_first_step_follows_the_change(name):
    server = PAPER[name][0](TAU)
    np.testing.assert_array_equal(moved(server, np.zeros((20, 3), np.float32)), 0.0)
    first = moved(server, np.array([[-1e-4, 1e-4, -1e-6]]))[0]
    np.testing.assert_array_equal(np.sign(first), [-1.0, 1.0, -1.0])


def test_how_much_longer_than_adams_a_step_of_fedadam_is_under_a_constant_change():
    paper, adam = (np.diff(moved(s, np.ones((101, 2)))[:, 0]) for s in (fedadam(), optax.adam(0.01, 0.9, 0.99, 1e-3)))
    np.testing.assert_allclose((paper / adam)[[8, 98]], [2.1, 1.26], rtol=0.02)


@pytest.mark.parametrize(
    "server", [fedadam(tau=1e-30), fedyogi(tau=1e-30), fedadagrad(tau=1e-30)], ids=["fedadam", "fedyogi", "fedadagrad"]
)
def test_the_least_adaptivity_there_is_divides_by_no_zero(server):
    assert np.isfinite(moved(server, np.array([[0.0, 0.0], [0.0, 1e-30], [1.0, 0.0], [0.0, 1e10]]))).all()


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1.0, 1e25, 1e37])
def test_normalized_steps_have_their_length_for_changes_of_any_size(size):
    path = moved(normalized_momentum(0.5, alpha=0.5), size * np.array([[3.0, -4.0], [3.0, -4.0]]))
    np.testing.assert_allclose(path, [[0.3, -0.4], [0.6, -0.8]], rtol=1e-5)
    np.testing.assert_array_equal(moved(normalized_momentum(0.5), np.zeros((2, 3))), 0.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: fedadam(tau=0.0), r"tau is 0\.0.*a number above 0"),
        (lambda: fedyogi(tau=0.0), r"tau is 0\.0"),
        (lambda: fedadagrad(tau=0.0), r"tau is 0\.0"),
        (lambda: fedadam(tau=1e-50), r"tau is 1e-50\..*1e-30 or more"),
        (lambda: fedadam(tau=float("nan")), "tau is nan"),
        (lambda: fedavgm(momentum=2.0), r"momentum is 2\.0.*below 1"),
        (lambda: fedavgm(momentum=1.0), "momentum is 1"),
        (lambda: fedavgm(momentum=-0.1), "momentum is -0.1"),
        (lambda: fedadam(b1=1.0), "b1 is 1"),
        (lambda: fedyogi(b2=1.5), "b2 is 1.5"),
        *[
            (lambda make=make, rate=rate: make(learning_rate=rate), f"learning_rate is {rate}")
            for make in (fedavg, fedavgm, fedadam, fedyogi, fedadagrad, normalized_momentum)
            for rate in (float("inf"), -1.0, 0.0, float("nan"))
        ],
    ],
)
def test_numbers_that_make_no_server_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        wrong()
