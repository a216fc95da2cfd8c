"""The end of a coordinator's sessions, whatever its tasks make of being cancelled."""

import asyncio
import threading

from fedrl.network.bridge import Bridge
from fedrl.transport.local import LocalTransport


class Nobody:
    def answer(self, name, hello):
        raise AssertionError("nobody comes")


def test_a_session_that_loses_its_first_cancellation_does_not_keep_the_bridge_open():
    bridge, begun, ends = Bridge(LocalTransport(), "closing"), threading.Event(), []

    async def deaf():
        begun.set()
        for _ in range(2):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                ends.append("cancelled")

    bridge.serve(Nobody(), 1, 100)
    asyncio.run_coroutine_threadsafe(deaf(), bridge._loop)
    assert begun.wait(30)
    bridge.close()
    assert ends == ["cancelled", "cancelled"]
    assert bridge._loop.is_closed()
