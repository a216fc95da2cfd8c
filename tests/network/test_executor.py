"""What the executor of agents at other sites makes of their messages, and what each agent then hears of its update."""

import numpy as np
import pytest

from fedrl.engines.executors.records import Agents
from fedrl.engines.halves import Verdict
from fedrl.engines.halves.agent import TrainedUpdate
from fedrl.engines.messages import messages
from fedrl.federation.trust import weight_of
from fedrl.wire.codec import codec
from fedrl.wire.protocol import Sent, Task
from tests.engines.test_halves import FLEET
from tests.network.test_bits import Sited
from tests.network.test_faults import FEDERATIONS

FEDERATION = FEDERATIONS["mean"]()
WEIGHT = weight_of(FEDERATION, 2)


def first(answer):
    """Answer the first task so, and the others as agents do."""

    async def act(agent, link, task):
        message = answer(agent, task) if task.version == 0 else None
        if message is not None:
            await agent.say(link, message)
        return message is not None

    return {"act": act}


def fails(agent, task):
    agent.run = agent.half.settle(agent.kept[1].run, Verdict.DROPPED)
    agent.kept = (agent.kept[0], TrainedUpdate(b"", agent.run, {}, "no floor"))


def weighs_more(agent, task):
    """By less than what rounding may make of a weight, so that it is not refused."""
    wire = codec(messages(FEDERATION, FLEET).update)
    update = wire.decode(agent.kept[1].update)
    return Sent(task.job, task.version, wire.encode(update._replace(weight=np.float32(update.weight * (1 + 5e-6)))))


BEHAVIOUR = {
    1: first(lambda agent, task: Sent(task.job, task.version, b"rubbish")),
    2: first(fails),
    3: first(lambda agent, task: Sent(task.job, task.version + 1, agent.kept[1].update)),
    4: first(weighs_more),
}


@pytest.fixture(scope="module")
def sited():
    with Sited(FEDERATION, FLEET, behaviour=BEHAVIOUR) as found:
        found.rounds(3)
        yield found


def verdicts(sited, agent):
    """Job and verdict that came with each task."""
    return [(task.settled, task.verdict) for task in sited.agents[agent].told if isinstance(task, Task)]


@pytest.mark.parametrize("agent", range(5))
def test_an_agent_hears_with_its_next_task_what_came_of_its_update(sited, agent):
    assert verdicts(sited, agent)[1:] == [(1, "rejected" if agent in (1, 2, 3) else "merged"), (2, "merged")]


def test_a_message_that_is_refused_has_its_reason_and_its_job_is_over(sited):
    refused = dict(sited.seen[0].rejected)
    assert sorted(refused) == [1, 2, 3]
    assert "can't be read" in refused[1]
    assert refused[2] == "its training failed: no floor"
    assert refused[3] == "it says that it is of version 1, and 0 was sent"
    assert [found.rejected for found in sited.seen[1:]] == [(), ()]


def test_the_weight_follows_from_the_order_and_not_from_the_message(sited):
    assert np.float32(WEIGHT * (1 + 5e-6)) != np.float32(WEIGHT)
    assert [found.weight for found in sited.seen] == [2 * WEIGHT, 5 * WEIGHT, 5 * WEIGHT]


def test_a_cancelled_job_has_ended(sited):
    executor = sited.simulation_clock._receive.__self__
    distant, steps = executor._distant, np.full(5, 2, np.int32)
    agents = Agents((distant,), executor.team(steps, np.full(5, 0.2), np.zeros((0, 0), np.uint32)))
    distant.jobs[:] += 1
    executor.cancel(agents, np.array([0, 3]))
    assert (distant.jobs - distant.ended).tolist() == [0, 1, 1, 0, 1]
