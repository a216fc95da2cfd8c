"""A coordinator and agents over gRPC with mutual TLS, as they are used: the bits of a run in one process."""

import asyncio
import json
import math
import os
import subprocess
import sys
import threading

import pytest
import tomli_w

import fedrl
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.errors import ConfigError
from fedrl.runs.coordinate import coordinate
from fedrl.secure.messages import KINDS, MaskedValues
from fedrl.sites.agent import Backoff, SiteAgent
from fedrl.sites.check import check_coordinator, would_leave
from fedrl.sites.policy import MayLeave
from fedrl.sites.sent_log import NAME, read_log
from fedrl.transport.certificates import enrolment_of, issue, revoke
from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.transport.local import LocalTransport
from fedrl.wire.secure_sum import SumReply
from tests.network.test_coordinate import TABLES, same_bits
from tests.network.test_recorded import NotedTransport
from tests.sites.test_command import ROOT, ended
from tests.support.certified import authority, credentials

AGENTS, SEED = TABLES["federation"]["agents"], TABLES["seeds"][0]
NAMES = [f"site-{k}" for k in range(AGENTS)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process, in blocks of one agent."""
    tables = {**TABLES, "federation": {"agents": AGENTS, "block": 1, "clock": {}}}
    return fedrl.run(tables, tmp_path_factory.mktemp("alone") / "run", verbose=0)


class Hub:
    """A coordinator in a thread of its own, which agents find by certificates."""

    def __init__(self, folder, tables=TABLES, **options):
        self.certificates = authority(folder / "certificates", *NAMES)
        self._folder, self._tables, self._options = folder, tables, {"replayable": True} | options
        self._listening, self.address, self.result, self.fault = threading.Event(), "", None, None
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        enrolment = enrolment_of(self.certificates)

        def watch(bridge):
            self.address = bridge.address
            self._listening.set()

        try:
            self.result = coordinate(
                self._tables,
                self._folder / "run",
                GrpcTransport(credentials(self.certificates, "hub"), enrolment),
                "127.0.0.1:0",
                seat_of=enrolment.seat,
                watch=watch,
                stop=self.stop,
                verbose=0,
                **self._options,
            )
        except BaseException as fault:
            self.fault = fault
            self._listening.set()

    def __enter__(self):
        self._thread.start()
        assert self._listening.wait(120)
        if self.fault is not None:
            raise self.fault
        return self

    def __exit__(self, *error):
        if error[0] is not None:
            self.stop.set()
        self._thread.join(120)
        if self.fault is not None and error[0] is None:
            raise self.fault


def agent_at(hub, name, folder, notices, tables=TABLES, **options):
    experiment = build(load(tables))
    return SiteAgent(
        experiment.federation,
        lambda number: experiment.environment.params,
        GrpcTransport(credentials(hub.certificates, name)),
        hub.address,
        folder / name,
        notice=notices.append,
        backoff=Backoff(0.05, 0.2),
        **{"seed": SEED} | options,
    )


def run_all(agents):
    async def live():
        return await asyncio.wait_for(asyncio.gather(*(agent.run() for agent in agents)), 240)

    return asyncio.run(live())


def test_agents_over_grpc_have_the_bits_of_a_simulation(tmp_path, alone):
    notices = []
    with Hub(tmp_path) as hub:
        ends = run_all([agent_at(hub, name, tmp_path, notices) for name in NAMES])
    assert {end.code for end in ends} == {"done"}
    same_bits(alone, hub.result)
    assert not [n.text for n in notices if n.event in ("wrong_message", "other_verdict", "begun_anew")]


HIDDEN = {"name": "ring_sum", "largest": 64.0, "minimum": 2, "protocol": "masks", "phase_s": 20.0}
SUMMED = {
    **TABLES,
    "federation": {"agents": AGENTS, "aggregator": {"name": "mean", "weighting": "uniform"}, "summation": HIDDEN},
}


def test_secure_sums_over_grpc_have_the_bits_of_a_simulation(tmp_path):
    federation = SUMMED["federation"]
    alone = fedrl.run({**SUMMED, "federation": {**federation, "block": 1, "clock": {}}}, tmp_path / "alone", verbose=0)
    notices = []
    with Hub(tmp_path, SUMMED) as hub:
        ends = run_all([agent_at(hub, name, tmp_path, notices, SUMMED) for name in NAMES])
    assert {end.code for end in ends} == {"done"}, ends
    same_bits(alone, hub.result)
    assert not [n.text for n in notices if n.event in ("wrong_message", "declined", "begun_anew")]
    for name in NAMES:
        sent = read_log(tmp_path / name / NAME)
        kinds = [record.kind for record in sent.records]
        assert not sent.fault
        # Keys with the message that a job is done; shares, masked vector, tags and opened shares of each of five sums.
        assert (kinds.count("JobDone"), kinds.count("SumReply")) == (TABLES["rounds"], 4 * TABLES["rounds"])
        assert not {"Sent", "Bid"} & set(kinds)
        assert len(list((tmp_path / name).glob("*/masked.json"))) == 1
    records = [json.loads(line) for line in (hub.result.folder / "records.jsonl").read_text().splitlines()]
    assert all(record["bytes_up"] > 0 and record["messages_up"] == 4 * AGENTS for record in records), records
    leaving = {each.name: each for each in would_leave(build(load(SUMMED)).federation, MayLeave())}
    assert (leaving["value"].message, leaving["value"].protection) == ("SumReply", "a hidden sum")
    assert leaving["version"].message == leaving["fits"].message == "JobDone"
    with pytest.raises(ConfigError, match="this transport has none"):
        SiteAgent(build(load(SUMMED)).federation, lambda number: None, LocalTransport("site-0"), "x", tmp_path / "x")


def test_an_agent_that_is_stopped_after_its_masked_vector_sends_no_second_one(tmp_path):
    """Its next process has state, vector and note on its disk, and takes part again from the next version on."""
    notices, links = [], []

    def agent(hub, name):
        links.append(NotedTransport(GrpcTransport(credentials(hub.certificates, name))))
        agent = agent_at(hub, name, tmp_path, notices, SUMMED)
        agent._transport = links[-1]
        return agent

    async def live(hub):
        agents = [agent(hub, name) for name in NAMES]
        doing = [asyncio.ensure_future(each.run()) for each in agents]
        while not list((tmp_path / NAMES[0]).glob("*/masked.json")):
            await asyncio.sleep(0.001)
        agents[0].stop("now")
        first = await doing[0]
        doing[0] = asyncio.ensure_future(agent(hub, NAMES[0]).run())
        return first, await asyncio.wait_for(asyncio.gather(*doing), 200)

    with Hub(tmp_path, SUMMED) as hub:
        first, ends = asyncio.run(live(hub))
    assert first.code == "interrupted"
    assert {end.code for end in ends} == {"done"}, ends
    masked = [
        message.job
        for link in (links[0], links[-1])
        for message in link.messages()
        if isinstance(message, SumReply) and KINDS[message.content[4]] is MaskedValues
    ]
    assert sorted(masked) == sorted(set(masked))
    assert max(masked) == TABLES["rounds"]
    (note,) = (tmp_path / NAMES[0]).glob("*/masked.json")
    assert note.stat().st_mode & 0o777 == 0o600
    assert json.loads(note.read_text())["job"] == TABLES["rounds"]
    events = (hub.result.folder / "events.jsonl").read_text().splitlines()
    assert len(events) == TABLES["rounds"]


def test_each_site_draws_its_own_roots_unless_the_run_is_replayable(tmp_path, alone):
    with Hub(tmp_path, replayable=False) as hub:
        ends = run_all([agent_at(hub, name, tmp_path, [], seed=None) for name in NAMES])
    assert {end.code for end in ends} == {"done"}
    with pytest.raises(AssertionError):
        same_bits(alone, hub.result)
    roots = [path.read_bytes() for path in tmp_path.glob("site-*/*/roots")]
    assert len({root[i : i + 32] for root in roots for i in (0, 32)}) == 2 * AGENTS
    kept = b"".join(
        path.read_bytes() for path in tmp_path.glob("site-*/**/*") if path.is_file() and path.name != "roots"
    )
    for root in roots:
        for secret in (root[:32], root[32:]):
            assert secret not in kept
            assert secret.hex().encode() not in kept


def test_commands_over_grpc_have_the_bits_of_a_simulation_although_one_is_killed(tmp_path, alone):
    """`fedrl agent` as it is, with certificates of `fedrl certs`."""
    slow = {**TABLES, "federation": {"agents": AGENTS, "clock": {}}}
    (tmp_path / "experiment.toml").write_text(tomli_w.dumps(slow))

    async def live(hub):
        async def begun(name, *options):
            path = tmp_path / f"{name}.toml"
            path.write_text(
                f'coordinator = "{hub.address}"\ncertificates = "certificates/issued/{name}"\nfolder = "kept-{name}"\n'
                f'experiment = "experiment.toml"\nseed = {SEED}\n'
            )
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fedrl", "agent", str(path), *options),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env=os.environ | {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"},
            )

        checked = await ended(await begun(NAMES[0], "--check"))
        agents = [await begun(name, "--json") for name in NAMES]
        while (line := json.loads(await agents[0].stdout.readline()))["event"] != "sent":
            assert line
        agents[0].kill()
        await agents[0].wait()
        agents[0] = await begun(NAMES[0], "--json")
        return checked, [await ended(agent) for agent in agents]

    with Hub(tmp_path, slow) as hub:
        checked, ends = asyncio.run(live(hub))
    assert checked[0] == 0, checked
    assert "The coordinator runs the same federation: this site would be agent" in checked[1]
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    assert all("Traceback" not in err for _, _, err in ends)
    same_bits(alone, hub.result)


def test_other_federations_and_revoked_names_end_with_one_sentence(tmp_path):
    other = {**TABLES, "federation": {"agents": AGENTS, "stages": ["quantize"]}}
    notices = []
    with Hub(tmp_path) as hub:
        (end,) = run_all([agent_at(hub, NAMES[0], tmp_path, notices, other)])
        assert end.code == "other_federation"
        assert "The stages are nothing here and quantize" in end.why
        federation = build(load(other)).federation
        transport = GrpcTransport(credentials(hub.certificates, NAMES[0]))
        checked = asyncio.run(check_coordinator(federation, transport, hub.address, tmp_path / "check"))
        assert not checked.agrees
        assert "(other_federation)" in checked.text
        issue(hub.certificates, "site-9")
        revoke(hub.certificates, "site-9")
        (end,) = run_all([agent_at(hub, "site-9", tmp_path, notices, give_up_s=math.inf)])
        assert end.code == "refused"
        assert "revoked" in end.why
        hub.stop.set()
        run_all([agent_at(hub, name, tmp_path, notices, give_up_s=1.0) for name in NAMES])
