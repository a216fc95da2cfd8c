"""Agents that are let in and do what no agent does: they flood, read nothing, keep places, and come a thousand times.

Whatever one of them does, the memory of the coordinator stays bounded, and others go on.
"""

import asyncio
import contextlib
import itertools
import json
import time

import jax
import pytest

import fedrl.network.outbox as outbox_module
import fedrl.network.sessions as sessions_module
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.network.bridge import Bridge
from fedrl.network.membership import MembershipCheck
from fedrl.network.outbox import MOST_WAITING, Outbox
from fedrl.network.rate_limit import MOST_UNREAD
from fedrl.network.sessions import LARGEST_HELLO, WINDOW, Sessions
from fedrl.transport.local import LocalTransport
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.frames import MOST_BODY, digest_of
from fedrl.wire.protocol import Beat, Failed, Hello, Reader, Ready, Sent, Stop, Taken, Task, Welcome, sent
from tests.engines.test_halves import FLEET
from tests.network.test_faults import FEDERATIONS

FEDERATION = FEDERATIONS["mean"]()
SETTING = jax.tree.map(lambda x: x[0], FLEET)
DIGEST = as_json(wire_digest(FEDERATION, SETTING))
HELLO = Hello("", 0, 0, json.dumps(DIGEST).encode())
AGENTS, LARGEST = 12, 4 << 20


class Meeting:
    """Sessions without a loop of a federation behind them, and a way to connect to them."""

    def __init__(self):
        bridge = Bridge(LocalTransport(), "nowhere", run=lambda: "0" * 32)
        bridge.run = "0" * 32
        self._bridge, self._news = bridge, []
        check = MembershipCheck(FEDERATION, SETTING, AGENTS, bridge, lambda name: int(name.partition("-")[2]))
        self.sessions = Sessions(check, AGENTS, LARGEST, bridge.news, bridge.observer)
        self.address = f"hostile-{id(self)}"
        self.links = []

    async def __aenter__(self):
        self.listener = await LocalTransport().listen(self.address, self.sessions.session)
        return self

    async def __aexit__(self, *error):
        for link in self.links:
            await link.close()
        await self.listener.close()

    def news(self, kind):
        """All news of a kind so far."""
        self._news += self._bridge.wait(0.0)
        return [each for each in self._news if each.kind == kind]

    async def link(self, number):
        self.links.append(await LocalTransport(f"site-{number}").connect(self.address))
        return self.links[-1]

    async def ready(self, number):
        """An agent that is let in, and ready."""
        link = await self.link(number)
        await say(link, HELLO)
        assert isinstance(await heard(link), Welcome)
        await say(link, Ready(1.0))
        await until(lambda: self.sessions.seats[number].ready)
        return link


async def say(link, message):
    for frame in sent(message):
        await link.send(frame)


async def heard(link, kind=None):
    reader = Reader(1 << 24)
    while True:
        message = reader.take(await asyncio.wait_for(link.receive(), 20))
        if message is not None and (kind is None or isinstance(message, kind)):
            return message


async def ended(link):
    """Wait for the end of a link, and return the last message."""
    last, reader = None, Reader(1 << 24)
    with contextlib.suppress(LinkClosedError):
        while True:
            last = reader.take(await asyncio.wait_for(link.receive(), 20)) or last
    return last


async def until(true, within_s=20.0):
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


def run(test):
    asyncio.run(asyncio.wait_for(test(), 60))


def task(job, size=1000):
    content = bytes([job % 256]) * size
    return Task(job, job - 1, 3, 1, 0.3, 0, "", content), digest_of(content)


@pytest.fixture
def quick(monkeypatch):
    """Time-outs of a test, in place of those of a network."""
    monkeypatch.setattr(outbox_module, "LINGER_S", 0.2)


class TestOutbox:
    def test_a_task_that_ended_before_its_turn_is_not_sent(self):
        async def test():
            current = [task(1)]
            outbox = Outbox(lambda: current[0])
            outbox.put_nowait(current[0])
            for job in range(2, 50):
                outbox.put_nowait((Taken(job - 1, "late", ""), None))
                current[0] = task(job)
                outbox.put_nowait(current[0])
                if job % 20 == 0:
                    current[0] = None
                    assert all([isinstance((await outbox.next())[0], Taken) for _ in range(19)])
            current[0] = task(50)
            outbox.put_nowait(current[0])
            outbox.finish(Stop("The run is complete.", "done", False))
            found = []
            while (item := await outbox.next()) is not None:
                found.append(item[0])
            assert [each.job for each in found if isinstance(each, Task)] == [50]
            assert isinstance(found[-1], Stop)

        run(test)

    def test_the_same_task_is_sent_once(self):
        async def test():
            given = task(1)
            outbox = Outbox(lambda: given)
            outbox.put_nowait(given)
            outbox.put_nowait(given)
            outbox.finish()
            assert await outbox.next() == given
            assert await outbox.next() is None

        run(test)


