"""Down stages over a network: who is sent what, as bytes, and agents that keep the server's copy to the last bit."""

import asyncio
import contextlib
import json
import random
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import WireError
from fedrl.engines.down_content import APART, Copy, CopyId, DownCodec, DownContents, DownReader
from fedrl.engines.down_messages import DIFFERENCE, NOTHING, SAME, WHOLE
from fedrl.engines.halves.saved import load_beside
from fedrl.engines.inbox import Copied
from fedrl.engines.messages import messages
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import wire_digest
from fedrl.network.log import Corrected, ReplayClock, entries_of, line_of
from fedrl.server import normalized_momentum, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import afedpg, fed_buff, synchronous
from fedrl.sites.agent import Backoff, SiteAgent
from fedrl.sites.jobs import RunJobs
from fedrl.sites.memory import STATE
from fedrl.stages import quantize, sign, top_k
from fedrl.transport.local import LocalTransport
from tests.engines.test_halves import AGENTS, FLEET, SEED, VALLEY
from tests.network.test_bits import Sited
from tests.network.test_coordinate import World, bits, replayed
from tests.network.test_faults import assert_replayed
from tests.support.coordinating import FragileTransport, KilledError

STAGES = {"sign": (sign(),), "few": (top_k(0.3),), "8 bits": (quantize(8),)}


def federation_of(name="8 bits", **options):
    return federate(VALLEY, mean(), down_stages=STAGES[name], **options)


