"""Noise that agents add together: what each of them sends, what their sum is, and where the shares would be too few."""

import math
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrl.aggregators import mean
from fedrl.config import as_dict, load
from fedrl.config.build import build
from fedrl.core.chacha import KEY_WORDS, chacha_key
from fedrl.core.component import component
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.reports import nothing_measured
from fedrl.core.stage import Stage
from fedrl.core.summation import exact_sum
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.combinations import check
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.privacy import distributed_skellam
from fedrl.privacy.distributed import LARGEST_GRADIENT, ROUNDED, SURCHARGE, dithered, rounded, squared
from fedrl.privacy.extra import accounting
from fedrl.privacy.pricing import Price, calibrated
from fedrl.privacy.skellam import skellam_event
from fedrl.secure.grid import ring_sum
from fedrl.server import uniform
from fedrl.server.scheduler import Scheduler
from fedrl.stages import clip
from tests.support.hidden import veil
from tests.support.quadratic import FLEET, Valley, quadratic

CLIP, Z, LEAST = 0.7, 1.3, 4
LIKE = {"a": jnp.zeros((10, 11)), "b": jnp.zeros(4)}
FLAT = 114
ROOT = chacha_key(np.arange(KEY_WORDS, dtype=np.uint32))
KEYS = jax.random.split(ROOT, 2000)
STAGE = distributed_skellam(CLIP, Z, LEAST)
assert STAGE.noise is not None
assert STAGE.noise.grid is not None
GRID = STAGE.noise.grid


@lru_cache
def sending(stage):
    def one(value, agent, key):
        context = UpdateContext(agent, jnp.int32(0), jnp.int32(5), jnp.int32(1), nothing_measured())
        encoded, _ = stage.encode(key, context, (), (), Update(value, jnp.float32(1.0), jnp.int32(0)))
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(encoded.value)])

    return jax.jit(jax.vmap(one, (None, None, 0)))


def sent(stage, value, keys, agent: int = 0) -> np.ndarray:
    """What an agent sends with each key, `[keys, entries]`."""
    return np.asarray(sending(stage)(value, jnp.int32(agent), keys), np.float64)


def found_wrong(noise: np.ndarray, deviation: float) -> bool:
    """Whether noise has another scale than that, a mean, or entries that are correlated; `[draws, entries]`."""
    scale = abs(noise.std() / deviation - 1.0) > 0.02
    centre = abs(noise.mean()) > 4.5 * deviation / math.sqrt(noise.size)
    together = np.corrcoef(noise.T)[np.triu_indices(noise.shape[1], 1)]
    return bool(scale or centre or np.abs(together).max() > 5.5 / math.sqrt(len(noise)))


def test_each_agent_adds_its_share_and_a_scale_off_by_five_percent_is_found() -> None:
    share = Z * CLIP / math.sqrt(LEAST)
    noise = sent(STAGE, LIKE, KEYS)
    assert not found_wrong(noise, share)
    assert stats.kstest(noise[:, 3], stats.norm(0.0, share).cdf).pvalue > 1e-4
    assert found_wrong(sent(distributed_skellam(CLIP, 1.05 * Z, LEAST), LIKE, KEYS), share)
    assert found_wrong(np.concatenate([noise[:, :57], noise[:, :57]], 1), share)  # two arrays with one key


def test_the_least_number_of_agents_add_the_noise_of_the_price_in_every_entry_and_round() -> None:
    keys = jax.random.split(jax.random.fold_in(ROOT, 1), LEAST * 1000)
    each = sent(STAGE, LIKE, keys).reshape(LEAST, 1000, FLAT)
    assert not found_wrong(each.sum(0), Z * CLIP)
    assert found_wrong(each[:-1].sum(0), Z * CLIP)
    # No two agents, and no two rounds, have noise in common.
    pairs = [np.corrcoef(each[i].reshape(-1), each[j].reshape(-1))[0, 1] for i in range(LEAST) for j in range(i)]
    assert np.abs(pairs).max() < 5.0 / math.sqrt(1000 * FLAT)
    assert abs(np.corrcoef(each[:, ::2].reshape(-1), each[:, 1::2].reshape(-1))[0, 1]) < 5.0 / math.sqrt(2000 * FLAT)


def test_an_update_is_sent_as_whole_multiples_of_the_unit_within_the_stated_size() -> None:
    value = jax.tree.map(lambda x: x + 1e3, LIKE)
    found = sent(STAGE, value, KEYS[:200]) / GRID.unit
    np.testing.assert_array_equal(found, np.rint(found))
    assert math.log2(GRID.unit).is_integer()
    assert np.abs(found).max() * GRID.unit < GRID.largest()
    assert 1024 < Z * CLIP / math.sqrt(LEAST) / GRID.unit <= 2048


