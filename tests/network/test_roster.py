"""What a coordinator knows of the speed and the reliability of its agents."""

import numpy as np
import pytest

from fedrl.engines.network.roster import Roster
from tests.engines.test_halves import FLEET
from tests.network.test_bits import Sited
from tests.network.test_faults import FEDERATIONS


def test_a_speed_is_measured_else_said_else_the_mean_of_the_others():
    roster = Roster(4)
    assert np.isnan(roster.speed).all()
    roster.steps_per_s[:2] = 10.0, 30.0
    assert roster.speed.tolist() == [10.0, 30.0, 20.0, 20.0]
    roster.begin(np.array([0, 2]), np.array([1, 1]), np.array([4, 2]), 0.0)
    roster.arrive(2, 1.0)
    assert roster.speed.tolist() == [10.0, 30.0, 2.0, 14.0]
    roster.arrive(0, 2.0)  # four steps in two seconds, whatever it says
    assert roster.speed.tolist() == [2.0, 30.0, 2.0, pytest.approx(34 / 3)]
    roster.arrive(0, 4.0)  # a step took half a second, then a second
    assert roster.speed[0] == pytest.approx(1 / 0.75)


def test_what_can_be_no_speed_is_not_believed():
    roster = Roster(3)
    roster.steps_per_s[:] = -1.0, 0.0, 5.0
    assert roster.speed.tolist() == [5.0, 5.0, 5.0]


def test_reliability_is_the_share_of_jobs_that_arrived():
    roster, both = Roster(2), np.array([0, 1])
    assert roster.reliability.tolist() == [1.0, 1.0]
    for job in range(1, 5):
        roster.begin(both, np.array([job, job]), np.array([1, 1]), 0.0)
        roster.end(both)
        roster.end(both)  # a job ends once
        roster.arrive(0, 1.0)
    assert roster.jobs.tolist() == [4, 4]
    assert roster.reliability.tolist() == [1.0, 0.0]


def test_jobs_that_are_lost_count_against_their_agent_alone():
    async def loses(agent, link, task):
        if task.version == 1:
            agent.address = "nowhere"
            await link.close()
            return True
        return False

    with Sited(FEDERATIONS["mean"](), FLEET, patience_s=0.3, behaviour={2: {"lose": loses}}) as sited:
        sited.rounds(4)
        roster = sited.simulation_clock.roster
        assert roster.jobs.tolist() == [4, 4, 2, 4, 4]
        assert roster.reliability.tolist() == [1.0, 1.0, 0.5, 1.0, 1.0]
        assert (roster.measured_s > 0.0).all()