def equal(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


# --- messages --------------------------------------------------------------------------------------------------------


class Sender:
    """A server after some rounds, its last two copies, and the codecs of its messages."""

    def __init__(self, rounds, ahead=0.0, known=True):
        federation = federation_of()
        simulation = simulate(federation, FLEET, block=1)
        state = simulation.init(SEED)
        for _ in range(rounds):
            earlier = state.server.down
            state, _ = simulation.round(state)
        down = state.server.down
        sent = messages(federation, FLEET).sent
        self.wire, self.reader = DownCodec(federation, sent), DownReader(federation, sent)
        held, before = (jax.tree.map(np.asarray, each.held) for each in (down, earlier))
        self.before = Copy(rounds - 1, (before,))
        self.copy = Copy(rounds, (held, before) if ahead else (held,))
        self.broadcast = jax.tree.map(np.asarray, federation.broadcast(state.server))
        message = jax.tree.map(np.asarray, federation.downlink.message(down))
        copied = Copied(np.int32(rounds), down.size_bytes, self.copy.held, message, ahead)
        digest = self.wire.id_of(self.before).digest if known else None
        self.contents = DownContents(self.wire, self.broadcast, copied, lambda number: digest)
        self.difference_bytes = int(down.size_bytes)

    def read(self, kind, copy, number=None, change=lambda content: content):
        content = change(self.contents.encoded(kind)[0])
        ahead = self.contents.ahead
        return self.reader.read(content, copy, self.copy.number if number is None else number, ahead)


@pytest.fixture(scope="module")
def sender():
    return Sender(3)


def test_an_agent_is_sent_what_leads_to_the_copy_from_the_one_that_it_has(sender):
    now, before = sender.wire.id_of(sender.copy), sender.wire.id_of(sender.before)
    whole, rest = 4 * 8, 1 + 4
    for copy, kind, size, number in (
        (now, SAME, 0, 3),
        (before, DIFFERENCE, sender.difference_bytes, 2),
        (CopyId(3, ""), SAME, 0, 3),  # sent over this connection
        (CopyId(2, ""), DIFFERENCE, sender.difference_bytes, 2),
        (None, WHOLE, whole, NOTHING),
        (CopyId(3, before.digest), WHOLE, whole, NOTHING),  # a number without its bits
        (CopyId(2, now.digest), WHOLE, whole, NOTHING),
        (CopyId(1, ""), WHOLE, whole, NOTHING),
        (CopyId(4, now.digest), WHOLE, whole, NOTHING),
    ):
        content, _ = sender.contents.message(copy)
        assert (content[0], len(content)) == (kind, rest + size)
        assert sender.contents.after(copy) == CopyId(3, "")
        assert sender.contents.number_of(copy) == number


def test_a_copy_whose_digest_is_forgotten_is_sent_whole():
    sender = Sender(3, known=False)
    assert sender.contents.message(sender.wire.id_of(sender.before))[0][0] == WHOLE
    assert sender.contents.message(CopyId(2, ""))[0][0] == DIFFERENCE


@pytest.mark.parametrize("ahead", [0.0, 1.5])
def test_every_kind_makes_the_same_copy_and_the_same_parameters(ahead):
    sender = Sender(3, ahead)
    for kind, copy in ((SAME, sender.copy), (DIFFERENCE, sender.before), (DIFFERENCE, sender.copy), (WHOLE, None)):
        broadcast, after = sender.read(kind, copy)
        assert after.number == 3
        equal(after.held, sender.copy.held)
        assert int(broadcast.version) == int(sender.broadcast.version)
        if ahead:
            now, before = map(jax.tree.leaves, sender.copy.held)
            for x, c, b in zip(jax.tree.leaves(broadcast.params), now, before, strict=True):
                np.testing.assert_allclose(x, c + ahead * (c - b), rtol=1e-6)
        else:
            equal(broadcast.params, sender.copy.held[0])
    size = len(sender.contents.encoded(WHOLE)[0])
    assert size == 1 + 4 + 4 * 8 + (sender.difference_bytes if ahead else 0)
    assert size <= sender.wire.largest


def test_parameters_for_one_job_leave_the_copy_alone(sender):
    contents = DownContents(sender.wire, sender.broadcast, None, lambda number: None)
    mine = CopyId(2, "0" * 32)
    content, _ = contents.message(mine)
    assert (content[0], contents.after(mine)) == (APART, mine)
    broadcast, copy = sender.reader.read(content, sender.before, 0, 0.0)
    assert copy is sender.before
    equal(broadcast.params, sender.broadcast.params)


def test_a_copy_survives_its_bytes(sender):
    for copy in (sender.copy, Sender(3, 1.5).copy):
        equal(sender.wire.held_of(sender.wire.bytes_of(copy.held)), copy.held)


LIES = {
    "a difference to a copy that is not there": (DIFFERENCE, None, 3, "sends the difference to copy 3.* has none"),
    "a difference to another copy": (DIFFERENCE, "before", 5, "sends the difference to copy 5, .* has copy 2"),
    "nothing new of another copy": (SAME, "before", 3, "that copy 3 has not changed, .* has copy 2"),
    "nothing new of no copy": (SAME, None, 3, "has none"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_message_that_does_not_fit_is_one_sentence(lie, sender):
    kind, copy, number, said = LIES[lie]
    with pytest.raises(WireError, match=said):
        sender.read(kind, getattr(sender, copy) if copy else None, number)


@pytest.mark.parametrize("change", [lambda x: b"", lambda x: b"\x07" + x[1:], lambda x: x[:-1], lambda x: x + b"x"])
@pytest.mark.parametrize("kind", [SAME, DIFFERENCE, WHOLE])
def test_damaged_messages_are_refused_and_change_nothing(kind, change, sender):
    with pytest.raises(WireError):
        sender.read(kind, sender.before if kind == DIFFERENCE else sender.copy, change=change)


@pytest.mark.parametrize("ahead", [float("nan"), -1.0, 2.0])
def test_a_look_ahead_that_is_none_or_changes_is_refused(ahead):
    sender = Sender(3, 1.5)
    sender.read(WHOLE, None)
    sender.contents.ahead = ahead
    with pytest.raises(WireError, match="looks ahead by"):
        sender.read(WHOLE, None)


# --- agents that are cut off, killed, and away -----------------------------------------------------------------------


class Site:
    """The agent of a site whose connection breaks, and whose process ends, at random moments."""

    def __init__(self, federation, fleet, number, seed, address, bids, folder=None, faults=0, rate=0.05):
        self.federation, self.fleet, self.number, self.seed, self.address = federation, fleet, number, seed, address
        self.folder, self.faults, self.rate, self.kills = folder / f"site-{number}", faults, rate, 0
        self.dice, self.notices, self.contents = random.Random(100 * number + seed), [], []

    def passed(self):
        """Cut the connection or end the process, rarely."""
        if not self.faults or self.dice.random() > self.rate:
            return False
        self.faults -= 1
        if self.dice.random() < 0.5:
            return True
        self.kills += 1
        raise KilledError

    async def live(self):
        moments = SimpleNamespace(passed=self.passed)
        while True:
            agent = SiteAgent(
                self.federation,
                lambda k: jax.tree.map(lambda x: x[k], self.fleet),
                FragileTransport(f"site-{self.number}", moments)
                if self.faults
                else LocalTransport(f"site-{self.number}"),
                self.address,
                self.folder,
                seed=self.seed,
                backoff=Backoff(0.01, 0.02),
                notice=self.notices.append,
            )
            self.process = agent
            with contextlib.suppress(KilledError):
                return await agent.run()

    @property
    def waiting(self):
        """Number of tasks that wait while one is trained."""
        return self.process._work._tasks.qsize()


class Sites(Sited):
    agent = Site


@pytest.mark.parametrize("stages", STAGES)
def test_sites_that_are_cut_off_and_killed_have_the_bits_and_bytes_of_the_log(stages, tmp_path):
    federation, plan = federation_of(stages), Scheduler(synchronous(), selection=uniform(3))
    behaviour = {k: {"folder": tmp_path, "faults": 6 * (k < 3)} for k in range(AGENTS)}
    with Sites(federation, FLEET, scheduler=plan, patience_s=1.0, behaviour=behaviour) as sited:
        sited.rounds(20)
        assert_replayed(federation, sited, plan, 20)
    assert sum(agent.kills for agent in sited.agents) >= 2
    digest = wire_digest(federation, VALLEY.environment.params).digest
    for agent in sited.agents:
        # The copy is in the file of the state, so it is that of the job which was stored last.
        kept = load_beside(agent.folder / sited.bridge.run / STATE, "agent", digest)
        assert kept["copy_number"].tolist() == [kept["job"][1]]
    assert not [n.text for agent in sited.agents for n in agent.notices if n.event == "wrong_message"]


def test_a_task_that_is_not_trained_is_received_for_its_difference(tmp_path, monkeypatch):
    """Two more tasks come while agent 0 trains, and only the second one of them is trained."""
    federation, plan, trained = federation_of(), synchronous(deadline_s=0.3), []
    training = RunJobs.train

    def slow(self, task, verdict):
        if self.welcome.agent == 0:
            trained.append(task.job)
            until = time.monotonic() + 60.0
            while task.job == 2 and sited.agents[0].waiting < 2 and time.monotonic() < until:
                time.sleep(0.01)
        return training(self, task, verdict)

    monkeypatch.setattr(RunJobs, "train", slow)
    with Sites(federation, FLEET, scheduler=plan, behaviour={k: {"folder": tmp_path} for k in range(AGENTS)}) as sited:
        while max(trained, default=0) < 5:
            sited.rounds(1)
    assert set(range(1, 5)) - set(trained)
    assert not [n.text for agent in sited.agents for n in agent.notices if n.event == "wrong_message"]


def test_a_copy_that_was_restored_from_a_backup_is_noticed():
    """Its number is that of the server's copy, and its bits are not."""
    federation, kinds = federation_of(), []

    async def restore(agent, link, task):
        if task.version >= 4:
            kinds.append(task.content[0])
        if len(kinds) != 1:
            return False
        agent.copy = Copy(4, tuple(jax.tree.map(lambda x: x + 1, each) for each in agent.copy.held))
        await link.close()
        return True

    with Sited(federation, FLEET, patience_s=60.0, behaviour={2: {"lose": restore}}) as sited:
        sited.rounds(8)
        assert_replayed(federation, sited, Scheduler(synchronous()), 8)
    assert kinds == [DIFFERENCE, WHOLE, *[DIFFERENCE] * 3]


def test_an_agent_that_was_away_is_counted_with_what_it_is_sent():
    federation, plan = federation_of(), Scheduler(synchronous())

    async def goes(agent, link, task):
        if task.version != 3 or agent.trained.count("away"):
            return False
        agent.trained.append("away")
        await link.close()
        await asyncio.sleep(1.0)
        agent.copy = None  # it begins with an empty folder
        return True

    with Sited(federation, FLEET, patience_s=0.2, behaviour={1: {"lose": goes}}) as sited:
        while sited.agents[1].trained.count("away") == 0 or len(sited.agents[1].contents) < 5:
            sited.rounds(1)
        assert_replayed(federation, sited, plan, len(sited.seen))
    found = [entry for entry in sited.simulation_clock.log if isinstance(entry, Corrected)]
    assert Corrected([1], [NOTHING]) in found


SCHEDULES = {
    "FedBuff": (fed_buff(2), {}),
    "AFedPG": (afedpg(0.5), {"payload": "gradient", "server_optimizer": normalized_momentum(0.1, 0.5)}),
    "delays": (Scheduler(delay_rounds=(0, 1, 2, 2, 0)), {}),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_under_every_schedule_the_bytes_that_travel_are_those_that_are_counted(schedule):
    made, options = SCHEDULES[schedule]
    plan = made if isinstance(made, Scheduler) else Scheduler(made)
    federation = federation_of(**options)
    with Sited(federation, FLEET, scheduler=plan) as sited:
        sited.rounds(15)
        assert_replayed(federation, sited, plan, 15)
        counted = sum(found.bytes_down for found in sited.seen)
        given, until = sum(found.messages_down for found in sited.seen), time.monotonic() + 60.0
        while sum(len(agent.contents) for agent in sited.agents) < given and time.monotonic() < until:
            time.sleep(0.01)  # jobs that were given last are still under way
        travelled = sum(len(content) for agent in sited.agents for content in agent.contents)
    assert travelled == counted


def test_the_log_of_corrections_is_read_as_it_was_written():
    entries = [Corrected([3, 1], [NOTHING, 7])]
    clock, known = ReplayClock(entries_of([line_of(1, entries)])), np.zeros(5, np.int32)
    clock.correct(known, np.array([1, 3]), None)
    assert known.tolist() == [0, 7, 0, -1, 0]
    assert clock.finished
    clock.correct(known, np.array([1, 3]), None)
    assert known.tolist() == [0, 7, 0, -1, 0]


# --- coordinators that are started again -----------------------------------------------------------------------------


TABLES = {
    "name": "corridor",
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_steps": 16},
    "federation": {"agents": 3, "down_stages": [{"name": "quantize", "bits": 8}]},
    "rounds": 9,
    "seeds": [7],
    "baselines": {},
    "evaluation": {"episodes": 2},
}


@pytest.mark.parametrize("schedule", [{}, {"clock": {}, "schedule": {"name": "fed_buff", "buffer_size": 2}}])
def test_a_coordinator_that_is_started_again_counts_and_computes_what_its_log_says(schedule, tmp_path):
    tables = {**TABLES, "federation": TABLES["federation"] | schedule}
    world, result = World(tables), None
    for last in (3, 6, 100):
        stop = threading.Event()

        def sink(event, last=last, stop=stop):
            if event.get("round") == last:
                stop.set()

        result = world.coordinate(tables, tmp_path / "run", stop=stop, sinks=[sink])
    found, bytes_down = bits(result), []
    expected = replayed(tables, tmp_path / "run", 9, bytes_down)
    for one, other in zip([found[name] for name in sorted(found)], expected, strict=True):
        np.testing.assert_array_equal(one, other)
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert [record["bytes_down"] for record in records] == bytes_down
    kinds = {content[0] for agent in world.agents for content in agent.contents}
    assert DIFFERENCE in kinds
    if not schedule:
        # The digests of its copies are in the checkpoint, so it knows the copies that agents have had since then.
        assert [content[0] for agent in world.agents for content in agent.contents].count(WHOLE) == 3