@jax.jit
def to_300(key, value):
    return rounded(key, value, 300.0)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(-3.0, 2.0), st.floats(0.0, 1.0))
def test_no_update_is_longer_than_the_clip_after_rounding(seed: int, magnitude: float, sparse: float) -> None:
    """In whole numbers, exactly; also where a clip was not made at all."""
    draws = np.random.default_rng(seed)
    value = draws.normal(size=114) * (draws.random(114) >= sparse)
    value *= 300.0 * 10.0**magnitude / max(np.linalg.norm(value), 1e-9)
    whole = np.asarray(to_300(jax.random.fold_in(ROOT, seed), jnp.asarray(value, jnp.float32)))
    np.testing.assert_array_equal(whole, np.rint(whole))
    assert sum(int(entry) ** 2 for entry in whole) <= 300**2


def test_rounding_at_random_without_the_condition_would_be_longer_than_the_clip() -> None:
    value = jnp.asarray(np.full(114, 300.0 / math.sqrt(114)), jnp.float32)
    plain = np.floor(np.asarray(value) + np.random.default_rng(0).random((100, 114)))
    assert (np.linalg.norm(plain, axis=1) > 300.0).any()
    whole = np.asarray(jax.vmap(to_300, (0, None))(KEYS[:100], value))
    assert (np.linalg.norm(whole, axis=1) <= 300.0).all()


def test_rounding_has_no_bias_also_for_entries_far_below_the_unit() -> None:
    """Towards zero, or to the nearest, all of them would be lost."""
    value = jax.tree.map(lambda x: x + 0.1 * GRID.unit, LIKE)
    noisy = sent(STAGE, value, KEYS) - sent(STAGE, LIKE, KEYS)  # with the same noise
    assert noisy.mean() / GRID.unit == pytest.approx(0.1, abs=4.5 * math.sqrt(0.09 / noisy.size))
    long = jax.tree.map(lambda x: x + 5.0, LIKE)
    expected = CLIP / math.sqrt(FLAT)
    assert (sent(STAGE, long, KEYS) - sent(STAGE, LIKE, KEYS)).mean() == pytest.approx(expected, rel=4e-3)


def test_a_sum_of_squares_of_many_entries_is_right_to_its_bound() -> None:
    entries = jnp.full(3_000_000, 3.0).at[0].set(4000.0)
    exact = 4000**2 + 9 * (3_000_000 - 1)
    assert float(squared(entries)) == pytest.approx(exact, rel=2.0**-16)
    assert float(squared(jnp.zeros(0))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_not_rounded_to_zero(bad: float) -> None:
    assert np.isnan(sent(STAGE, {"a": LIKE["a"].at[1, 1].set(bad), "b": LIKE["b"]}, KEYS[:2])).any()


def test_an_agent_with_a_smaller_clip_pays_less() -> None:
    stage = distributed_skellam((0.8, 0.4), Z, LEAST)
    assert stage.noise is not None
    unit = stage.noise.grid.unit
    assert stage.noise.each == (skellam_event(Z, 0.8 / unit), skellam_event(2 * Z, 0.4 / unit))
    huge = jax.tree.map(lambda x: x + 1e3, LIKE)
    for agent, own in enumerate((0.8, 0.4)):
        clean = sent(stage, huge, KEYS[:50], agent) - sent(stage, LIKE, KEYS[:50], agent)
        assert np.linalg.norm(clean, axis=1) == pytest.approx(own, rel=5e-3)
        assert (np.linalg.norm(clean, axis=1) <= own).all()


def test_more_numbers_than_the_grid_is_fine_enough_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="Rounding 40000 numbers"):
        sent(distributed_skellam(1.0, 50.0, 2), {"a": jnp.zeros((200, 200))}, KEYS[:1])
    for wrong in ({"clip": 0.0}, {"noise_multiplier": -1.0}, {"least": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            distributed_skellam(**{"clip": 1.0, "noise_multiplier": 1.0, "least": 2, **wrong})


# In a federation.

LEARNER, UNIFORM = quadratic(sgd(0.1)), mean("uniform")


def summation(**given):
    return ring_sum(**{"agents": 4, "largest": GRID.largest(), "minimum": LEAST, **given})


def federation(stage=STAGE, **given):
    return federate(LEARNER, UNIFORM, stage, summation=summation(**given))


def run(federation, fleet=FLEET, rounds: int = 3, reproducible: bool = True):
    """The parameters before and after each round, `[rounds + 1, entries]`, and what the last round showed."""
    found = []
    with simulate(federation, fleet, reproducible_noise=reproducible) as simulation:
        state = simulation.init(0)
        for i in range(rounds + 1):
            leaves = jax.tree.leaves(state.server.params)
            found.append(np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves]))
            if i < rounds:
                state, seen = simulation.round(state)
    return np.array(found), seen


