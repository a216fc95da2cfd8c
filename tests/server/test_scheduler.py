"""The scheduler by itself: a state machine of arrays, whose log is a replay."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock, stragglers
from fedrl.clocks.events import Actions, Events
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.server import greedy, linear, oort
from fedrl.server.board import Board
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from tests.support.quadratic import Valley, quadratic

AGENTS, SIZE = 9, 8
draws = np.random.default_rng(0)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
SLOW = clock(step_s=stragglers(1.0, 0.3, 5.0), drop_out=0.3, jitter=0.2, online_s=30.0, offline_s=5.0)
WRONG = {"hang": 0.1, "hang_s": 3.0, "restart": 0.1, "duplicate": 0.4, "malformed": 0.1, "latency_s": 0.3}
FAULTY = clock(step_s=stragglers(1.0, 0.3, 5.0), drop_out=0.1, jitter=0.2, **WRONG)
PLANNED = {"selection": oort(5), "local_steps": linear(3, 1, 4), "upload_budget": greedy(150)}
CASES = {
    "rounds": Scheduler(synchronous(deadline_s=3.0, quorum=2), **PLANNED),
    "late agents": Scheduler(synchronous(4, stragglers="keep")),
    "buffers": Scheduler(fed_buff(3), **PLANNED),
    "in turn": Scheduler(fed_buff(3, concurrency=4)),
    "one by one": Scheduler(fed_async(0.5)),
    "bounded": Scheduler(bounded_staleness(1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("devices", [SLOW, FAULTY], ids=["slow", "faulty"])
def test_the_log_of_its_events_is_a_replay(name, devices, monkeypatch):
    log: list[tuple[Scheduler, Board, Events, Board, Actions]] = []
    step = Scheduler.step

    def logged(self, board, events, noise=None):
        before = jax.tree.map(np.copy, board)
        after, actions = step(self, board, events, noise)
        log.append((self, before, jax.tree.map(np.copy, events), jax.tree.map(np.copy, after), actions))
        return after, actions

    monkeypatch.setattr(Scheduler, "step", logged)
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean(), local_steps=3, reports=("loss", "norm"))
    simulation = simulate(federation, FLEET, scheduler=CASES[name], clock=devices, merges=1)
    run_state = simulation.init(2)
    for _ in range(8):
        run_state, _ = simulation.round(run_state)
    monkeypatch.undo()
    board = log[0][1]
    for scheduler, before, events, after, actions in log:
        jax.tree.map(np.testing.assert_array_equal, board, before)
        board, again = scheduler.step(board, events)
        jax.tree.map(np.testing.assert_array_equal, board, after)
        jax.tree.map(np.testing.assert_array_equal, again, actions)
    assert len(log) > 16


@pytest.mark.parametrize("devices", [SLOW, FAULTY], ids=["slow", "faulty"])
def test_a_copy_of_a_run_goes_on_to_the_last_bit(devices):
    """At any merge, whatever lies in arrays of the run; nothing that matters lies anywhere else."""
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean(), local_steps=3)
    late = Scheduler(fed_buff(3), delay_rounds=[k % 3 for k in range(AGENTS)])
    for schedule in (
        synchronous(4, stragglers="keep"),
        fed_buff(3),
        fed_buff(3, concurrency=4),
        bounded_staleness(1),
        late,
    ):
        ends = []
        for copied in (False, True):
            simulation = simulate(federation, FLEET, scheduler=schedule, clock=devices, merges=1)
            run_state = simulation.init(5)
            for _ in range(10):
                run_state, _ = simulation.round(run_state)
                if copied:
                    leaves, structure = jax.tree.flatten(run_state)
                    fresh = [x if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x) for x in leaves]
                    simulation = simulate(federation, FLEET, scheduler=schedule, clock=devices, merges=1)
                    run_state = jax.tree.unflatten(structure, fresh)
            ends.append((run_state.server, simulation.params_of(run_state)))
        jax.tree.map(np.testing.assert_array_equal, *ends)


def test_deciding_needs_no_jax():
    """Actions follow from arrays alone: with JAX's arrays forbidden, a round goes by."""
    code = """
import numpy as np
import jax
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff
from fedrl.clocks.events import ARRIVED, OPENED, Events
def never(*given, **named):
    raise AssertionError("a scheduler made an array of JAX")
jax.numpy.asarray = jax.numpy.array = jax.device_put = jax.jit = never
plan = Scheduler(fed_buff(2))
board = plan.init(np.ones(3, int), (1, 2, 3))
board, actions = plan.step(board, Events(np.array([OPENED]), np.array([-1]), np.zeros(1)))
assert actions.dispatch.tolist() == [0, 1, 2] and actions.wants == 2
board, actions = plan.step(board, Events(np.full(2, ARRIVED), np.array([0, 2]), np.array([1.0, 2.0])))
assert actions.merge.tolist() == [1.0, 1.0] and actions.dispatch.tolist() == [0]
assert not jax._src.xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
