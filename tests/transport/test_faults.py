"""Networks and peers that fail, over gRPC: how soon each end notices, and what it says."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrl.transport.seam import LinkClosedError
from tests.support.links import end_of, linked, listening, over_grpc, run
from tests.support.relay import Recording, Relay, Weather

SOON_S, NOTICED_S = 1.0, 3.5
"""What is allowed on a busy machine; on an idle one it takes 0.01 s and 1.5 to 1.7 s."""
ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def through_a_relay(ends, weather=None, **options):
    """An agent's end, the coordinator's, and the relay between them."""
    async with (
        listening(ends) as meeting,
        Relay(meeting.listener.address, weather, **options) as relay,
    ):
        agent = await ends.agent("site-1").connect(relay.address)
        there = await meeting.link()
        await agent.send(b"first")
        assert await there.receive() == b"first"
        try:
            yield agent, there, relay
        finally:
            await agent.close()


@pytest.mark.parametrize("fault", ["stall", "half_open", "reset", "cut"])
def test_both_ends_notice_what_happens_to_the_network(certs, fault):
    async def test():
        async with through_a_relay(over_grpc(certs)) as (agent, there, relay):
            begun = time.monotonic()
            getattr(relay, fault)()
            whys = await asyncio.gather(end_of(agent), end_of(there))
            took = time.monotonic() - begun
            assert took < (SOON_S if fault in ("reset", "cut") else NOTICED_S)
            for why in whys:
                assert "has not answered for 2 s" in why or "was cut" in why
            for link in (agent, there):
                with pytest.raises(LinkClosedError):
                    await link.send(b"x")

    run(test())


async def noticed(meeting, process, number):
    there = await asyncio.wait_for(meeting.came.get(), 30)
    assert await there.receive() == b"here"
    begun = time.monotonic()
    process.send_signal(getattr(signal, number))
    assert "was cut" in await end_of(there)
    assert time.monotonic() - begun < (NOTICED_S if number == "SIGSTOP" else SOON_S)
    if number == "SIGSTOP":
        process.send_signal(signal.SIGCONT)
        said, _ = await asyncio.to_thread(process.communicate, timeout=10)
        lines = said.splitlines()
        assert len(lines) == 2
        assert lines[0] == lines[1]
        assert process.returncode == 0


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP", "SIGTERM"])
def test_a_killed_or_stopped_agent_is_noticed_and_a_woken_one_notices_too(certs, number):
    async def test():
        async with listening(over_grpc(certs)) as meeting:
            command = [sys.executable, "-m", "tests.transport.stopped_agent", str(certs), "site-1"]
            with subprocess.Popen(
                [*command, meeting.listener.address],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"},
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                try:
                    await noticed(meeting, process, number)
                finally:
                    process.kill()  # else a stopped one would be waited for

    run(test())


def test_a_slow_link_is_not_taken_for_a_dead_one(certs):
    # 0.5 Mbit/s: a frame of 200 kB takes 3.2 s, more than a ping may take, in both directions at once.
    async def test():
        async with through_a_relay(over_grpc(certs), Weather(bytes_per_s=62_500)) as (agent, there, _):
            frame = os.urandom(200_000)
            begun = time.monotonic()
            _, _, up, down = await asyncio.gather(
                agent.send(frame), there.send(frame), there.receive(), agent.receive()
            )
            assert up == down == frame
            assert time.monotonic() - begun > 2.5  # so it was slow

    run(test())


def test_delay_and_jitter_keep_the_order(certs):
    async def test():
        weather = Weather(delay_s=0.05, jitter_s=0.05)
        async with through_a_relay(over_grpc(certs), weather, seed=3) as (agent, there, _):
            frames = [os.urandom(20_000) for _ in range(20)]

            async def send():
                for frame in frames:
                    await agent.send(frame)

            sending = asyncio.ensure_future(send())
            assert [await there.receive() for _ in frames] == frames
            await sending

    run(test())


def test_a_bit_that_changes_on_the_way_ends_the_connection_and_no_wrong_frame_arrives(certs):
    async def test():
        for seed in range(5):
            async with through_a_relay(over_grpc(certs), seed=seed) as (agent, there, relay):
                relay.damage()
                with contextlib.suppress(LinkClosedError):
                    await agent.send(bytes(50_000))
                with pytest.raises(LinkClosedError):
                    await asyncio.wait_for(there.receive(), 5)

    run(test())


def test_a_short_stall_is_survived(certs):
    async def test():
        async with through_a_relay(over_grpc(certs)) as (agent, there, relay):
            relay.stall()
            await agent.send(b"second")
            await asyncio.sleep(0.4)
            relay.go_on()
            assert await there.receive() == b"second"

    run(test())


def test_one_agent_that_does_not_read_holds_up_no_other(certs):
    async def test():
        ends = over_grpc(certs)
        async with listening(ends) as meeting:
            lazy, busy = [await ends.agent(name).connect(meeting.listener.address) for name in ("site-1", "site-2")]
            to_lazy, to_busy = [await meeting.link() for _ in range(2)]

            async def flood():
                while True:
                    await to_lazy.send(bytes(500_000))

            flooding = asyncio.ensure_future(flood())
            await asyncio.sleep(0.2)
            begun = time.monotonic()
            for _ in range(50):
                await to_busy.send(b"ask")
                assert await busy.receive() == b"ask"
            assert time.monotonic() - begun < 2
            flooding.cancel()
            await asyncio.gather(lazy.close(), busy.close())

    run(test())


def test_the_session_of_an_agent_that_comes_again_ends_by_itself_and_the_new_one_works(certs):
    async def test():
        async with linked(over_grpc(certs)) as (first, there):
            await first.send(b"1")
            assert await there.receive() == b"1"
        async with linked(over_grpc(certs)) as (again, there):
            await again.send(b"2")
            assert await there.receive() == b"2"

    run(test())


def test_the_recorder_sees_no_content_in_what_passes_and_would_see_it_without_tls(certs):
    secret = b"parameters of a site" * 50

    async def test():
        async with through_a_relay(over_grpc(certs)) as (agent, there, relay):
            relay.recording = Recording()
            await agent.send(secret)
            assert await there.receive() == secret
            await there.send(secret)
            assert await agent.receive() == secret
            assert len(relay.recording) > 2 * len(secret)
            assert not relay.recording.found(secret[:20])

    async def plain():
        import grpc

        async def session(requests, context):
            del requests
            await context.write(await context.read())

        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler("s", {"m": grpc.stream_stream_rpc_method_handler(session)})
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with Relay(f"127.0.0.1:{port}") as relay:
            relay.recording = Recording()
            async with grpc.aio.insecure_channel(relay.address) as channel:
                call = channel.stream_stream("/s/m")()
                await call.write(secret)
                assert await call.read() == secret
            assert relay.recording.found(secret[:20])
        await server.stop(None)

    run(test())
    run(plain())