@component("test double")
def shrink() -> Stage:
    def encode(key, context, server_state, agent_state, update):
        return update._replace(value=jax.tree.map(lambda x: 0.5 * x, update.value)), agent_state

    return Stage(encode)


@pytest.mark.parametrize(
    ("stages", "added", "words"),
    [
        ((STAGE,), None, "a share of the noise"),
        ((STAGE,), exact_sum(), "a share of the noise"),
        ((STAGE,), summation(minimum=LEAST - 1), "counts on the noise of 4 agents"),
        ((STAGE,), summation(largest=2e6), "has a grid with the step"),
        ((STAGE,), replace(veil(), minimum=4), "no grid"),
        ((STAGE,), summation(largest=1.0), "entries of up to"),
        ((STAGE, shrink()), summation(), "comes after"),
        ((STAGE, clip(1.0)), summation(), "scales the noise down"),
    ],
)
def test_a_share_of_noise_is_refused_where_the_sum_is_not_what_it_counts_on(stages, added, words: str) -> None:
    with pytest.raises(UnsoundError, match=words):
        federate(LEARNER, UNIFORM, *stages, summation=added)


def test_a_sum_of_more_agents_than_ever_take_part_is_refused() -> None:
    check(federation(), 4, None, Scheduler(selection=uniform(4)), None)
    with pytest.raises(UnsoundError, match="at most 3 agents take part"):
        check(federation(), 4, None, Scheduler(selection=uniform(3)), None)
    with pytest.raises(UnsoundError, match="at most 3 agents take part"):
        check(federation(), 3, None, Scheduler(), None)


@pytest.mark.parametrize("protocol", ["masks", "additive", "ckks"])
def test_protocols_open_the_same_noisy_sum_bit_for_bit(protocol: str) -> None:
    plain, _ = run(federation())
    hidden, seen = run(federation(protocol=protocol))
    np.testing.assert_array_equal(plain, hidden)
    assert seen.weight == 4.0
    assert not np.array_equal(plain, run(federation(), reproducible=False)[0])


def test_the_sum_that_is_opened_is_that_of_whole_multiples_of_the_unit() -> None:
    """Rounding of the summation would add something to what is priced."""
    params, _ = run(federation(), rounds=1)
    steps = 4.0 * (params[1] - params[0]) / GRID.unit
    np.testing.assert_array_equal(steps, np.rint(steps))


def without(count: int) -> Valley:
    """A fleet whose agents learn nothing, so many of whom have updates that are not finite and are left out."""
    minimum = FLEET.minimum.copy()
    minimum[:count, 0] = np.nan
    return Valley(0.0 * FLEET.curvature, minimum)


@pytest.mark.parametrize("lost", [0, 1])
def test_drop_outs_down_to_the_least_number_leave_the_noise_of_the_price(lost: int) -> None:
    stage = distributed_skellam(CLIP, Z, 3)
    noisy = federation(stage, largest=stage.noise.grid.largest(), minimum=3)  # type: ignore[union-attr]
    params, seen = run(noisy, without(lost), 400)
    assert seen.weight == 4.0 - lost
    noise = np.diff(params, axis=0) * (4.0 - lost)
    error = 4.0 / math.sqrt(2 * noise.size)
    assert noise.std() == pytest.approx(Z * CLIP * math.sqrt((4.0 - lost) / 3), rel=error)
    assert noise.std() > Z * CLIP * (1.0 - error)


def test_a_sum_of_fewer_than_the_price_counts_on_is_not_opened() -> None:
    stage = distributed_skellam(CLIP, Z, 3)
    noisy = federation(stage, largest=stage.noise.grid.largest(), minimum=3)  # type: ignore[union-attr]
    params, seen = run(noisy, without(2), 1)
    assert seen.weight == 0.0
    assert seen.skipped.startswith("2 of at least 3 updates arrived")
    np.testing.assert_array_equal(*params)


# In a configuration.


def tables(summation="ring_sum", agents: int = 6, **mechanism):
    return {
        "name": "x",
        "environment": "gridworld",
        "learner": "q_table",
        "rounds": 10,
        "seeds": 1,
        "federation": {
            "agents": agents,
            "aggregator": {"name": "mean", "weighting": "uniform"},
            "summation": summation,
            "privacy": {
                "epsilon": 8.0,
                "delta": 1e-3,
                "trust": "honest_but_curious_coordinator",
                "mechanism": {"name": "distributed_skellam", "clip": 0.5, **mechanism},
            },
        },
    }


