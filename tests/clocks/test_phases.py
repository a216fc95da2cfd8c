"""The phases of a protocol on a virtual clock: who leaves when, and how long it takes."""

import math

import numpy as np

from fedrl.clocks import Virtual
from fedrl.clocks.devices import clock, speeds_of
from fedrl.clocks.events import BACK, NOBODY
from fedrl.clocks.phases import phases

IDS = np.arange(4)
TURNS = np.ones(4, int)
NEVER = np.full(4, math.inf)


def found(answer_s, until_s=NEVER, deadline_s=math.inf, drop_out=0.0, seed=0, turns=TURNS):
    return phases(answer_s, 10.0, until_s, deadline_s, drop_out, seed, IDS, turns)


def test_a_phase_takes_as_long_as_its_slowest_agent():
    slow = np.array([1.0, 2.0, 3.0, 4.0])
    result = found([slow, slow / 2])
    assert result.left.tolist() == [2] * 4
    assert result.took_s.tolist() == [4.0, 2.0]


def test_who_answers_after_the_deadline_leaves_and_is_not_waited_for_again():
    result = found([np.array([1.0, 2.0, 3.0, 4.0])] * 3, deadline_s=2.5)
    assert result.left.tolist() == [3, 3, 0, 0]
    assert result.took_s.tolist() == [2.5, 2.0, 2.0]


def test_who_goes_offline_leaves_then():
    until_s = np.array([math.inf, 11.5, math.inf, math.inf])
    result = found([np.ones(4)] * 3, until_s)
    assert result.left.tolist() == [3, 1, 3, 3]
    assert result.took_s.tolist() == [1.0, 1.0, 1.0]
    assert found([np.ones(4)], np.full(4, 10.25)).took_s.tolist() == [0.25]  # nobody is left to wait for


def test_chance_has_its_rate_and_follows_from_seed_agent_job_and_phase():
    many = np.arange(20_000)
    args = ([np.ones(20_000)] * 3, 0.0, np.full(20_000, math.inf), math.inf, 0.1)
    result = phases(*args, 7, many, np.ones(20_000, int))
    rates = [(result.left == phase).sum() / (result.left >= phase).sum() for phase in range(3)]
    assert all(0.09 < rate < 0.11 for rate in rates)
    again = phases(*args, 7, many, np.ones(20_000, int))
    np.testing.assert_array_equal(result.left, again.left)
    for other in (phases(*args, 8, many, np.ones(20_000, int)), phases(*args, 7, many, np.full(20_000, 2))):
        assert (other.left != result.left).mean() > 0.2


def test_an_event_of_the_time_of_the_phases_does_not_set_the_clock_back():
    devices = clock(availability_trace=[[1, 6.0, 100.0]])
    time = Virtual(devices, speeds_of(devices, 2, 0, 0), 2)
    state, _ = time.dispatch(time.start(0), np.array([1]), np.zeros(1), np.ones(1), NOBODY)
    state, events = time.peek(time.advance(state, 13.0), math.inf, 1, None, True)
    assert (events.kind.tolist(), events.time_s.tolist(), time.now_s(state)) == ([BACK], [6.0], 13.0)
