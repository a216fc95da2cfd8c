"""Poisson sampling: each agent in each round with one probability, whatever becomes of all others, and in secret."""

import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.clocks.events import OPENED, Events
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import Keys, keys_of, noise_of_seed
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.server import poisson, round_robin, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import synchronous
from fedrl.server.secret_draws import SecretDraws
from fedrl.stages import clip
from fedrl.topologies import tree
from tests.support.fresh_noise import BOUND, check_unrelated
from tests.support.noisy import at_rest, fleet_of, noise_of_the_server, noisy

ROOT, RATE, AGENTS, ROUNDS = bytes(range(32)), 0.3, 60, 1500


def cohorts(rate=RATE, rounds=range(1, ROUNDS + 1), agents=AGENTS, root=ROOT) -> np.ndarray:
    """Who is in the cohort of each round, bool `[rounds, agents]`."""
    plan = Scheduler(selection=poisson(rate))
    board = plan.init(np.ones(agents, int), (1, 2, 3))
    return np.stack([np.isin(np.arange(agents), plan.chosen(board, number, root)) for number in rounds])


def check_sampled(drawn: np.ndarray, rate: float) -> None:
    """Independent draws with this probability, `[rounds, agents]`: their rate, and nothing that goes together."""
    x = (drawn - rate) / np.sqrt(rate * (1 - rate))
    off = x.mean() * np.sqrt(x.size)
    assert abs(off) < BOUND, f"the rate is {drawn.mean():.4f}, {off:.1f} standard errors off {rate}"
    each = x.mean(0) * np.sqrt(len(x))
    assert np.abs(each).max() < BOUND + np.sqrt(2 * np.log(len(each))), "an agent has a rate of its own"
    sizes = np.square(x.sum(1)).mean() / x.shape[1]  # of a binomial; 1 were they independent
    assert abs(sizes - 1) < BOUND * np.sqrt(2 / len(x)), f"the variance of the sizes is {sizes:.2f} of a binomial's"
    check_unrelated(x)


def test_agents_are_drawn_with_this_probability_independently():
    check_sampled(cohorts(), RATE)
    check_sampled(cohorts(0.02), 0.02)