def test_a_configuration_calibrates_the_noise_and_the_sum_follows_from_it() -> None:
    experiment = build(load(tables()))
    (stage,) = experiment.federation.stages
    assert stage.noise.grid.least == 6  # type: ignore[union-attr]
    added = experiment.federation.summation
    assert (added.minimum, added.limit) == (6, stage.noise.grid.largest())  # type: ignore[union-attr]
    guarantee = experiment.guarantee
    assert 7.99 < guarantee.epsilon(0, 10) <= 8.0 < guarantee.price.epsilon(0, 11, 1e-3)
    assert guarantee.price.relation == "add-remove"
    assert any("6 agents or more" in line for line in guarantee.assumptions())
    assert not any("Nobody but the agent" in line for line in guarantee.assumptions())
    again = build(load(as_dict(experiment.config)))
    assert again.federation == experiment.federation
    assert again.guarantee == guarantee


def test_fewer_agents_on_which_the_price_counts_have_a_larger_share_each() -> None:
    few = build(load(tables({"name": "ring_sum", "minimum": 3})))
    (stage,) = few.federation.stages
    assert stage.noise.grid.least == 3  # type: ignore[union-attr]
    named = build(load(tables(least=3)))
    assert named.federation == few.federation
    with pytest.raises(UnsoundError, match="counts on the noise of 5"):
        build(load(tables({"name": "ring_sum", "minimum": 3}, least=5)))
    with pytest.raises(UnsoundError, match="a share of the noise"):
        build(load(tables("exact_sum")))


def test_an_agent_that_asks_for_more_gets_a_smaller_clip() -> None:
    given = tables(agents=6)
    given["federation"]["privacy"]["agents"] = {"3": {"epsilon": 2.0}}
    experiment = build(load(given))
    spent = [experiment.guarantee.epsilon(agent, 10) for agent in range(6)]
    assert [round(epsilon, 1) for epsilon in spent] == [8.0, 8.0, 8.0, 2.0, 8.0, 8.0]


def test_the_error_of_a_sum_is_that_of_central_noise_at_equal_epsilon() -> None:
    """n = 100 and d = 114: what the price's bound and rounding cost together."""
    events = accounting().GaussianDpEvent, lambda z: skellam_event(z, 8192.0)
    central, distributed = (
        calibrated(8.0, 1e-3, 10, lambda z, of=of: Price((of(z),), "add-remove", "agent")) for of in events
    )
    noise, stage = 0.5 * central, distributed_skellam(0.5, distributed, 100)
    value = jax.tree.map(lambda x: x + 0.5 / math.sqrt(FLAT), LIKE)  # at the clip
    keys = jax.random.split(jax.random.fold_in(ROOT, 2), 100 * 40)
    total = sent(stage, value, keys).reshape(100, 40, FLAT).sum(0)
    error = np.sqrt(np.square(total - 100.0 * 0.5 / math.sqrt(FLAT)).mean())
    assert 1.03 < error / noise < 1.13


# For single trajectories.


@jax.jit
def both(key, value, change):
    return dithered(key, value), dithered(key, value + change)


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(-2.0, 1.5), st.floats(0.0, 1.0), st.floats(0.5, 300.0))
def test_neighbouring_gradients_differ_by_little_more_after_rounding(
    seed: int, magnitude: float, sparse: float, size: float
) -> None:
    """S + 1.125 sqrt(d), also where both are scaled down to the largest norm, or one of them is."""
    draws = np.random.default_rng(seed)
    value = draws.normal(size=FLAT)
    value *= LARGEST_GRADIENT * 10.0**magnitude / np.linalg.norm(value)
    change = draws.normal(size=FLAT) * (draws.random(FLAT) >= sparse)
    change *= size / max(np.linalg.norm(change), 1e-9)
    pair = both(jax.random.fold_in(ROOT, seed), jnp.asarray(value, jnp.float32), jnp.asarray(change, jnp.float32))
    one, other = (np.asarray(x, np.float64) for x in pair)
    np.testing.assert_array_equal(one, np.rint(one))
    assert np.abs(one).max() <= LARGEST_GRADIENT
    assert np.linalg.norm(one - other) <= size + ROUNDED * math.sqrt(FLAT)


