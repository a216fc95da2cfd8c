"""`fedrl agent` as a process of its own: ends, signals, kills, checks, and what it prints."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedrl.config import load
from fedrl.config.build import build
from fedrl.engines.simulate import simulate
from fedrl.wire.protocol import Leave, Sent, Stop, Welcome
from tests.sites.test_agent import equal
from tests.sites.test_site_file import EXPERIMENT
from tests.support.coordinating import RUN, ScriptedCoordinator
from tests.support.plain_transport import PlainTransport

ROOT = Path(__file__).parents[2]
SEED, AGENTS = 4, 3
COMMAND = """
import sys
import fedrl.cli.agent as command
from tests.support.plain_transport import PlainTransport
command.transport_of = lambda config: PlainTransport(config.certificates.rpartition("/")[2])
from fedrl.cli import main
main()
"""


class Sites:
    """Sites with files of their own, whose coordinator is in this process."""

    def __init__(self, folder, more=""):
        (folder / "experiment.toml").write_text(EXPERIMENT.format(federation="local_steps = 2", init=""))
        self.folder, self.more = folder, more
        experiment = build(load(folder / "experiment.toml"))
        self.federation, self.fleet = experiment.federation, experiment.fleet
        self.coordinator = ScriptedCoordinator(self.federation, self.fleet, SEED, beat_s=0.2)

    def file(self, number, more=""):
        path = self.folder / f"site-{number}.toml"
        path.write_text(
            f'coordinator = "{self.coordinator.address}"\ncertificates = "site-{number}"\nfolder = "kept-{number}"\n'
            f'experiment = "experiment.toml"\nseed = {SEED}\n{self.more}{more}'
        )
        return path

    async def begun(self, number, *options, more=""):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", COMMAND, "agent", str(self.file(number, more)), *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"},
        )

    def listening(self):
        return self.coordinator.listening(PlainTransport(), "127.0.0.1:0")


async def ended(process):
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode(), err.decode()


async def heard(coordinator, kind, count):
    while sum(isinstance(message, kind) for _, message in coordinator.heard) < count:
        await asyncio.sleep(0.01)


def test_processes_are_the_simulation_to_the_last_bit_although_one_is_killed_and_one_is_terminated(tmp_path):
    sites = Sites(tmp_path)
    coordinator = sites.coordinator

    async def run():
        async with sites.listening():
            agents = [await sites.begun(k, *(["--json"] if k else [])) for k in range(AGENTS)]
            await coordinator.round()
            agents[0].kill()
            await agents[0].wait()
            agents[1].send_signal(signal.SIGTERM)
            terminated = await ended(agents[1])
            agents[0] = await sites.begun(0)
            agents[1] = await sites.begun(1, "--json")
            for _ in range(2):
                await coordinator.round()
            await coordinator.done()
            return terminated, [await ended(agent) for agent in agents]

    terminated, ends = asyncio.run(run())
    assert terminated[0] == 143
    assert (1, Leave(False, "The agent was stopped.")) in coordinator.heard
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    assert all("Traceback" not in err for _, _, err in ends)
    with simulate(sites.federation, sites.fleet, block=1) as simulation:
        state = simulation.init(SEED)
        for _ in range(3):
            state, _ = simulation.round(state)
    equal(state.server, coordinator.state.server)
    lines = [json.loads(line) for line in ends[1][1].splitlines()]
    assert [line["event"] for line in lines][-1] == "ended"
    trained = [line for line in lines if line["event"] == "training"]
    assert [(line["job"], line["version"], line["agent"]) for line in trained] == [(2, 1, 1), (3, 2, 1)]
    assert {line["run"] for line in trained} == {RUN}
    assert "agent 0  The update of job 3 leaves." in ends[0][1]
    kept = [path for path in tmp_path.rglob("kept-*/**/*") if path.is_file()]
    assert {path.name for path in kept} == {"state.safetensors", "facts.json", "last_run", "sent.jsonl"}
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_check_names_what_would_leave_and_log_what_left(tmp_path):
    sites = Sites(tmp_path)
    coordinator = sites.coordinator

    async def run():
        async with sites.listening():
            fine = await ended(await sites.begun(0, "--check"))
            as_json = await ended(await sites.begun(0, "--check", "--json"))
            coordinator.change = lambda agent, message: (
                Stop("The stages are [] here.", "other_federation", False) if isinstance(message, Welcome) else message
            )
            other = await ended(await sites.begun(0, "--check"))
            agent = await ended(await sites.begun(0))
            log = await ended(await sites.begun(0, "--log"))
            return fine, as_json, other, agent, log

    fine, as_json, other, agent, log = asyncio.run(run())
    assert fine[0] == 0, fine
    for part in ("value", "weight", "version", "protected by nothing", "agent 0 of 3"):
        assert part in fine[1]
    found = json.loads(as_json[1])
    assert found["agrees"]
    names = [each["name"] for each in found["would_leave"]]
    assert names == ["digest", "versions", "value", "weight", "version", "failure"]
    assert not [message for _, message in coordinator.heard if isinstance(message, Sent)]
    assert (other[0], agent[0]) == (2, 2)
    assert "The stages are [] here." in other[1]
    assert "error: The stages are [] here." in agent[2]
    assert log[0] == 0
    assert log[1].splitlines()[-1].startswith("6 messages, ")  # twice Hello and Leave, then twice Hello
    path = tmp_path / "kept-0" / "sent.jsonl"
    path.write_text(path.read_text().replace('"kind": "Leave"', '"kind": "Beat"', 1))
    code, _, err = asyncio.run(changed(sites))
    assert code == 2
    assert "The log was changed after it was written" in err
    assert "Traceback" not in err


async def changed(sites):
    return await ended(await sites.begun(0, "--log"))


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ("give_up_s = 0", 1, "There was no coordinator for 0 seconds."),
        ("sed = 1", 2, "sed is 1, but it is not a key of a site."),
        ('[may_leave]\npayload = ["gradient"]', 2, "lets out updates of the kind 'delta'"),
    ],
)
def test_other_ends_have_one_sentence_and_their_code(more, code, text, tmp_path):
    sites = Sites(tmp_path)
    sites.coordinator.address = "127.0.0.1:9"

    async def run():
        return await ended(await sites.begun(0, more=f"{more}\n"))

    found, _, err = asyncio.run(run())
    assert found == code
    assert text in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_ctrl_c_ends_an_agent_without_a_coordinator_with_130(tmp_path):
    sites = Sites(tmp_path)
    sites.coordinator.address = "127.0.0.1:9"

    async def run():
        agent = await sites.begun(0)
        while b"disconnected" not in (line := await agent.stdout.readline()) and b"next attempt" not in line:
            assert line, await agent.communicate()
        agent.send_signal(signal.SIGINT)
        return await ended(agent)

    code, out, err = asyncio.run(run())
    assert code == 130, (out, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_leaves_does_not_end_an_agent(options, tmp_path):
    sites = Sites(tmp_path)
    sites.coordinator.address = "127.0.0.1:9"

    async def run():
        agent = await sites.begun(0, *options)
        assert b"next attempt" in await agent.stdout.readline()
        agent.stdout._transport.close()  # as `head -1` does
        await asyncio.sleep(3)  # in which it has tried again, and said so
        running = agent.returncode is None
        agent.send_signal(signal.SIGTERM)
        return running, await ended(agent)

    running, (code, _, err) = asyncio.run(run())
    assert running, err
    assert (code, err) == (143, "")
