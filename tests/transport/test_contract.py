"""What every transport keeps, over queues in this process and over gRPC with mutual TLS."""

import asyncio
import os

import pytest

from fedrl.core.errors import ConfigError
from fedrl.transport.seam import Link, LinkClosedError, Listener, Transport
from fedrl.wire.frames import LARGEST
from tests.support.links import end_of, linked, listening, local, over_grpc, run

FEW = 2


@pytest.fixture(params=["local", "grpc"])
def ends(request, certs, tmp_path):
    return local(tmp_path) if request.param == "local" else over_grpc(certs)


async def end_of_sending(link):
    for _ in range(100):
        await link.send(b"x")


class TestContract:
    def test_the_parts_have_the_methods_of_the_seam(self, ends):
        async def test():
            async with listening(ends) as meeting:
                agent = await ends.agent("site-1").connect(meeting.listener.address)
                there = await meeting.link()
                assert isinstance(ends.coordinator, Transport)
                assert isinstance(meeting.listener, Listener)
                assert isinstance(agent, Link)
                assert isinstance(there, Link)
                await agent.close()

        run(test())

    def test_frames_arrive_whole_and_in_their_order_in_both_directions_at_once(self, ends):
        frames = [bytes([i]) * (1 + 997 * i) for i in range(100)]

        async def send(link):
            for frame in frames:
                await link.send(frame)

        async def receive(link):
            await asyncio.sleep(0.1)  # so that some frames wait for it
            return [await link.receive() for _ in frames]

        async def test():
            async with linked(ends) as (agent, there):
                _, _, up, down = await asyncio.gather(send(agent), send(there), receive(there), receive(agent))
                assert up == frames
                assert down == frames

        run(test())

    def test_a_frame_of_the_largest_size_and_an_empty_one_arrive(self, ends):
        async def test():
            async with linked(ends) as (agent, there):
                for frame in (os.urandom(LARGEST), b"", b"x"):
                    await agent.send(frame)
                    assert await there.receive() == frame

        run(test())

    def test_much_content_arrives_unchanged(self, ends):
        part, parts = os.urandom(512 * 1024), 40

        async def test():
            async with linked(ends) as (agent, there):

                async def send():
                    for i in range(parts):
                        await agent.send(bytes([i]) + part)

                sending = asyncio.ensure_future(send())
                for i in range(parts):
                    assert await there.receive() == bytes([i]) + part
                await sending

        run(test())

    def test_the_peer_is_the_name_of_the_agent(self, ends):
        async def test():
            async with listening(ends) as meeting:
                links = [await ends.agent(name).connect(meeting.listener.address) for name in ("site-2", "site-1")]
                assert [(await meeting.link()).peer for _ in links] == ["site-2", "site-1"]
                assert links[0].peer in ("hub", "coordinator")
                for link in links:
                    await link.close()

        run(test())

    @pytest.mark.parametrize("closes", ["agent", "coordinator"])
    def test_what_was_sent_before_closing_arrives_and_then_the_other_end_hears_of_it(self, ends, closes):
        async def test():
            async with linked(ends) as (agent, there):
                mine, other = (agent, there) if closes == "agent" else (there, agent)
                for frame in (b"1", b"2"):
                    await mine.send(frame)
                await mine.close()
                assert [await other.receive(), await other.receive()] == [b"1", b"2"]
                with pytest.raises(LinkClosedError):
                    await other.receive()
                with pytest.raises(LinkClosedError):
                    await other.receive()
                with pytest.raises(LinkClosedError):
                    await end_of_sending(other)

        run(test())

    def test_after_closing_nothing_is_sent_or_received_and_closing_again_does_nothing(self, ends):
        async def test():
            async with linked(ends) as (agent, there):
                await there.send(b"never asked for")
                await agent.close()
                await agent.close()
                with pytest.raises(LinkClosedError, match="closed"):
                    await agent.receive()
                with pytest.raises(LinkClosedError, match="closed"):
                    await agent.send(b"x")

        run(test())

    @pytest.mark.parametrize("closes", ["agent", "coordinator"])
    def test_closing_wakes_those_who_wait_at_both_ends(self, ends, closes):
        async def test():
            async with linked(ends) as (agent, there):
                waiting = [asyncio.ensure_future(end_of(link)) for link in (agent, there)]
                await asyncio.sleep(0.05)
                await (agent if closes == "agent" else there).close()
                for why in await asyncio.gather(*waiting):
                    assert "closed" in why

        run(test())

    def test_a_connection_ends_when_its_session_returns(self, ends):
        async def test():
            async with listening(ends, stay=False) as meeting:
                agent = await ends.agent("site-1").connect(meeting.listener.address)
                assert "closed" in await end_of(agent)
                await agent.close()

        run(test())

    def test_a_sender_waits_while_the_other_end_asks_for_nothing(self, ends):
        async def test():
            async with linked(ends) as (agent, there):
                sent = 0
                frame = bytes(256 * 1024)

                async def send():
                    nonlocal sent
                    while True:
                        await agent.send(frame)
                        sent += 1

                sending = asyncio.ensure_future(send())
                await asyncio.sleep(0.5)
                before = sent
                await asyncio.sleep(0.3)
                assert 1 <= sent == before <= 16  # the window: a few frames, and the sender stands still
                for _ in range(before):
                    await there.receive()
                await asyncio.sleep(0.2)
                assert sent > before
                sending.cancel()
                await there.close()  # else the agent would wait for its last frames to be taken

        run(test())

    def test_a_receive_that_is_given_up_loses_nothing(self, ends):
        async def test():
            async with linked(ends) as (agent, there):
                for i in range(30):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(there.receive(), 0.001)
                    await agent.send(bytes([i]))
                    if i % FEW:
                        await asyncio.sleep(0.002)
                    assert await there.receive() == bytes([i])

        run(test())

    def test_many_tasks_may_send_on_one_link(self, ends):
        async def test():
            async with linked(ends) as (agent, there):
                sending = asyncio.gather(*(agent.send(bytes([i]) * 1000) for i in range(50)))
                came = [await there.receive() for _ in range(50)]
                await sending
                assert sorted(came) == [bytes([i]) * 1000 for i in range(50)]

        run(test())

    def test_many_links_at_once_are_kept_apart(self, ends):
        async def test():
            async with listening(ends) as meeting:
                links = [await ends.agent(f"many-{i}").connect(meeting.listener.address) for i in range(20)]
                there = {link.peer: link for link in [await meeting.link() for _ in links]}
                await asyncio.gather(*(link.send(str(i).encode()) for i, link in enumerate(links)))
                for i in range(20):
                    assert await there[f"many-{i}"].receive() == str(i).encode()
                await asyncio.gather(*(link.close() for link in links))

        run(test())

    def test_nobody_listens_and_a_taken_address_are_said(self, ends):
        async def test():
            async with listening(ends) as meeting:
                address = meeting.listener.address
                ends.address = address
                with pytest.raises(ConfigError, match="listens there already"):
                    await ends.coordinator.listen(address, end_of)
            with pytest.raises(LinkClosedError, match=r"[Nn]obody listens"):
                await ends.agent("site-1").connect(address)

        run(test())

    def test_a_listener_that_closes_ends_all_links(self, ends):
        async def test():
            async with listening(ends) as meeting:
                links = [await ends.agent(name).connect(meeting.listener.address) for name in ("site-1", "site-2")]
                for _ in links:
                    await meeting.link()
                await meeting.listener.close()
                for link in links:
                    assert "closed" in await end_of(link)
                    await link.close()

        run(test())