def test_an_agent_that_reads_no_task_makes_nothing_grow_and_then_gets_the_current_one():
    async def test():
        async with Meeting() as meeting:
            link = await meeting.ready(0)
            for job in range(1, 10 * MOST_WAITING):
                meeting.sessions.give([(0, *task(job, 100_000))], [])
                await asyncio.sleep(0)
                assert len(meeting.sessions.seats[0].outbox) <= 1
            jobs = [(await heard(link, Task)).job]
            while jobs[-1] != job:
                jobs.append((await heard(link, Task)).job)
            assert len(jobs) < 10  # those that were under way when it began to read

    run(test)


def test_an_agent_that_reads_no_receipt_is_let_go_and_may_come_again():
    async def test():
        async with Meeting() as meeting:
            await meeting.ready(0)
            for _ in range(2 * MOST_WAITING):
                meeting.sessions.give([], [(0, Taken(1, "late", ""))])
                await asyncio.sleep(0)
            await until(lambda: meeting.sessions.seats[0].outbox is None)
            again = await meeting.ready(0)
            meeting.sessions.give([(0, *task(1))], [])
            assert (await heard(again, Task)).job == 1

    run(test)


def test_sessions_that_a_newer_one_has_ended_are_over_although_nobody_reads_them(quick):
    async def test():
        async with Meeting() as meeting:
            before = len(asyncio.all_tasks())
            for _ in range(100):
                link = await meeting.ready(0)
                for _ in range(8):  # more than the link takes, so that the writer waits
                    meeting.sessions.seats[0].outbox.put_nowait((Taken(1, "late", ""), None))
            await until(lambda: len(asyncio.all_tasks()) < before + 10)
            # The newest one is alive.
            meeting.sessions.give([(0, *task(1))], [])
            assert (await heard(link, Task)).job == 1

    run(test)


def test_what_an_ended_session_still_says_does_not_count(quick):
    async def test():
        async with Meeting() as meeting:
            first = await meeting.ready(0)
            for _ in range(8):
                meeting.sessions.seats[0].outbox.put_nowait((Taken(1, "late", ""), None))
            second = await meeting.link(0)
            await say(second, HELLO)
            assert isinstance(await heard(second), Welcome)
            with contextlib.suppress(LinkClosedError):
                await say(first, Ready(1.0))
                await say(first, Sent(1, 0, b"x"))
            await asyncio.sleep(0.05)
            assert not meeting.sessions.seats[0].ready
            assert not meeting.news("update")

    run(test)


def test_an_agent_that_was_opted_out_is_gone_although_it_reads_nothing(quick):
    async def test():
        async with Meeting() as meeting:
            link = await meeting.ready(0)
            for _ in range(8):
                meeting.sessions.seats[0].outbox.put_nowait((Taken(1, "late", ""), None))
            meeting.sessions.opt_out("site-0")
            with contextlib.suppress(LinkClosedError):
                await say(link, Sent(1, 0, b"x"))
            await until(lambda: meeting.sessions.seats[0].outbox is None)
            assert not meeting.news("update")

    run(test)


def test_a_flood_of_updates_stays_with_its_agent_until_the_loop_has_taken_those_before():
    async def test():
        async with Meeting() as meeting:
            link, sent_so_far = await meeting.ready(0), []

            async def flood():
                for job in range(1, 200):
                    await say(link, Sent(job, 0, bytes(1000)) if job % 2 else Failed(job, ""))
                    sent_so_far.append(job)

            flooding = asyncio.ensure_future(flood())
            await asyncio.sleep(0.3)
            found = meeting.news("update") + meeting.news("failure")
            assert len(found) == MOST_UNREAD
            assert len(sent_so_far) < MOST_UNREAD + 10  # and those that the link holds
            meeting.sessions.give([], [(0, Taken(job, "late", "")) for job in range(MOST_UNREAD)])
            await until(lambda: len(meeting.news("update") + meeting.news("failure")) == 2 * MOST_UNREAD)
            other = await meeting.ready(1)  # nobody else is held up
            await say(other, Sent(1, 0, b"x"))
            await until(lambda: any(each.agent == 1 for each in meeting.news("update")))
            flooding.cancel()

    run(test)


