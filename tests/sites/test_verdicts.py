"""What agents adopt: their state is that of halves in one process that are given the same verdicts."""

import asyncio

import jax
import pytest

from fedrl.core.keys import agent_secret, keys_of
from fedrl.engines.halves import AgentHalf, Verdict
from fedrl.federation.wire_digest import wire_digest
from fedrl.sites.jobs import RunJobs
from fedrl.sites.memory import RunMemory
from fedrl.wire.protocol import Task
from tests.sites.test_agent import AGENTS, ALL, ERRING, FLEET, SEED, agent_of, equal
from tests.sites.test_lies import WELCOME
from tests.support.coordinating import ScriptedCoordinator

DROPPED, REJECTED, MERGED = Verdict.DROPPED, Verdict.REJECTED, Verdict.MERGED


def with_verdicts(verdicts):
    """The server, and agent 0, after rounds in each of which agent 0 has the verdict."""
    keys = keys_of(SEED)
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)
    halves = [
        AgentHalf(ERRING, k, jax.tree.map(lambda x, k=k: x[k], FLEET), keys.run.tobytes(), agent_secret(keys, k))
        for k in range(AGENTS)
    ]
    runs, server = [half.start() for half in halves], coordinator.state
    for verdict in verdicts:
        version = coordinator.half.open(server)
        for k, half in enumerate(halves):
            turn = half.train(runs[k], version.broadcast, version.orders[k])
            if k or verdict is MERGED:
                version.take(k, turn.update)
            elif verdict is REJECTED:
                version.take(k, b"nonsense")
            runs[k] = turn.run
        closed, last = version.close(), runs[0]
        assert closed.verdicts[0] is verdict
        runs = [half.settle(run, closed.verdicts[k]) for k, (half, run) in enumerate(zip(halves, runs, strict=True))]
        server = closed.run
    return server, last


def served(folder, verdicts, notices, receives=lambda number: True):
    """The same over links; a task that agent 0 does not receive is lost."""
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)
    coordinator.alter = lambda k, job, data: b"nonsense" if k == 0 and verdicts[job - 1] is REJECTED else data
    coordinator.change = lambda k, m: None if k == 0 and isinstance(m, Task) and not receives(m.job) else m

    async def run():
        async with coordinator.listening():
            agents = [agent_of(ERRING, coordinator, k, folder, notices=[notices, [], []][k]) for k in range(AGENTS)]
            running = [asyncio.ensure_future(agent.run()) for agent in agents]
            while len(coordinator.links) < AGENTS:
                await asyncio.sleep(0.01)
            for job, verdict in enumerate(verdicts, 1):
                late = verdict is DROPPED
                if late and receives(job):
                    coordinator.gate.clear()
                await coordinator.round(without={0} if late else ())
                if late and receives(job):
                    while not any(n.event == "sent" and n.job == job for n in notices):
                        await asyncio.sleep(0.01)
                    coordinator.gate.set()
            await coordinator.done()
            return await asyncio.wait_for(asyncio.gather(*running), 60)

    assert {end.code for end in asyncio.run(asyncio.wait_for(run(), 300))} == {"done"}
    return coordinator


def kept(folder):
    setting = jax.tree.map(lambda x: x[0], FLEET)
    jobs = RunJobs(ERRING, setting, WELCOME, RunMemory(folder / "site-0", WELCOME.run, digest()), ALL, SEED, {})
    return jobs.kept.run


def digest():
    return wire_digest(ERRING, ERRING.learner.environment.params).digest


CASES = {
    "dropped": [MERGED, DROPPED, MERGED, MERGED],
    "rejected": [MERGED, REJECTED, MERGED, MERGED],
    "both": [DROPPED, REJECTED, DROPPED, MERGED, MERGED],
    "dropped again and again": [MERGED, DROPPED, DROPPED, DROPPED, MERGED],
}


@pytest.mark.parametrize("name", CASES)
def test_an_agent_is_what_its_verdicts_make_of_it(name, tmp_path):
    verdicts, notices = CASES[name], []
    server, run = with_verdicts(verdicts)
    coordinator = served(tmp_path, verdicts, notices)
    equal(server.server, coordinator.state.server)
    found = kept(tmp_path)
    assert int(found.agents.team.version[0]) == len(verdicts) - 1
    equal(run.pending.blocks, found.pending.blocks)  # the last verdict would come with the next task
    late = [n.text for n in notices if n.event == "not_taken" and "late" in n.text]
    assert len(late) == verdicts.count(DROPPED)


def test_a_verdict_that_was_lost_with_its_task_comes_with_the_next_one(tmp_path):
    """Job 3 never arrives at the agent, and with it the verdict on job 2."""
    verdicts, notices = [MERGED, MERGED, DROPPED, MERGED, MERGED], []
    coordinator = served(tmp_path, verdicts, notices, receives=lambda job: job != 3)
    server, _ = with_verdicts(verdicts)
    # In both runs agent 0 has adopted jobs 1 and 2 and nothing of job 3.
    equal(server.server, coordinator.state.server)


def test_the_tests_see_a_verdict_that_is_not_heeded(tmp_path, monkeypatch):
    for name, verdict in (("dropped", MERGED), ("rejected", MERGED), ("dropped", REJECTED)):
        monkeypatch.setattr(RunJobs, "verdict", lambda self, task, found=verdict: found)
        with pytest.raises(AssertionError, match="Arrays are not equal"):
            test_an_agent_is_what_its_verdicts_make_of_it(name, tmp_path / f"{name}-{verdict.value}")