def test_no_two_neighbours_are_scaled_apart_at_the_largest_norm() -> None:
    """One is scaled down, and the other one not: at every norm from half of the largest to twice."""
    direction, size = jnp.asarray(np.random.default_rng(1).normal(size=FLAT), jnp.float32), 300.0
    direction /= jnp.linalg.norm(direction)
    norms = jnp.arange(0.5 * LARGEST_GRADIENT, 2.0 * LARGEST_GRADIENT, 0.9 * size)
    one, other = jax.vmap(lambda norm: both(ROOT, norm * direction, size * direction))(norms)
    apart = np.linalg.norm(np.asarray(one, np.float64) - np.asarray(other, np.float64), axis=1)
    assert (apart <= size + ROUNDED * math.sqrt(FLAT)).all()
    assert apart.min() < 0.1 * size < 0.9 * size < apart.max()


def test_neighbours_rounded_by_other_random_numbers_may_differ_by_more() -> None:
    """Why the random numbers may not depend on the episodes, and that the surcharge is needed."""
    value, change = jnp.full(FLAT, 0.5), jnp.zeros(FLAT).at[0].set(0.1)
    apart = [
        float(jnp.linalg.norm(dithered(KEYS[i], value) - dithered(KEYS[i + 1], value + change))) for i in range(20)
    ]
    assert min(apart) > 0.1 + 2.0
    small = jnp.full(FLAT, 1.0 / 16)
    together = [float(jnp.linalg.norm(x - y)) for x, y in (both(KEYS[i], value, small) for i in range(20))]
    assert max(together) > float(jnp.linalg.norm(small))


def test_a_share_of_noise_for_a_trajectory_is_priced_with_what_rounding_adds() -> None:
    stage = distributed_skellam(CLIP, Z, LEAST, unit="trajectory")
    assert stage.noise is not None
    assert stage.noise.grid is not None
    size = CLIP / stage.noise.grid.unit
    assert stage.noise.event == skellam_event(Z / (1.0 + SURCHARGE), (1.0 + SURCHARGE) * size)
    assert (stage.noise.unit, stage.noise.relation, stage.noise.clip, stage.clips) == (
        "trajectory",
        "add-remove",
        CLIP,
        None,
    )
    assert ROUNDED * math.sqrt(FLAT) <= SURCHARGE * size
    noise = sent(stage, LIKE, KEYS)
    assert not found_wrong(noise, Z * CLIP / math.sqrt(LEAST))
    # A mean of many episodes is longer than what one of them adds, and is not clipped to that.
    long = jax.tree.map(lambda x: x + 3.0 * CLIP / math.sqrt(FLAT), LIKE)
    clean = sent(stage, long, KEYS[:50]) - sent(stage, LIKE, KEYS[:50])
    assert np.linalg.norm(clean, axis=1) == pytest.approx(3.0 * CLIP, rel=0.02)
    assert np.abs(sent(stage, jax.tree.map(lambda x: x + 1e9, LIKE), KEYS[:5])).max() < stage.noise.grid.largest()
    with pytest.raises(ConfigError, match="Rounding 40000 numbers adds 225 units"):
        sent(stage, {"a": jnp.zeros((200, 200))}, KEYS[:1])
    with pytest.raises(ConfigError, match="unit is 'trajectory', for which all learners clip"):
        distributed_skellam((0.8, 0.4), Z, LEAST, unit="trajectory")


def test_single_trajectories_at_epsilon_one_cost_little_more_than_with_central_noise() -> None:
    learner = {
        "name": "reinforce",
        "baseline": "value",
        "network": {"name": "mlp", "hidden": [16]},
        "episodes_per_step": 32,
        "trajectory_clip": 1.0,
    }
    given = tables(agents=20)
    given |= {"environment": "cartpole", "learner": learner}
    given["federation"]["payload"] = "gradient"
    given["federation"]["privacy"] |= {"epsilon": 1.0, "delta": 1e-5, "unit": "trajectory"}
    given["federation"]["privacy"]["mechanism"] = "distributed_skellam"
    experiment = build(load(given))
    (stage,) = experiment.federation.stages
    assert stage.noise.clip == 1.0 / 32  # type: ignore[union-attr]
    guarantee = experiment.guarantee
    assert guarantee.price.unit == "trajectory"
    assert 0.99 < guarantee.epsilon(0, 80) <= 1.0
    events = accounting()
    central = calibrated(1.0, 1e-5, 1, lambda z: Price((events.GaussianDpEvent(z),), "add-remove", "trajectory"))
    assert 1.0 < guarantee.noise_multiplier / central < 1.25
    assert build(load(as_dict(experiment.config))).federation == experiment.federation
    given["federation"]["payload"] = "delta"
    with pytest.raises(UnsoundError, match="payload='gradient'"):
        build(load(given))