FAULTS = {
    "a rate 5 % too high": lambda: cohorts(1.05 * RATE),
    "a rate 5 % too low": lambda: cohorts(0.95 * RATE),
    "one root in two rounds": lambda: cohorts(rounds=[t - t % 2 for t in range(1, ROUNDS + 1)]),
    "one draw for two agents": lambda: np.repeat(cohorts(agents=AGENTS // 2), 2, axis=1),
    "cohorts of one size": lambda: np.stack(
        [
            np.isin(np.arange(AGENTS), np.random.default_rng(t).choice(AGENTS, int(RATE * AGENTS), False))
            for t in range(ROUNDS)
        ]
    ),
    "an agent that is left out more often": lambda: (
        cohorts() & (np.arange(AGENTS) != 7) | (cohorts(0.1) & (np.arange(AGENTS) == 7))
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_rejects(fault):
    with pytest.raises(AssertionError):
        check_sampled(FAULTS[fault](), RATE)


def test_a_rate_of_one_is_everybody():
    assert cohorts(1.0, range(1, 30)).all()


def test_who_takes_part_follows_from_the_noise_root_and_not_from_the_board():
    plan = Scheduler(selection=poisson(0.5))
    boards = [plan.init(np.ones(AGENTS, int), key) for key in ((1, 2, 3), (4, 5, 6))]
    one, other = (plan.chosen(board, 1, ROOT) for board in boards)
    np.testing.assert_array_equal(one, other)
    assert set(plan.chosen(boards[0], 1, bytes(32))) != set(one)
    assert set(plan.chosen(boards[0], 2, ROOT)) != set(one)
    keys = keys_of(0)
    stranger = Keys(keys.run, np.zeros(8, np.uint32))  # what all parties know
    assert noise_of_seed(keys) != noise_of_seed(stranger)


def test_without_a_noise_root_nobody_is_drawn():
    plan = Scheduler(selection=poisson(0.5))
    opened = Events(np.array([OPENED]), np.array([-1]), np.zeros(1))
    with pytest.raises(ConfigError, match="sampled without a noise root"):
        plan.step(plan.init(np.ones(AGENTS, int), (1, 2, 3)), opened)


def test_draws_go_on_where_they_were():
    whole, parts = SecretDraws(ROOT, 0, 1), SecretDraws(ROOT, 0, 1)
    first, second = parts.random(8), parts.random(9)
    np.testing.assert_array_equal(whole.random(24)[:17], np.concatenate([first, second]))
    assert len(parts.random(0)) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, np.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="rate"):
        poisson(rate)


def test_selections_say_what_their_price_depends_on():
    assert (poisson(0.2).sampling, poisson(0.2).fixed_size) == (0.2, None)
    assert (uniform(3).sampling, uniform(3).fixed_size) == (None, 3)
    assert (round_robin(3).sampling, round_robin(3).fixed_size) == (None, None)


# --- in a simulation -------------------------------------------------------------------------------------------------

FEW = 6
PLAIN = federate(at_rest(2), mean("uniform"), clip(1.0))


def simulated(rate, rounds=20, **options):
    """Who took part in each round, and the size of the last cohort as each agent was told it."""
    plan = Scheduler(selection=poisson(rate))
    options = {"reproducible_noise": True, "scheduler": plan} | options
    with simulate(PLAIN, fleet_of(FEW), **options) as simulation:
        run_state, there = simulation.init(3), []
        for _ in range(rounds):
            run_state, record = simulation.round(run_state)
            there.append(record.steps > 0)
            assert set(record.arrivals.sender.tolist()) == set(np.flatnonzero(there[-1]).tolist())
        return np.stack(there), run_state.engine_state.team.cohort


@pytest.mark.parametrize("timing", [{}, {"clock": clock(step_s=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])}])
def test_rounds_have_the_cohorts_that_were_drawn_and_some_have_nobody(timing):
    there, _ = simulated(0.2, rounds=25, **timing)
    plan, root = Scheduler(selection=poisson(0.2)), noise_of_seed(keys_of(3))
    board = plan.init(np.ones(FEW, int), (1, 2, 3))
    expected = [np.isin(np.arange(FEW), plan.chosen(board, number, root)) for number in range(1, 26)]
    np.testing.assert_array_equal(there, np.stack(expected))
    assert 0 in there.sum(1)


def test_every_server_of_a_tree_samples_among_its_agents():
    where = {"topology": tree([3], periods=[1, 1000])}
    there, _ = simulated(0.5, rounds=200, **where)
    check_unrelated((there - 0.5) / 0.5)
    assert not (there[:, :3] == there[:, 3:]).all()


@pytest.mark.parametrize(
    ("where", "expected"), [({}, 3), ({"topology": tree([3], periods=[1, 4])}, 2), ({"topology": tree([2])}, 3)]
)
def test_agents_are_told_the_mean_size_of_a_cohort_and_not_who_else_takes_part(where, expected):
    there, sizes = simulated(0.5, **where)
    assert len(set(there.sum(1).tolist())) > 2  # the sizes that they could have been told
    assert there.any(0).all()
    np.testing.assert_array_equal(sizes, expected)


def test_a_quorum_is_refused_where_noise_covers_a_sum_of_a_random_number():
    plan = Scheduler(synchronous(quorum=2), poisson(0.5))
    with pytest.raises(UnsoundError, match="one agent more or less decides"):
        simulate(noisy(2, noise_of_the_server()), fleet_of(FEW), scheduler=plan)
    simulate(noisy(2, noise_of_the_server()), fleet_of(FEW), scheduler=Scheduler(selection=poisson(0.5)))
    simulate(PLAIN, fleet_of(FEW), scheduler=plan)
