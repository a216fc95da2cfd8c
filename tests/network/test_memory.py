"""What a coordinator keeps of an update once it has been handed on: nothing."""

import asyncio
import sys

import numpy as np

from fedrl.aggregators import mean
from fedrl.core.types import Broadcast, Update
from fedrl.engines.halves.adding import CACHED, Adding, lanes
from fedrl.federation.federate import federate
from fedrl.network.news import UPDATE, NewsQueue
from fedrl.network.observer import Observer
from fedrl.network.sessions import Sessions
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Hello, Reader, Ready, Sent, Welcome, sent
from tests.engines.test_halves import FLEET, VALLEY
from tests.network.test_bits import Sited


class Everybody:
    def answer(self, name, hello):
        del name, hello
        return Welcome("0" * 32, "run", 0, 1, 0, 0, False, 1.0)


def test_a_session_keeps_no_update_that_it_has_handed_on():
    news = NewsQueue()

    async def update():
        sessions = Sessions(Everybody(), 1, 10_000, news, Observer())
        listener = await LocalTransport().listen("memory", sessions.session)
        link = await LocalTransport("a").connect("memory")
        for message in (Hello("", 0, 0, b"any"), Ready(1.0), Sent(1, 0, bytes(1000))):
            for frame in sent(message):
                await link.send(frame)
        assert isinstance(Reader(100).take(await link.receive()), Welcome)
        found = []
        while not found:
            await asyncio.sleep(0.01)
            found = [item for item in news.take(0.0) if item.kind == UPDATE]
        await asyncio.sleep(0.05)  # the session waits for the next message
        content = found[0].content
        del found
        holders = sys.getrefcount(content)
        await link.close()
        await listener.close()
        return content, holders

    content, holders = asyncio.run(asyncio.wait_for(update(), 30.0))
    assert content == bytes(1000)
    assert holders == 2, "something besides this test and getrefcount's argument holds the update"


def test_large_updates_are_read_as_soon_as_there_are_as_many_as_are_read_together():
    large = Update(np.zeros(CACHED // 4, np.float32), np.float32(1.0), np.int32(0))
    counts = []

    def read(sent, stacked):
        del sent
        counts.append(len(stacked.weight))
        return stacked

    adding = Adding(read, Broadcast((), (), np.int32(0)), lanes(large, 100))
    for _ in range(9):
        adding.add(large)
    assert counts == [4, 4]
    adding.add_up()
    assert counts == [4, 4, 1]


def test_a_round_with_a_missing_agent_compiles_nothing():
    """The programs for every number of updates are there before the first job is given."""
    federation = federate(VALLEY, mean())
    with Sited(federation, FLEET) as sited:
        read = sited.simulation_clock._receive.__self__._read
        compiled = read._cache_size()
        assert compiled >= 4  # for 1, 2, 4 and 8 updates
        sited.rounds(2)
        assert read._cache_size() == compiled
        assert sited.bridge.version == 1  # of the second round, as a welcome names it