def test_a_flood_of_beats_is_read_at_a_pace_that_costs_nothing(monkeypatch):
    monkeypatch.setattr(sessions_module, "MOST_BEATS", 5)

    async def test():
        async with Meeting() as meeting:
            link, count = await meeting.ready(0), itertools.count()

            async def flood():
                while True:
                    await say(link, Beat(1, next(count)))

            flooding = asyncio.ensure_future(flood())
            await asyncio.sleep(0.5)
            assert next(count) < 20
            flooding.cancel()

    run(test)


def parts(size=3 * MOST_BODY):
    return list(sent(Sent(1, 0, bytes(size))))


def test_agents_that_begin_an_update_and_stop_give_their_places_to_those_who_wait(monkeypatch):
    monkeypatch.setattr(sessions_module, "PART_S", 0.4)

    async def test():
        async with Meeting() as meeting:
            stalled = [await meeting.ready(number) for number in range(WINDOW)]
            for link in stalled:
                await link.send(parts()[0])
            await until(meeting.sessions.window.locked)
            await asyncio.sleep(1.0)
            # Nobody waits for their places: a slow link is not a lie.
            assert all(meeting.sessions.seats[number].ready for number in range(WINDOW))
            busy = await meeting.ready(WINDOW)
            for part in parts():
                await busy.send(part)
            await until(lambda: any(each.agent == WINDOW for each in meeting.news("update")))
            await until(lambda: any(seat.outbox is None for seat in meeting.sessions.seats[:WINDOW]))
            cut = [number for number in range(WINDOW) if meeting.sessions.seats[number].outbox is None]
            assert "other agents wait" in (await ended(stalled[cut[0]])).why

    run(test)


def test_beats_are_no_part_of_an_update(monkeypatch):
    monkeypatch.setattr(sessions_module, "PART_S", 0.4)

    async def test():
        async with Meeting() as meeting:
            meeting.sessions.window = asyncio.Semaphore(1)
            lying, waiting = [await meeting.ready(number) for number in range(2)]
            await lying.send(parts()[0])
            await until(meeting.sessions.window.locked)
            await waiting.send(parts()[0])

            async def beat():
                for step in itertools.count():
                    await say(lying, Beat(1, step))
                    await asyncio.sleep(0.1)

            beating = asyncio.ensure_future(beat())
            await until(lambda: meeting.sessions.refused)
            beating.cancel()
            for part in parts()[1:]:
                await waiting.send(part)
            await until(lambda: meeting.news("update"))

    run(test)


def test_of_the_connections_of_a_name_that_say_no_hello_only_the_newest_is_kept():
    async def test():
        async with Meeting() as meeting:
            half = next(iter(sent(Hello("", 0, 0, bytes(MOST_BODY + 1)))))
            before = len(asyncio.all_tasks())
            for _ in range(200):
                await (await meeting.link(0)).send(half)
                await asyncio.sleep(0)
            await until(lambda: len(asyncio.all_tasks()) < before + 10)
            other = await meeting.link(1)
            await other.send(half)
            assert (await meeting.ready(0)) is not None
            await asyncio.sleep(0.05)
            assert sum(link.peer == "coordinator" for link in meeting.links) == 202
            await other.send(list(sent(Hello("", 0, 0, bytes(MOST_BODY + 1))))[1])
            assert (await heard(other, Stop)).code == "bad_message"  # it was still listened to

    run(test)


HELLOS = {
    "a deep list": b"[" * (LARGEST_HELLO // 2) + b"]" * (LARGEST_HELLO // 2),
    "many lists": b"[" + b"[]," * (LARGEST_HELLO // 3 - 1) + b"[]]",
    "many keys": ("{" + ",".join(f'"{k}":{k}' for k in range(60_000)) + "}").encode(),
    "a number of a million digits": b"9" * LARGEST_HELLO,
    "many stages": json.dumps({**DIGEST, "parts": {**DIGEST["parts"], "stages": [["a", "0" * 64]] * 12_000}}).encode(),
}


@pytest.mark.parametrize("name", HELLOS)
def test_a_hello_of_a_megabyte_is_answered_at_once(name):
    async def test():
        async with Meeting() as meeting:
            link = await meeting.link(0)
            began = time.process_time()
            await say(link, Hello("", 0, 0, HELLOS[name]))
            assert (await heard(link, Stop)).code == "bad_message"
            assert time.process_time() - began < 10.0  # with run-time types; 0.4 s without

    run(test)
