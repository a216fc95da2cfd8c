"""Whose updates are sent under a budget of bytes: choices worked out by hand, and rounds that keep to the budget."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.aggregators import mean, median, q_ffl
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import hierarchy, isolated
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.records import checkpoint
from fedrl.server import greedy, oort, round_robin, uniform
from fedrl.server.decisions import requested_reports
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff, synchronous
from fedrl.server.upload_budget import Waiting
from fedrl.stages import error_feedback, hard_threshold, top_k
from fedrl.topologies import tree
from tests.support.quadratic import FLEET, flat, quadratic

DEVICE = jax.devices()[:1]
DENSE = 3 * 4 + 4 + 4  # three numbers, a weight, a version
BID = 4


def selected(rule, bids, sizes, left, state=None, seed=0):
    name, ids = rule.requested[0], np.arange(len(bids))
    reports = {name: np.array(bids, np.float32)}
    state = rule.init(len(bids)) if state is None else state
    chosen = rule.select(np.random.default_rng(seed), ids, left, state, reports, np.array(sizes))
    return np.flatnonzero(chosen).tolist(), rule.observe(ids, chosen, state, reports)


class TestByPriority:
    @pytest.mark.parametrize(
        ("bids", "sizes", "left", "expected"),
        [
            ([3, 1, 2], [10, 10, 10], 20, [0, 2]),
            ([3, 1, 2], [10, 10, 10], 29, [0, 2]),
            ([3, 4, 2], [10, 20, 10], 20, [0, 2]),  # 0.3, 0.2, 0.2 per byte, and 20 no longer fit
            ([1, 9, 8], [10, 15, 10], 20, [0, 2]),  # the best per byte first; 15 do not fit beside it, 10 do
            ([np.nan, 1, np.inf], [10, 10, 10], 10, [1]),  # what is no number is not useful
            ([1, 1, 1], [10, 10, 10], 9, []),
        ],
    )
    def test_the_most_useful_per_byte_come_first_and_what_does_not_fit_is_passed_over(
        self, bids, sizes, left, expected
    ):
        assert selected(greedy(1), bids, sizes, left)[0] == expected

    def test_an_improvement_is_a_rise_of_the_return_and_who_is_new_comes_first(self):
        rule = greedy(1, "improvement")
        chosen, state = selected(rule, [5.0, 9.0, np.nan], [10] * 3, 20)
        assert chosen == [0, 1]
        assert selected(rule, [6.0, 9.5, 0.0], [10] * 3, 20, state)[0] == [0, 2]
        assert selected(rule, [4.0, 8.5, np.nan], [10] * 3, 10, state)[0] == [1]  # -0.5 is more than -1

    def test_who_was_turned_away_often_enough_goes_first(self):
        rule, state, seen = greedy(1, patience=2), None, []
        for _ in range(6):
            chosen, state = selected(rule, [3.0, 2.0, 1.0], [10] * 3, 10, state)
            seen += chosen
        assert seen == [0, 0, 1, 2, 0, 1]
        assert isinstance(state, Waiting)

    def test_ties_are_broken_by_lot(self):
        assert {tuple(selected(greedy(1), [1, 1], [4, 4], 4, seed=s)[0]) for s in range(20)} == {(0,), (1,)}

    @given(
        st.lists(st.tuples(st.floats(allow_nan=True, width=32), st.integers(1, 50)), min_size=1, max_size=12),
        st.integers(0, 200),
        st.sampled_from(["norm", "loss", "improvement"]),
        st.sampled_from([None, 1]),
    )
    def test_the_budget_holds_and_nothing_that_fits_is_turned_away(self, updates, left, usefulness, patience):
        bids, sizes = [b for b, _ in updates], np.array([size for _, size in updates])
        rule = greedy(1, usefulness, patience)
        state = Waiting(np.full(len(sizes), 1.0, np.float32), np.arange(len(sizes), dtype=np.int32) % 3)
        with np.errstate(all="ignore"):
            chosen, _ = selected(rule, bids, sizes, left, state)
        spent = sizes[chosen].sum()
        assert spent <= left
        assert all(size > left - spent for size in np.delete(sizes, chosen))


def made(budget, *stages, rule=None, block=None, order=None, selection=None, topology=None, **options):
    upload_budget = greedy(budget, **options)
    federation = federate(
        quadratic(sgd(0.1)), rule or mean(), *stages, local_steps=2, reports=requested_reports(selection, upload_budget)
    )
    scheduler = Scheduler(selection=selection, upload_budget=upload_budget)
    return simulate(federation, FLEET, topology=topology, scheduler=scheduler, block=block, devices=DEVICE, order=order)


def norms(x):
    """How far two steps lead each agent, from the same x."""
    return np.linalg.norm(FLEET.minimum + (1 - 0.1 * FLEET.curvature) ** 2 * (x - FLEET.minimum) - x, axis=1)


class TestRounds:
    def test_the_largest_updates_are_merged_and_only_they(self):
        simulation = made(4 * BID + 2 * DENSE)
        run_state = simulation.init(0)
        for _ in range(3):
            x = flat(run_state.server.params)
            reference_return = np.sort(np.argsort(-norms(x))[:2])
            run_state, seen = simulation.round(run_state)
            assert seen.selected.tolist() == reference_return.tolist()
            assert seen.bytes_up == 4 * BID + 2 * DENSE
            assert seen.weight == 4.0
            led = FLEET.minimum + (1 - 0.1 * FLEET.curvature) ** 2 * (x - FLEET.minimum)
            np.testing.assert_allclose(
                flat(run_state.server.params), led[reference_return].mean(0), rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("rule", [mean(), median(), q_ffl()], ids=repr)
    def test_a_budget_for_all_is_a_round_without_one(self, rule):
        plain = simulate(federate(quadratic(sgd(0.1)), rule, local_steps=2, reports=["norm"]), FLEET, devices=DEVICE)
        budget = made(1000, rule=rule)
        a, b = plain.init(0), budget.init(0)
        for _ in range(3):
            (a, whole), (b, seen) = plain.round(a), budget.round(b)
        jax.tree.map(np.testing.assert_array_equal, a.server.params, b.server.params)
        assert seen.bytes_up == whole.bytes_up  # what is told in a bid is not sent again
        assert seen.bytes_down == whole.bytes_down + 4
        assert (seen.messages_up, seen.messages_down) == (
            4 + whole.messages_up,
            4 + whole.messages_down,
        )  # bids, answers

    @pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
    def test_order_and_blocks_are_of_no_consequence(self, rule):
        ends = []
        for order, block in ((None, 2), ([3, 1, 0, 2], 2), (None, 3)):
            simulation = made(4 * BID + 2 * DENSE, rule=rule, order=order, block=block)
            run_state = simulation.init(0)
            for _ in range(3):
                run_state, _ = simulation.round(run_state)
            ends.append(flat(run_state.server.params))
        np.testing.assert_array_equal(ends[0], ends[1])
        np.testing.assert_allclose(ends[0], ends[2], rtol=1e-6)

    def test_who_was_turned_away_believes_nothing_was_sent(self):
        """Its residual is what it was; those of the admitted are what they did not send."""
        simulation = made(4 * BID + 2 * 14, error_feedback(top_k(0.5)), block=4)
        run_state, first = simulation.round(simulation.init(0))
        before = jax.tree.map(np.asarray, run_state.blocks[0].stage_states)
        run_state, seen = simulation.round(run_state)
        after = jax.tree.map(np.asarray, run_state.blocks[0].stage_states)
        changed = [
            any((b[k] != a[k]).any() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
            for k in range(4)
        ]
        assert 0 < len(seen.selected) < 4
        assert np.flatnonzero(changed).tolist() == seen.selected.tolist()
        assert first.bytes_up <= 4 * BID + 2 * 14

    def test_updates_whose_size_varies_bid_it_too_and_keep_to_the_budget(self):
        budget = 4 * 8 + 40
        simulation = made(budget, hard_threshold(0.2))
        run_state, sizes = simulation.init(0), set()
        for _ in range(6):
            run_state, seen = simulation.round(run_state)
            own = seen.uploads.size_bytes[seen.selected]
            assert seen.bytes_up == 4 * 8 + own.sum() <= budget
            sizes |= set(own.tolist())
        assert len(sizes) > 1

    def test_of_who_was_turned_away_nothing_but_its_bid_is_known(self):
        simulation = made(4 * BID + 2 * (DENSE + 4), selection=oort(4, "loss", epsilon=0.0))
        run_state, seen = simulation.round(simulation.init(0))
        selected = np.isin(np.arange(4), seen.selected)
        assert selected.sum() == 2
        assert np.isfinite(seen.uploads.report["norm"]).all()
        assert np.isfinite(seen.uploads.report["loss"]).tolist() == selected.tolist()
        assert np.isfinite(run_state.engine_state.board.selection.value).tolist() == selected.tolist()
        assert (seen.uploads.size_bytes > 0).tolist() == selected.tolist()
        assert seen.uploads.messages.tolist() == selected.astype(int).tolist()

    def test_a_selection_says_who_may_bid(self):
        simulation = made(2 * BID + DENSE, selection=round_robin(2))
        run_state, first = simulation.round(simulation.init(0))
        _, second = simulation.round(run_state)
        assert set(first.selected) <= {0, 1}
        assert set(second.selected) <= {2, 3}
        assert first.bytes_up == 2 * BID + DENSE

    def test_agents_that_send_nothing_have_no_budget(self):
        with pytest.raises(UnsoundError, match="isolated agents send none"):
            made(4 * BID + DENSE, topology=isolated())

    def test_a_resumed_run_is_bit_identical(self, tmp_path):
        simulation = made(4 * BID + DENSE, patience=2)
        run_state = simulation.init(0)
        for number in range(6):
            if number == 3:
                checkpoint.save(tmp_path / "run.safetensors", run_state, number)
            run_state, seen = simulation.round(run_state)
        again = checkpoint.load(tmp_path / "run.safetensors", simulation.init(0))
        for _ in range(3):
            again, resumed = simulation.round(again)
        np.testing.assert_array_equal(flat(run_state.server.params), flat(again.server.params))
        assert seen.selected.tolist() == resumed.selected.tolist()


@pytest.mark.parametrize(("buffer", "selection", "count"), [(5, None, 4), (3, uniform(2), 2)], ids=repr)
def test_a_buffer_that_those_who_wait_for_an_answer_can_not_fill_is_refused(buffer, selection, count):
    plan = Scheduler(fed_buff(buffer), selection, upload_budget=greedy(1000))
    federation = federate(quadratic(sgd(0.1)), mean(), reports=["norm"])
    with pytest.raises(ConfigError, match=rf"waits for {buffer} updates, and {count} agents are selected"):
        simulate(federation, FLEET, scheduler=plan, clock=clock())
    simulate(federation, FLEET, scheduler=replace(plan, schedule=fed_buff(count)), clock=clock())


@pytest.mark.parametrize(
    ("schedule", "topology", "bids"),
    [
        (synchronous(deadline_s=1.6, stragglers="keep"), None, 4),
        (fed_buff(2), hierarchy(tree([2], [1, 2])), 2),
        (synchronous(deadline_s=1.6), None, 1),
    ],
    ids=["late agents", "buffers", "called back"],
)
def test_a_budget_is_for_the_bids_of_late_agents_too(schedule, topology, bids):
    federation = federate(quadratic(sgd(0.1)), mean(), reports=["norm"])

    def some_rounds(budget_bytes):
        plan = Scheduler(schedule, uniform(1), upload_budget=greedy(budget_bytes))
        devices = clock(step_s=[1.0, 1.5, 2.0, 5.0])
        simulation = simulate(federation, FLEET, topology=topology, scheduler=plan, clock=devices, merges=1)
        run_state = simulation.init(0)
        for _ in range(12):
            run_state, _ = simulation.round(run_state)

    with pytest.raises(ConfigError, match=f"Bids of 4 bytes from {bids} agents"):
        some_rounds(bids * BID + DENSE - 1)
    some_rounds(bids * BID + DENSE)


def test_a_budget_is_that_of_each_server_from_the_first_round_on():
    """Two bids and an update fit, four bids do not, and no server has as many."""
    federation = federate(quadratic(sgd(0.1)), mean(), reports=["norm"])
    plan = Scheduler(upload_budget=greedy(2 * 4 + 20))
    simulation = simulate(federation, FLEET, topology=hierarchy(tree([2], [1, 2])), scheduler=plan)
    _, seen = simulation.round(simulation.init(0))
    assert len(seen.selected) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: greedy(0), "budget_bytes is 0"),
        (lambda: greedy(1, patience=0), "patience is 0"),
        (lambda: greedy(1, "speed"), "usefulness is 'speed'"),
        (lambda: made(BID + DENSE - 1), f"budget_bytes is {BID + DENSE - 1}.*take {BID + DENSE},"),
        (
            lambda: _round(made(4 * BID + DENSE - 1)),
            "from 4 agents and one update of 20 bytes take 36,",
        ),
        (
            lambda: simulate(
                federate(quadratic(sgd(0.1)), mean()), FLEET, scheduler=Scheduler(upload_budget=greedy(100))
            ),
            r"does not report it. Write federate\(..., reports=\['norm'\]\)",
        ),
    ],
)
def test_a_budget_that_can_not_be_kept_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        wrong()


def _round(simulation):
    return simulation.round(simulation.init(0))
