"""Who is asked and how much each works, by rules worked out by hand; the rounds that they schedule."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.clocks.events import ARRIVED, DROPPED, OPENED, Events
from fedrl.core.aggregator import on_time
from fedrl.core.errors import ConfigError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.records import checkpoint
from fedrl.server import (
    adacomm,
    allocate,
    by_capacity,
    linear,
    oort,
    power_of_choice,
    proportional_to_measured_speed,
    proportional_to_speed,
    round_robin,
    uniform,
    water_filling,
)
from fedrl.server.decisions import Capacity, LastReports, requested_reports
from fedrl.server.local_steps import constant
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.topologies import tree
from tests.support.quadratic import FLEET, flat, quadratic

RULES = [
    uniform(3),
    round_robin(3),
    oort(3),
    power_of_choice(3, 5),
    by_capacity(3, [1.0, 2, 3, 4, 5, 6, 7]),
    by_capacity(3),
]
PAIRS = [uniform(2), round_robin(2), oort(2), power_of_choice(2, 3)]
AGENTS = 7


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 50))
def test_a_cohort_is_of_its_size_and_nobody_is_asked_twice(rule, seed, number):
    ids = rule.choose(rng(seed), np.arange(AGENTS), number, rule.init(AGENTS))
    assert len(set(ids.tolist())) == len(ids) == 3
    assert set(ids.tolist()) <= set(range(AGENTS))
    np.testing.assert_array_equal(ids, rule.choose(rng(seed), np.arange(AGENTS), number, rule.init(AGENTS)))


def test_round_robin_asks_everybody_in_turn():
    rule = round_robin(2)
    assert [rule.choose(rng(), np.arange(4), n, ()).tolist() for n in (1, 2, 3)] == [[0, 1], [2, 3], [0, 1]]


def test_power_of_choice_asks_the_worst_of_its_candidates():
    loss = LastReports(np.array([1, 7, 3, 5, 2, 6, 4], np.float32))
    assert set(power_of_choice(2, 7).choose(rng(), np.arange(AGENTS), 1, loss).tolist()) == {1, 5}
    counts = np.zeros(AGENTS)
    for seed in range(2000):
        counts[power_of_choice(1, 2).choose(rng(seed), np.arange(AGENTS), 1, loss)] += 1
    rank = np.argsort(np.argsort(loss.value))  # the r-th lowest wins with r of the 6 others it may be drawn with
    np.testing.assert_allclose(counts / 2000, rank / 21, atol=0.04)


def test_those_never_heard_of_come_first_and_what_is_no_number_is_no_news():
    rule = power_of_choice(2, 4, reference_return=10.0)
    state = rule.observe(on_time(np.array([0, 2])), rule.init(4), {"return": np.array([4.0, np.nan])})
    np.testing.assert_array_equal(state.value, [6.0, np.nan, np.nan, np.nan])
    assert 0 not in rule.choose(rng(), np.arange(4), 1, state)


def test_utility_exploits_and_explores():
    state = LastReports(np.arange(7, dtype=np.float32))
    assert oort(3, epsilon=0.0).choose(rng(), np.arange(AGENTS), 1, state).tolist() == [6, 5, 4]
    seen = {int(oort(2, epsilon=0.5).choose(rng(s), np.arange(AGENTS), 1, state)[1]) for s in range(100)}
    assert seen == set(range(6))


@pytest.mark.parametrize("cohort", [1, 2, 3, 4, 5, 15])
def test_a_share_of_small_cohorts_explores_on_average(cohort):
    rule, state, counts = oort(cohort, epsilon=0.1), LastReports(np.arange(100, dtype=np.float32)), []
    for seed in range(2000):
        ids = rule.choose(rng(seed), np.arange(100), 1, state)
        counts.append(cohort - int(np.cumprod(ids == 99 - np.arange(cohort)).sum()))  # after the most useful, in order
    assert np.mean(counts) == pytest.approx(0.1 * cohort, abs=0.04)
    assert max(counts) <= math.ceil(0.1 * cohort)


@pytest.mark.parametrize("seed", range(5))
def test_about_half_the_rounds_of_a_cohort_of_five_meet_somebody_else(seed):
    rule, usefulness = oort(5), np.arange(100, dtype=np.float32)
    state, met = LastReports(usefulness), set()
    for number in range(1, 51):
        ids = rule.choose(np.random.default_rng([seed, number]), np.arange(100), number, state)
        state = rule.observe(on_time(ids), state, {"norm": usefulness[ids]})
        met |= set(ids.tolist())
    assert 15 <= len(met) <= 38  # 5 + 95 (1 - (1 - 1 / 190)^50) = 27 on average


def test_capacity_is_how_often_one_is_asked():
    rule, counts = by_capacity(1, [1.0, 3.0]), np.zeros(2)
    for seed in range(2000):
        counts[rule.choose(rng(seed), np.arange(2), 1, ())] += 1
    assert counts[1] / 2000 == pytest.approx(0.75, abs=0.04)


def drawn(rule, state, agents, draws=3000):
    counts = np.zeros(agents)
    for seed in range(draws):
        counts[rule.choose(rng(seed), np.arange(agents), 1, state)] += 1
    return counts / draws


def test_measured_capacity_is_steps_per_second_and_that_of_the_others_where_it_is_unknown():
    rule = by_capacity(1)
    state = rule.init(3)
    np.testing.assert_allclose(drawn(rule, state, 3), 1 / 3, atol=0.04)
    seen = {"duration_s": np.array([8.0, 2.0]), "steps": np.array([2, 2])}  # a fourth of a step, and a step a second
    state = rule.observe(on_time(np.array([0, 1])), state, seen)
    np.testing.assert_allclose(drawn(rule, state, 3), np.array([0.25, 1.0, 0.625]) / 1.875, atol=0.04)
    state = rule.observe(on_time(np.array([1])), state, {"duration_s": np.array([6.0]), "steps": np.array([2])})
    assert state.step_s[:2].tolist() == [4.0, 2.0]  # half of one second, and half of three
    nothing = rule.observe(on_time(np.array([1])), state, {"duration_s": np.array([np.nan]), "steps": np.array([2])})
    np.testing.assert_array_equal(nothing.step_s, state.step_s)


def test_what_agents_say_counts_before_a_measurement_and_reliability_always():
    rule, nobody = by_capacity(1), np.ones(3)
    state = rule.informed(Capacity(np.array([1.0, 3.0, np.nan]), nobody), rule.init(3))
    np.testing.assert_allclose(drawn(rule, state, 3), np.array([1.0, 3.0, 2.0]) / 6, atol=0.04)
    seen = {"duration_s": np.array([1.0]), "steps": np.array([1])}
    state = rule.observe(on_time(np.array([1])), state, seen)  # it is as slow as the first one
    state = rule.informed(Capacity(np.array([1.0, 3.0, 1.0]), np.array([1.0, 1.0, 0.25])), state)
    np.testing.assert_allclose(drawn(rule, state, 3), np.array([1.0, 1.0, 0.25]) / 2.25, atol=0.04)
    steps = proportional_to_measured_speed(8, first=2)
    state = steps.informed(Capacity(np.array([4.0, 1.0, np.nan]), np.array([1.0, 0.1, 1.0])), steps.init(3))
    assert steps.plan(3, 1, state).tolist() == [8, 2, 2]  # of time alone


def test_a_scheduler_tells_its_rules_the_capacity_when_a_version_opens():
    plan = Scheduler(selection=by_capacity(1), local_steps=proportional_to_measured_speed(8))
    assert plan.informed
    assert not Scheduler(selection=uniform(1)).informed
    known = {"speed": np.array([4.0, 1.0]), "reliability": np.array([1.0, 0.5])}
    opened = Events(np.array([OPENED]), np.array([-1]), np.zeros(1), known)
    board, _ = plan.step(plan.init(np.full(2, 8), [0, 0]), opened)
    assert board.steps.tolist() == [8, 2]
    assert board.selection.reliability.tolist() == [1.0, 0.5]


def test_on_a_virtual_clock_fast_agents_are_selected_more_often():
    rule = by_capacity(1)
    federation = federate(quadratic(sgd(0.1)), mean(), reports=rule.requested)
    devices = clock(step_s=[1.0, 1.0, 1.0, 9.0])
    simulation = simulate(federation, FLEET, scheduler=Scheduler(selection=rule), clock=devices, block=1)
    run_state, counts = simulation.init(0), np.zeros(4)
    for _ in range(120):
        run_state, seen = simulation.round(run_state)
        counts[seen.arrivals.sender] += 1
    assert np.isfinite(run_state.engine_state.board.selection.step_s).all()
    assert counts[3] < 20 < counts[:3].min()


def test_workloads_are_those_worked_out_by_hand():
    assert [int(linear(2, 8, 4).plan(1, n, ())[0]) for n in range(1, 7)] == [2, 4, 6, 8, 8, 8]
    assert [int(linear(8, 1, 8).plan(1, n, ())[0]) for n in (1, 4, 8)] == [8, 5, 1]
    assert proportional_to_speed([1.0, 0.5, 0.26], 8).plan(3, 1, ()).tolist() == [8, 4, 2]
    rule = adacomm(8)
    state, taus = rule.init(2), []
    for loss in ([3.0, 5.0], [1.0, 1.0], [np.nan, 0.0], [9.0, 9.0]):
        state = rule.observe(on_time(np.arange(2)), state, {"loss": np.array(loss)})
        taus.append(int(rule.plan(2, 1, state)[0]))
    assert taus == [8, 4, 1, 8]  # sqrt(1), sqrt(1/4), at least one, at most the first


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(0.2, 5.0), min_size=n, max_size=n), st.lists(st.floats(0.1, 4.0), min_size=n, max_size=n)
        )
    ),
    st.floats(0.3, 12.0),
    st.sampled_from(["log", "sqrt", "linear"]),
)
def test_an_allocation_is_optimal_by_its_conditions(caps_and_weights, total, utility):
    caps, weights = map(np.array, caps_and_weights)
    dealt = allocate(total, caps, weights, utility)
    assert dealt.min() >= 0.0
    assert (dealt <= caps + 1e-9).all()
    assert dealt.sum() == pytest.approx(min(total, caps.sum()), rel=1e-6)
    with np.errstate(divide="ignore"):
        slope = {"log": weights / (1 + dealt), "sqrt": weights / (2 * np.sqrt(dealt)), "linear": weights}[utility]
    takers, givers = slope[dealt < caps - 1e-6], slope[dealt > 1e-6]
    if takers.size and givers.size:
        assert takers.max() <= givers.min() * (1 + 1e-4)


@pytest.mark.parametrize("utility", ["log", "sqrt", "linear"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("total", [0.05, 5.0, 10.0, 50.0])
def test_an_allocation_is_that_of_a_solver(utility, seed, total):
    """Also where there is so little that some get nothing, where caps bind, and where all take all they can."""
    draw = rng(seed)
    caps, weights = draw.uniform(0.5, 4, 5), draw.uniform(0.2, 3, 5)
    use = {"log": np.log1p, "sqrt": lambda r: np.sqrt(np.maximum(r, 0)), "linear": lambda r: r}[utility]
    slope = {"log": lambda r: 1 / (1 + r), "sqrt": lambda r: 0.5 / np.sqrt(r), "linear": np.ones_like}[utility]
    solved = minimize(
        lambda r: -(weights * use(r)).sum(),
        np.minimum(caps, total / 5) * 0.9,
        jac=lambda r: -weights * slope(np.maximum(r, 1e-9)),
        bounds=[(0, cap) for cap in caps],
        constraints={"type": "ineq", "fun": lambda r: total - r.sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    dealt = allocate(total, caps, weights, utility)
    assert (weights * use(dealt)).sum() >= -solved.fun - 1e-9
    np.testing.assert_allclose(dealt, solved.x, atol=2e-5)
    if total < 1.0:
        assert (dealt == 0.0).any() == (utility != "sqrt")  # the first bit is worth most, infinitely much to sqrt
    if total > 9.0:
        assert (dealt == caps).any()


def worth(steps, weights, utility):
    """sum_k U_k(tau_k), of many ways to deal out at once."""
    use = {"log": np.log1p, "sqrt": np.sqrt, "linear": lambda tau: tau}[utility]
    return (weights * use(np.asarray(steps, float))).sum(-1)


@pytest.mark.parametrize("utility", ["log", "sqrt", "linear"])
def test_allocated_steps_are_the_best_of_all_ways_to_deal_them_out(utility):
    draw = rng(0)
    for _ in range(300):
        agents = int(draw.integers(1, 5))
        caps = draw.integers(1, 7, agents)
        weights = np.exp(draw.normal(0.0, 1.5, agents)) * 10.0 ** draw.integers(-12, 13)
        total = int(draw.integers(agents, caps.sum() + 3))
        ways = np.stack(np.meshgrid(*[np.arange(1, cap + 1) for cap in caps]), -1).reshape(-1, agents)
        reference_return = worth(ways[ways.sum(1) <= total], weights, utility).max()
        steps = water_filling(total, caps.tolist(), weights.tolist(), utility).plan(agents, 1, ())
        assert steps.sum() <= total
        assert (steps >= 1).all()
        assert (steps <= caps).all()
        assert worth(steps, weights, utility) == pytest.approx(reference_return, rel=1e-12)


def test_allocated_steps_are_those_worked_out_by_hand():
    assert water_filling(5, [3, 3, 1], [1.61, 6.23, 0.32]).plan(3, 1, ()).tolist() == [1, 3, 1]
    # the sixth step of the first adds 3 log(7 / 6) = 0.462, the fifth of the second would 2 log(6 / 5) = 0.365
    assert water_filling(10, [8, 8, 8], [3.0, 2.0, 1.0]).plan(3, 1, ()).tolist() == [6, 3, 1]
    assert water_filling(99, [8, 2], [1.0, 1.0]).plan(2, 1, ()).tolist() == [8, 2]


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_units_of_what_is_measured_make_no_difference_to_plans(unit):
    speeds = np.array([1.0, 0.5, 0.26])
    assert proportional_to_speed((unit * speeds).tolist(), 8).plan(3, 1, ()).tolist() == [8, 4, 2]
    many = by_capacity(2, [1.0, 2.0, 4.0]), by_capacity(2, [1.0 * unit, 2.0 * unit, 4.0 * unit])
    first, second = (rule.choose(rng(3), np.arange(3), 1, ()).tolist() for rule in many)
    assert first == second
    by_loss, by_time = adacomm(8), proportional_to_measured_speed(8)
    state = by_loss.init(2)
    for loss in ([3.0, 5.0], [1.0, 1.0]):
        state = by_loss.observe(on_time(np.arange(2)), state, {"loss": unit * np.array(loss)})
    assert by_loss.plan(2, 3, state).tolist() == [4, 4]
    pace = by_time.observe(on_time(np.arange(3)), by_time.init(3), {"duration_s": unit / speeds, "steps": np.ones(3)})
    assert by_time.plan(3, 2, pace).tolist() == [8, 4, 2]


def test_balanced_steps_are_rounded_to_the_nearest_and_never_to_none():
    assert proportional_to_speed([1.0, 0.77, 0.74, 0.01], 10).plan(4, 1, ()).tolist() == [10, 8, 7, 1]


class TestScheduled:
    def made(self, selection=None, local_steps=None, most=4):
        federation = federate(
            quadratic(sgd(0.1)), mean(), local_steps=most, reports=requested_reports(selection, local_steps)
        )
        scheduler = Scheduler(selection=selection, local_steps=local_steps)
        return simulate(federation, FLEET, scheduler=scheduler, devices=jax.devices()[:1])

    def test_only_those_selected_take_part_and_only_their_bytes_are_counted(self):
        simulation, whole = self.made(round_robin(1)), self.made()
        run_state, first = simulation.round(simulation.init(0))
        _, second = simulation.round(run_state)
        _, everybody = whole.round(whole.init(0))
        assert first.steps.tolist() == [4, 0, 0, 0]
        assert second.steps.tolist() == [0, 4, 0, 0]
        assert (first.iterations, second.iterations) == (4, 8)
        assert everybody.bytes_up == 4 * first.bytes_up
        assert first.metrics["loss"][1:].tolist() == [0.0, 0.0, 0.0]

    def test_a_planned_number_of_steps_is_that_number(self):
        scheduled = self.made(local_steps=linear(1, 4, 4))
        run_state = scheduled.init(0)
        for tau in range(1, 5):
            before = jax.tree.map(np.asarray, run_state.server.params)
            run_state, seen = scheduled.round(run_state)
            assert seen.steps.tolist() == [tau] * 4
            x = np.concatenate([before["head"], before["tail"][0]])
            shrink = (1 - 0.1 * FLEET.curvature) ** tau
            expected = (FLEET.minimum + shrink * (x - FLEET.minimum)).mean(0)
            found = np.concatenate([run_state.server.params["head"], run_state.server.params["tail"][0]])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_whom_it_has_heard_of_it_asks_after_those_it_has_not(self):
        simulation = self.made(oort(2, epsilon=0.0))
        run_state, first = simulation.round(simulation.init(0))
        _, second = simulation.round(run_state)
        assert (first.steps > 0).tolist() == (second.steps == 0).tolist()
        assert np.isfinite(run_state.engine_state.board.selection.value).tolist() == (first.steps > 0).tolist()

    def test_a_schedule_that_goes_by_the_loss_hears_of_it(self):
        simulation = self.made(local_steps=adacomm(4))
        run_state = simulation.init(0)
        for _ in range(10):
            run_state, _ = simulation.round(run_state)
        progress = run_state.engine_state.board.local_steps
        assert 0.0 < progress.last < 0.9 * progress.first

    def test_every_round_of_every_run_draws_a_cohort_of_its_own(self):
        simulation, rounds, requested_reports = self.made(uniform(2)), 150, []
        for seed in (0, 1):
            run_state = simulation.init(seed)
            for _ in range(rounds):
                run_state, seen = simulation.round(run_state)
                requested_reports.append(seen.steps > 0)
        requested_reports = np.asarray(requested_reports).reshape(2, rounds, -1)
        assert (requested_reports.sum(2) == 2).all()
        assert np.abs(requested_reports.mean((0, 1)) - 0.5).max() < 4.5 * 0.5 / np.sqrt(2 * rounds)
        error = np.sqrt(1 / 6 * 5 / 6 / rounds)  # two cohorts of 2 among 4 are the same once in 6 times
        for one, other in (
            (requested_reports[0], requested_reports[1]),
            (requested_reports[0, :-1], requested_reports[0, 1:]),
            (requested_reports[0, :-2], requested_reports[0, 2:]),
        ):
            assert abs((one == other).all(1).mean() - 1 / 6) < 4.5 * error

    def test_a_schedule_without_change_is_the_plain_simulation(self):
        planned, plain = self.made(local_steps=constant(4)), self.made()
        a, _ = planned.round(planned.init(0))
        b, _ = plain.round(plain.init(0))
        jax.tree.map(np.testing.assert_array_equal, a.server, b.server)

    @pytest.mark.parametrize("rule", [*PAIRS, by_capacity(2, [*range(1, 13)])], ids=repr)
    def test_in_a_tree_each_server_asks_so_many_of_its_own_agents(self, rule):
        fleet = jax.tree.map(lambda x: np.tile(x, (3, *[1] * (x.ndim - 1))), FLEET)
        federation = federate(quadratic(sgd(0.1)), mean(), reports=rule.requested)
        simulation = simulate(federation, fleet, topology=tree([4], [1, 2]), scheduler=Scheduler(selection=rule))
        run_state, requested_reports = simulation.init(0), []
        for _ in range(12):
            run_state, seen = simulation.round(run_state)
            requested_reports.append((seen.steps > 0).reshape(3, 4))
        requested_reports = np.stack(requested_reports, 1)  # [servers, rounds, agents]
        assert (requested_reports.sum(2) == 2).all()
        assert requested_reports.any(1).all()
        alike = (requested_reports[0] == requested_reports[1]).all()
        assert alike == repr(rule).startswith("round_robin")

    def test_servers_that_only_pass_on_do_not_ask_by_themselves(self):
        federation, plan = federate(quadratic(sgd(0.1)), mean()), Scheduler(selection=uniform(2))
        ends = []
        for where in (None, tree([2])):
            simulation = simulate(federation, FLEET, topology=where, scheduler=plan)
            run_state = simulation.init(0)
            for _ in range(3):
                run_state, _ = simulation.round(run_state)
            ends.append(run_state.server)
        jax.tree.map(np.testing.assert_array_equal, *ends)

    def test_a_quorum_above_the_cohort_is_refused(self):
        plan = Scheduler(synchronous(quorum=3), selection=uniform(2))
        with pytest.raises(ConfigError, match=r"no fewer than 3 updates, and uniform\(2\) selects 2 agents"):
            simulate(federate(quadratic(sgd(0.1)), mean()), FLEET, scheduler=plan)

    @pytest.mark.parametrize("bound", [0, 2])
    def test_who_is_not_asked_is_not_waited_for(self, bound):
        plan = Scheduler(bounded_staleness(bound), selection=uniform(2))
        devices = clock(step_s=[1.0, 1.5, 2.0, 5.0])
        simulation = simulate(
            federate(quadratic(sgd(0.1)), mean()), FLEET, scheduler=plan, clock=devices, merges=1, block=2
        )
        run_state, turns = simulation.init(0), np.zeros(4, int)
        for _ in range(60):
            run_state, seen = simulation.round(run_state)
            turns += seen.turns
            board = run_state.engine_state.board
            at_work = board.status == 1
            assert (board.done[at_work] - board.done[board.allowed | at_work].min() <= bound + 1).all()
        assert turns.min() > 5

    def test_more_than_a_server_has_are_refused_when_it_is_built(self):
        with pytest.raises(ConfigError, match="cohort is 3 and a server selects from 2 agents"):
            simulate(
                federate(quadratic(sgd(0.1)), mean()),
                FLEET,
                topology=tree([2], [1, 2]),
                scheduler=Scheduler(selection=uniform(3)),
            )

    @pytest.mark.parametrize(
        ("selection", "local_steps"),
        [(power_of_choice(2, 3), adacomm(4)), (oort(2, "loss"), None), (uniform(3), linear(4, 1, 5))],
        ids=repr,
    )
    def test_a_run_resumed_from_a_checkpoint_is_bit_identical(self, selection, local_steps, tmp_path):
        simulation = self.made(selection, local_steps)
        run_state = simulation.init(0)
        for number in range(1, 7):
            if number == 4:
                checkpoint.save(tmp_path / "run.safetensors", run_state, 3)
            run_state, seen = simulation.round(run_state)
        again = checkpoint.load(tmp_path / "run.safetensors", simulation.init(0))
        for _ in range(4, 7):
            again, resumed = simulation.round(again)
        jax.tree.map(np.testing.assert_array_equal, run_state.server.params, again.server.params)
        assert resumed.steps.tolist() == seen.steps.tolist()
        assert resumed.iterations == seen.iterations


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: uniform(0),
        lambda: uniform(9).choose(rng(), np.arange(4), 1, ()),
        lambda: power_of_choice(3, 2),
        lambda: oort(2, "speed"),
        lambda: oort(2, epsilon=2.0),
        lambda: by_capacity(1, [1.0, 0.0]),
        lambda: by_capacity(1, [1.0]).init(2),
        lambda: linear(0, 1, 1),
        lambda: proportional_to_speed([1.0], 2).plan(2, 1, ()),
        lambda: proportional_to_measured_speed(2, first=3),
        lambda: proportional_to_measured_speed(2, memory=1.0),
        lambda: water_filling(1, [1, 1], [1.0, 1.0]),
        lambda: water_filling(3, [1, 0], [1.0, 1.0]),
        lambda: water_filling(3, [1, 1], [1.0]),
        lambda: water_filling(3, [1, 1], [1.0, 0.0]),
        lambda: allocate(1.0, [1.0], [1.0, 2.0]),
        lambda: allocate(1.0, [1.0], [1.0], "cubic"),
    ],
)
def test_what_makes_no_plan_is_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


class TestBalancedByTime:
    def test_follows_its_formula(self):
        rule = proportional_to_measured_speed(8, first=2, memory=0.75)
        state = rule.init(3)
        assert rule.plan(3, 1, state).tolist() == [2, 2, 2]
        state = rule.observe(
            on_time(np.arange(3)), state, {"duration_s": np.array([2.0, 8.0, np.nan]), "steps": np.full(3, 2)}
        )  # 1 and 4 s a step
        assert rule.plan(3, 2, state).tolist() == [8, 2, 2]
        state = rule.observe(
            on_time(np.array([0, 2])), state, {"duration_s": np.array([40.0, 1.0]), "steps": np.array([8, 2])}
        )  # 5 and 0.5 s a step
        np.testing.assert_allclose(state.step_s, [0.75 * 1 + 0.25 * 5, 4.0, 0.5])
        assert rule.plan(3, 3, state).tolist() == [2, 1, 8]

    @given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=8), st.integers(1, 30))
    def test_rounds_end_together_as_far_as_whole_steps_let_them(self, step_s, most):
        rule = proportional_to_measured_speed(most)
        state = rule.observe(
            on_time(np.arange(len(step_s))),
            rule.init(len(step_s)),
            {"duration_s": np.array(step_s), "steps": np.ones(len(step_s))},
        )
        steps, fastest = rule.plan(len(step_s), 2, state), most * min(step_s)
        assert 1 <= steps.min() <= steps.max() == most
        late = np.abs(steps * step_s - fastest) > np.array(step_s) / 2 * (1 + 1e-5)
        assert not late[steps > 1].any()  # half a step at most, but for those whose one step takes longer

    def test_after_speeds_change_rounds_end_together_again(self):
        """A source of durations that any engine might be: what it tells is all that the rule knows."""
        rule = proportional_to_measured_speed(12, memory=0.5)
        scheduler, ids, spread = Scheduler(local_steps=rule), np.arange(4), []
        board = scheduler.init(np.full(4, rule.most), [0])
        for number in range(1, 21):
            board, actions = scheduler.step(board, Events(np.array([OPENED]), np.array([-1]), np.zeros(1)))
            assert actions.dispatch.tolist() == ids.tolist()
            took = board.steps * self.step_s(number)
            order = np.argsort(took, kind="stable")
            arrived = Events(np.full(4, ARRIVED), order, took[order], {"duration_s": took[order]})
            board, actions = scheduler.step(board, arrived)
            assert actions.merge.tolist() == 4 * [1.0]
            spread.append(took.max() / took.min())
        assert spread[0] == 4.0  # one step each, before anything is known
        assert max(spread[2:10]) < 1.15
        assert spread[10] > 3.0  # the fastest has become the slowest
        assert max(spread[15:]) < 1.15

    def step_s(self, number):
        return np.array([1.0, 2.0, 4.0, 1.0] if number <= 10 else [4.0, 2.0, 1.0, 1.0])

    def test_what_was_told_is_heard_although_others_were_lost_after(self):
        rule = proportional_to_measured_speed(8)
        scheduler = Scheduler(local_steps=rule)
        board, _ = scheduler.step(
            scheduler.init(np.full(3, 8), [0]), Events(np.array([OPENED]), np.array([-1]), np.zeros(1))
        )
        for agent, kind, report in (
            (0, ARRIVED, {"duration_s": np.array([1.0])}),
            (1, DROPPED, {}),
            (2, ARRIVED, {"duration_s": np.array([4.0])}),
        ):
            board, actions = scheduler.step(board, Events(np.array([kind]), np.array([agent]), np.ones(1), report))
        assert actions.merge.tolist() == [1.0, 1.0]
        np.testing.assert_array_equal(board.local_steps.step_s, [1.0, np.nan, 4.0])

    @pytest.mark.parametrize("schedule", [fed_buff(2), synchronous(2, stragglers="keep"), fed_async()], ids=repr)
    def test_durations_are_of_the_steps_that_were_asked_for_whatever_is_planned_since(self, schedule):
        rule, step_s = proportional_to_measured_speed(8), [1.0, 1.0, 2.0, 4.0]
        federation = federate(quadratic(sgd(0.1)), mean(), local_steps=8, reports=rule.requested)
        plan = Scheduler(schedule, local_steps=rule)
        simulation = simulate(federation, FLEET, scheduler=plan, clock=clock(step_s=step_s), merges=1, block=2)
        run_state = simulation.init(0)
        for _ in range(12):
            run_state, _ = simulation.round(run_state)
            known = run_state.engine_state.board.local_steps.step_s
            np.testing.assert_allclose(known, np.where(np.isnan(known), np.nan, step_s))
        assert np.isfinite(known).all()

    def test_without_a_clock_nobody_can_tell_how_long_it_took(self):
        """A compiled program knows nothing of time, and all go on as at first."""
        rule = proportional_to_measured_speed(12)
        federation = federate(quadratic(sgd(0.1)), mean(), local_steps=rule.most, reports=rule.requested)
        simulation = simulate(federation, FLEET, scheduler=Scheduler(local_steps=rule), devices=jax.devices()[:1])
        run_state = simulation.init(0)
        for _ in range(2):
            run_state, seen = simulation.round(run_state)
            assert np.isnan(seen.uploads.report["duration_s"]).all()
            assert seen.steps.tolist() == [1, 1, 1, 1]

    def test_on_a_virtual_clock_agents_tell_their_times_and_a_round_takes_as_long_as_the_fastest(self):
        rule = proportional_to_measured_speed(8)
        federation = federate(quadratic(sgd(0.1)), mean(), local_steps=8, reports=rule.requested)
        devices = clock(step_s=[1.0, 2.0, 4.0, 1.0], latency_s=0.5)
        simulation = simulate(
            federation, FLEET, scheduler=Scheduler(local_steps=rule), clock=devices, devices=jax.devices()[:1]
        )
        run_state, times, steps = simulation.init(0), [0.0], []
        for _ in range(4):
            x = flat(run_state.server.params)
            run_state, seen = simulation.round(run_state)
            times.append(seen.clock_stats.time_s)
            steps.append(seen.steps.tolist())
        assert steps == [[1, 1, 1, 1]] + 3 * [[8, 4, 2, 8]]
        assert np.diff(times).tolist() == [5.0, 9.0, 9.0, 9.0]  # both messages take a second; 8 steps each: 33
        np.testing.assert_allclose(seen.uploads.report["duration_s"], 8.0)
        assert seen.iterations == 4 + 3 * 22
        assert seen.bytes_up == 4 * (3 * 4 + 4 + 4 + 4)
        shrink = (1 - 0.1 * FLEET.curvature) ** np.array(steps[-1])[:, None]  # so many steps, indeed
        led, weight = FLEET.minimum + shrink * (x - FLEET.minimum), np.array(steps[-1])
        np.testing.assert_allclose(flat(run_state.server.params), weight @ led / weight.sum(), rtol=1e-4)
