"""SendingLimit that are held for a time."""

import asyncio

import pytest

from fedrl.network.sending_limit import SendingLimit


def test_no_more_hold_a_place_than_there_are():
    async def test():
        places, here, most = SendingLimit(2, 60.0), 0, 0

        async def one():
            nonlocal here, most
            async with places.held():
                here += 1
                most = max(most, here)
                await asyncio.sleep(0.01)
                here -= 1

        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(7))), 30.0)
        return most

    assert asyncio.run(test()) == 2


def test_who_takes_too_long_holds_up_nobody_and_frees_its_place_once():
    async def test():
        places, go = SendingLimit(1, 0.05), asyncio.Event()

        async def slow():
            async with places.held():
                await go.wait()

        waits = asyncio.ensure_future(slow())
        await asyncio.sleep(0)
        async with asyncio.timeout(30.0), places.held():
            go.set()
            await waits
            # The slow one has gone, and the place is still taken.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), places.held():
                    pass

    asyncio.run(test())


def test_an_error_and_a_cancellation_free_the_place():
    async def test():
        places = SendingLimit(1, 60.0)
        with pytest.raises(ZeroDivisionError):
            async with places.held():
                raise ZeroDivisionError
        waits = asyncio.ensure_future(places.held().__aenter__())
        await asyncio.sleep(0)
        later = asyncio.ensure_future(places.held().__aenter__())
        await asyncio.sleep(0)
        later.cancel()
        await waits
        assert places._free.locked()

    asyncio.run(test())
