"""Whose task it is: what a seat keeps over a cut, which receipt ends a task, and places that come back."""

import asyncio
from types import SimpleNamespace

from fedrl.network.bridge import Bridge
from fedrl.network.news import GONE
from fedrl.network.sessions import WINDOW
from fedrl.transport.local import LocalTransport
from fedrl.wire.frames import MOST_BODY
from fedrl.wire.protocol import Answer, Bid, Sent, Taken, Task, sent
from tests.network.test_hostile_agents import Meeting, heard, run, say, task, until


def test_a_bid_that_comes_again_after_its_answer_was_lost_is_answered_again():
    async def test():
        async with Meeting() as meeting:
            seat, link = meeting.sessions.seats[0], await meeting.ready(0)
            meeting.sessions.give([(0, *task(1))], [])
            assert (await heard(link, Task)).job == 1
            await say(link, Bid(1, 0, b"bid"))
            await until(lambda: meeting.news("bid"))
            meeting.sessions.answer([(0, Answer(1, True))])
            await link.close()  # the answer is lost
            await until(lambda: seat.outbox is None)
            again = await meeting.ready(0)
            assert (await heard(again, Task)).job == 1
            await say(again, Bid(1, 0, b"bid"))
            assert await heard(again, Answer) == Answer(1, True)
            assert len(meeting.news("bid")) == 1
            await say(again, Sent(1, 0, b"update"))
            await until(lambda: meeting.news("update"))

    run(test)


def test_the_task_of_a_bid_whose_update_is_not_wanted_is_over():
    async def test():
        async with Meeting() as meeting:
            link = await meeting.ready(0)
            meeting.sessions.give([(0, *task(1))], [])
            meeting.sessions.answer([(0, Answer(1, False))])
            assert await heard(link, Answer) == Answer(1, False)
            assert meeting.sessions.seats[0].task is None
            meeting.sessions.give([(0, *task(2))], [])
            assert (await heard(link, Task)).job == 2

    run(test)


def test_a_receipt_goes_to_its_agent_and_ends_the_task_of_its_job_alone():
    async def test():
        async with Meeting() as meeting:
            seats, links = meeting.sessions.seats, [await meeting.ready(number) for number in range(2)]
            meeting.sessions.give([(number, *task(2)) for number in range(2)], [])
            assert [(await heard(link, Task)).job for link in links] == [2, 2]
            late, refused = Taken(1, "late", ""), Taken(2, "refused", "it lies")
            meeting.sessions.give([], [(0, late), (1, refused)])
            assert [await heard(link, Taken) for link in links] == [late, refused]
            assert [seat.task is None for seat in seats[:2]] == [False, True]
            await links[0].close()
            await until(lambda: seats[0].outbox is None)
            assert (await heard(await meeting.ready(0), Task)).job == 2

    run(test)


def test_the_end_of_a_session_is_not_that_of_the_newer_one():
    async def test():
        async with Meeting() as meeting:
            first = await meeting.ready(0)
            newest = await meeting.ready(0)
            before = meeting.sessions.seats[0].outbox
            await first.close()
            await asyncio.sleep(0.1)
            assert meeting.sessions.seats[0].outbox is before
            assert not meeting.news(GONE)
            await newest.close()
            await until(lambda: meeting.news(GONE))

    run(test)


def test_a_connection_that_is_cut_in_an_update_gives_its_place_back():
    async def test():
        async with Meeting() as meeting:
            window, first = meeting.sessions.window, next(sent(Sent(1, 0, bytes(2 * MOST_BODY))))
            for number in range(WINDOW):
                link = await meeting.ready(number)
                await link.send(first)
                await until(lambda number=number: window._value == WINDOW - 1)
                await link.close()
                await until(lambda: window._value == WINDOW)

    run(test)


def test_ends_of_tasks_are_told_once_with_the_next_tasks_or_at_once_with_a_receipt():
    bridge, told = Bridge(LocalTransport(), "nowhere"), []
    bridge.sessions = SimpleNamespace(give="give")
    bridge._loop = SimpleNamespace(call_soon_threadsafe=lambda what, tasks, over: told.append((what, over)))
    bridge.ended([(0, None)])
    assert told == []
    bridge.give([])
    bridge.give([])
    receipt = Taken(1, "late", "")
    bridge.ended([(1, None), (2, receipt)])
    bridge.give([])
    assert told == [("give", over) for over in ([(0, None)], [], [(1, None), (2, receipt)], [])]
