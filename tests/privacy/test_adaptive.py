"""A clip that follows a quantile, and noise that follows progress: what they add, what they cost, where they settle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.core.reports import nothing_measured
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.privacy import adaptive_gaussian, progress_gaussian
from fedrl.privacy.adaptive_clip import Counted
from fedrl.privacy.composition import epsilon_of, quick_epsilon
from fedrl.privacy.extra import accounting
from fedrl.privacy.ledger import Budget, Ledger, OverspentError
from fedrl.privacy.pricing import round_price
from tests.support.quadratic import FLEET, quadratic

AGENTS, ENTRIES = 200, 30
CONTEXT = UpdateContext(jnp.int32(0), jnp.int32(0), jnp.int32(AGENTS), jnp.int32(1), nothing_measured())


def one_round(stage, state, norms: np.ndarray, key):
    """Return what the server releases of agents with updates of these norms, and its next state."""
    directions = jax.random.normal(jax.random.key(9), (len(norms), ENTRIES))
    values = jnp.asarray(norms)[:, None] * directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def encode(value):
        update = Update({"w": value}, jnp.float32(1.0), jnp.int32(0))
        return stage.encode(key, CONTEXT, state, (), update)[0]

    sent = jax.vmap(encode)(values)
    merged = Update(jax.tree.map(lambda x: x.mean(0), sent.value), jnp.float32(len(norms)), jnp.int32(0))
    return stage.finish(key, state, merged)


class TestAdaptiveClip:
    @pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
    def test_settles_at_the_quantile_of_the_norms(self, quantile: float) -> None:
        stage = adaptive_gaussian(0.01, 1.0, expected=AGENTS, quantile=quantile)
        norms, (state, _) = np.linspace(1.0, 3.0, AGENTS), stage.init({"w": jnp.zeros(ENTRIES)})
        round_of = jax.jit(lambda state, key: one_round(stage, state, norms, key)[1])
        states = []
        for t in range(150):
            state = round_of(state, jax.random.key(t))
            states.append(float(state))
        assert np.mean(states[100:]) == pytest.approx(np.quantile(norms, quantile), rel=0.06)

    def test_adds_to_each_release_what_its_price_supposes(self) -> None:
        multiplier, of_count, clip, n = 1.0, 0.8, 2.0, 50.0
        stage = adaptive_gaussian(clip, multiplier, expected=n, count_noise=of_count, learning_rate=0.2)
        zero = Update(Counted({"w": jnp.zeros(ENTRIES)}, jnp.float32(0.0)), jnp.float32(n), jnp.int32(0))
        keys = jax.random.split(jax.random.key(1), 4000)
        merged, states = jax.vmap(lambda key: stage.finish(key, jnp.float32(clip), zero))(keys)
        of_updates = float(np.std(merged.value["w"])) * n / clip
        counted = -np.log(np.asarray(states) / clip) / 0.2 * n
        assert np.std(counted) == pytest.approx(of_count, rel=0.04)
        assert of_updates == pytest.approx((1 - (2 * of_count) ** -2) ** -0.5, rel=0.01)
        # An agent moves the sums by C and 1/2 at most: both together are one Gaussian mechanism of multiplier z.
        assert of_updates**-2 + (0.5 / np.std(counted)) ** 2 == pytest.approx(multiplier**-2, rel=0.03)
        assert abs(np.corrcoef(counted, merged.value["w"][:, 0])[0, 1]) < 4.5 / 4000**0.5

    def test_refuses_a_count_that_leaves_no_budget(self) -> None:
        with pytest.raises(ConfigError, match=r"count_noise is 0.5 .* above 0.5"):
            adaptive_gaussian(1.0, 1.0, expected=10, count_noise=0.5)

    def test_trains_in_a_federation(self) -> None:
        federation = federate(
            quadratic(sgd(0.1)), mean("uniform"), adaptive_gaussian(0.05, 0.01, expected=4, count_noise=1.0)
        )
        simulation = simulate(federation, FLEET)
        state = simulation.init(0)
        for _ in range(3):
            state, seen = simulation.round(state)
        assert seen.weight == 4.0
        assert float(state.server.stage_states[0]) != 0.05


class TestAdaptiveNoise:
    def finished(self, stage, state: float, signal: float, keys):
        value = {"w": jnp.full(ENTRIES, signal / ENTRIES**0.5)}
        update = Update(value, jnp.float32(10.0), jnp.int32(0))
        return jax.vmap(lambda key: stage.finish(key, jnp.float32(state), update))(keys)

    def test_the_event_of_a_round_is_that_of_the_noise_in_it(self) -> None:
        stage = progress_gaussian(1.0, 4.0, expected=10, least=1.0)
        for state in (4.0, 1.7):
            merged, _ = self.finished(stage, state, 0.0, jax.random.split(jax.random.key(0), 2000))
            assert stage.noise is not None
            assert stage.noise.now is not None
            found = stage.noise.now(jnp.float32(state)).noise_multiplier
            assert np.std(merged.value["w"]) * 10 / 1.0 == pytest.approx(found, rel=0.02)

    def test_decreases_without_a_signal_and_not_below_the_least(self) -> None:
        stage = progress_gaussian(1.0, 4.0, expected=10, least=1.0, signal=1.0, decay=0.5)
        keys = jax.random.split(jax.random.key(0), 500)
        assert float(np.mean(self.finished(stage, 4.0, 0.0, keys)[1] == 2.0)) > 0.95
        assert (self.finished(stage, 1.5, 0.0, keys)[1] >= 1.0).all()
        loud = self.finished(stage, 4.0, 10.0, keys)[1]
        assert (loud == 4.0).all()

    def test_a_filter_ends_a_run_whose_prices_follow_from_outputs(self) -> None:
        gaussian = accounting().GaussianDpEvent
        stage = progress_gaussian(1.0, 8.0, expected=4, least=2.0)
        ledger = Ledger(Budget(4.0, 1e-5), round_price(stage.noise, None, (4,)), adaptive=True)
        multiplier, spent = 8.0, {}
        event = gaussian(multiplier)
        while ledger.may([event] * 4).all():
            ledger.charge(events=[event] * 4)
            spent[event] = spent.get(event, 0) + 1
            multiplier = max(0.9 * multiplier, 2.0)
            event = gaussian(multiplier)
        with pytest.raises(OverspentError, match="epsilon = 4"):
            ledger.charge(events=[event] * 4)
        assert ledger.epsilon() == pytest.approx(quick_epsilon(spent, 1e-5))
        assert ledger.epsilon() <= 4.0 < epsilon_of({**spent, event: spent.get(event, 0) + 1}, 1e-5)

    def test_refuses_a_least_above_the_first(self) -> None:
        with pytest.raises(ConfigError, match="least is 5"):
            progress_gaussian(1.0, 4.0, expected=10, least=5.0)
