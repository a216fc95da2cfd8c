"""What a coordinator knows of the speed and the reliability of its agents."""

import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.federation.federate import federate
from fedrl.network.log import Opened
from fedrl.network.roster import Roster
from fedrl.server import by_capacity, proportional_to_measured_speed
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import synchronous
from tests.engines.test_halves import FLEET, VALLEY
from tests.network.test_bits import Sited
from tests.network.test_faults import FEDERATIONS, assert_replayed


def test_a_speed_is_measured_else_said_else_the_mean_of_the_others():
    roster = Roster(4)
    assert np.isnan(roster.speed).all()
    roster.steps_per_s[:2] = 10.0, 30.0
    assert roster.speed.tolist() == [10.0, 30.0, 20.0, 20.0]
    roster.begin(np.array([0, 2]), np.array([1, 1]), np.array([4, 2]), 0.0, np.zeros(2))
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
        roster.begin(both, np.array([job, job]), np.array([1, 1]), 0.0, np.zeros(2))
        roster.end(both)
        roster.end(both)  # a job ends once
        roster.arrive(0, 1.0)
    assert roster.jobs.tolist() == [4, 4]
    assert roster.reliability.tolist() == [1.0, 0.0]


SAID = [4.0, 2.0, 1.0, float("nan"), 4.0]


@pytest.mark.parametrize("cohort", [None, 3])
def test_speeds_plan_local_steps_and_select_and_the_log_computes_the_run_again(cohort):
    steps = proportional_to_measured_speed(8, first=3)
    selection = None if cohort is None else by_capacity(cohort)
    federation = federate(VALLEY, mean(), local_steps=8, reports=["duration_s"])
    plan = Scheduler(synchronous(), selection, steps)
    behaviour = {k: {"steps_per_s": said} for k, said in enumerate(SAID)}
    with Sited(federation, FLEET, scheduler=plan, behaviour=behaviour) as sited:
        seen = sited.rounds(6)
        assert_replayed(federation, sited, plan, 6)
        opened = [entry for entry in sited.simulation_clock.log if isinstance(entry, Opened)]
    first = np.array([8, 4, 2, 6, 8])  # who does not say it counts as the mean, 2.75
    assert seen[0].steps[seen[0].steps > 0].tolist() == first[seen[0].steps > 0].tolist()
    assert len(opened) == 6
    assert opened[0].speed == [4.0, 2.0, 1.0, 2.75, 4.0]
    assert opened[0].reliability == [1.0] * 5
    assert len(seen[0].arrivals.sender) == (5 if cohort is None else cohort)


def test_a_log_without_capacity_has_no_entry_for_it():
    with Sited(FEDERATIONS["mean"](), FLEET) as sited:
        sited.rounds(2)
        assert not any(isinstance(entry, Opened) for entry in sited.simulation_clock.log)


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
