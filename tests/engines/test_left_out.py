"""Agents that take no part, whoever is selected: the selection does not know of them, so the others' odds stay."""

import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.server import round_robin, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.topologies import tree
from tests.support.quadratic import FLEET, quadratic

AGENTS, ROUNDS, OUT = 4, 8, [0, 2]
PLAIN = federate(quadratic(sgd(0.1)), mean())


def took_part(scheduler, without=(), **more):
    """Mask of the agents that began a job, `[rounds, agents]`, and the last parameters."""
    with simulate(PLAIN, FLEET, scheduler=scheduler, **more) as simulation:
        run_state, found = simulation.init(3), []
        for _ in range(ROUNDS):
            before = run_state.engine_state.board.turns.copy()
            run_state, _ = simulation.round(run_state, without=without)
            found.append(run_state.engine_state.board.turns > before)
        return np.array(found), [np.asarray(x) for x in run_state.server.params.values()]


@pytest.mark.parametrize(
    ("scheduler", "more"),
    [
        (Scheduler(), {}),
        (Scheduler(selection=uniform(2)), {}),
        (Scheduler(selection=uniform(2)), {"clock": clock()}),
        (Scheduler(selection=round_robin(3)), {}),
        (Scheduler(selection=uniform(1)), {"topology": tree([2], periods=[1, 2])}),
    ],
)
def test_the_others_are_selected_as_ever_and_these_never(scheduler, more):
    whole, free = took_part(scheduler, **more)
    without, left = took_part(scheduler, OUT, **more)
    expected = whole.copy()
    expected[:, OUT] = False
    np.testing.assert_array_equal(without, expected)
    assert whole[:, OUT].any()
    assert any((a != b).any() for a, b in zip(free, left, strict=True))


def test_with_a_cohort_of_the_callers_they_are_left_out_as_well():
    with simulate(PLAIN, FLEET) as simulation:
        run_state, seen = simulation.round(simulation.init(3), cohort=[0, 1], without=OUT)
        assert run_state.engine_state.board.turns.tolist() == [0, 1, 0, 0]
        assert seen.weight == 1.0


def test_if_nobody_is_left_the_round_is_one_of_nobody():
    with simulate(PLAIN, FLEET) as simulation:
        run_state, seen = simulation.round(simulation.init(3), without=range(AGENTS))
        assert not run_state.engine_state.board.turns.any()
        assert seen.weight == 0.0
