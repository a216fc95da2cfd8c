"""Sessions with agents: who is admitted, what is sent to each, and the news of them, in an event loop of asyncio.

    link --frames--> Reader --> Hello: membership --> Welcome or Stop
                                Ready, Bid, Sent, Failed, Leave --> news, for the loop of the federation
                                Credential, JobDone, SumReply, Declined, where sums hide updates
    give(tasks)  --> the task of each agent, sent at once or when the agent comes back
    answer(bids) --> whether to send the update, at once or when the bid comes again
    ask(requests) --> what a phase of a secure sum shows an agent, likewise

A session knows frames, messages and seats, and nothing about learning. An agent whose connection breaks keeps its task;
the same task is sent again when it is back, and it sends the same bytes again. The newest session of a name wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Protocol, TypeAlias, runtime_checkable

from fedrl.core.errors import SecureSumError, WireError
from fedrl.engines.down_content import CopyId, DownContents
from fedrl.network.news import FOR_LOOP, GONE, HERE, LEFT, MOVED, AgentNews, ForLoop, NewsQueue, news_of
from fedrl.network.observer import Observer
from fedrl.network.outbox import Outbox
from fedrl.network.rate_limit import MessageRateLimit
from fedrl.network.seat import Seat
from fedrl.network.sending_limit import SendingLimit
from fedrl.secure.credential import KnownSigners
from fedrl.transport.seam import Link, LinkClosedError
from fedrl.wire.frames import MOST_BODY
from fedrl.wire.protocol import (
    Answer,
    Beat,
    Bid,
    Failed,
    Hello,
    Leave,
    Message,
    Pause,
    Reader,
    Ready,
    Resume,
    Sent,
    Stop,
    Taken,
    Task,
    Welcome,
    one_line,
    sent,
)
from fedrl.wire.secure_sum import Credential, Declined, Invitation, JobDone, SumReply, SumRequest

HELLO_S = 10.0
"""Seconds in which an agent has to say who it is."""
LARGEST_HELLO = 1 << 20
"""The largest first message in bytes."""
FROM_AGENTS = (Hello, Ready, Beat, Sent, Failed, Leave, Bid)
IN_SUMS = (Hello, Ready, Beat, Failed, Leave, Credential, JobDone, SumReply, Declined)
"""The kinds of messages of agents; where sums hide updates, none that has an update."""
WINDOW = 8
"""The largest number of updates of more than one frame that are received at a time, over all agents."""
SENDING, SENDING_S = 8, 2.0
"""The largest number of tasks of more than one frame that are sent at a time, over all agents; one that takes more
seconds than that counts no more."""
MOST_BEATS = 32
"""The largest number of other messages that are read of an agent in a second."""
PART_S = 60.0
"""Seconds in which the next part of an update has to come if other agents wait to send theirs."""
OPTED_OUT = Stop("This agent takes part in the run no more.", "opted_out", False)

Given: TypeAlias = tuple[int, Task, bytes | DownContents]
"""Number of an agent, and its task as of `fedrl.network.outbox.Waiting`."""


@runtime_checkable
class Membership(Protocol):
    """Decides who takes part."""

    def answer(self, name: str, hello: Hello) -> Welcome | Stop:
        """Return the welcome of an agent with its number, or the reason why it is sent away."""


class Sessions:
    """All sessions of a coordinator. Except for `news`, everything here belongs to the thread of the event loop.

    Args:
        membership: Decides who takes part.
        agents: Number of seats.
        largest: The largest update in bytes.
        news: Where news go.
        observer: Who is told which connections this end breaks off.
        signers: The certified keys of agents, where sums hide updates: then no agent may send an update.
    """

    def __init__(
        self,
        membership: Membership,
        agents: int,
        largest: int,
        news: NewsQueue,
        observer: Observer,
        signers: KnownSigners | None = None,
    ) -> None:
        self._signers, self._kinds = signers, FROM_AGENTS if signers is None else IN_SUMS
        self._membership, self._largest, self._news, self._observer = membership, largest, news, observer
        self.seats = [Seat() for _ in range(agents)]
        self.window, self._sending = asyncio.Semaphore(WINDOW), SendingLimit(SENDING, SENDING_S)
        self.refused: dict[str, int] = {}
        """Number of connections that were sent away or broken off by this end, by code."""
        self._greeting: dict[str, Link] = {}  # by name, the connection whose first message has not come
        self._waiting = 0  # agents that wait for a place in the window
        self._stopped: Stop | None = None
        self._paused = False

    async def session(self, link: Link) -> None:
        """Hold one session, from the first message to the end of the connection."""
        if self._stopped is not None:
            await self._dismiss(link, self._stopped)
            return
        before, self._greeting[link.peer] = self._greeting.get(link.peer), link
        if before is not None:  # else an agent could have a thousand, each with half a Hello in memory
            await before.close()
        try:
            answer = await self._answered(link)
        except LinkClosedError:
            return
        finally:
            if self._greeting.get(link.peer) is link:
                del self._greeting[link.peer]
        if isinstance(answer, Stop):
            await self._dismiss(link, answer)
            return
        await self._held(link, answer)

    async def _answered(self, link: Link) -> Welcome | Stop:
        """Wait for the first message of an agent, and return the answer to it."""
        reader = Reader(LARGEST_HELLO, self._kinds)
        try:
            hello = await asyncio.wait_for(_next(link, reader), HELLO_S)
            if not isinstance(hello, Hello):
                raise WireError(f"A session began with {type(hello).__name__}, and has to begin with Hello.")
            answer = self._membership.answer(link.peer, hello)
            out = isinstance(answer, Welcome) and self.seats[answer.agent].out
            return OPTED_OUT if out else answer
        except TimeoutError:
            return Stop(f"No complete Hello came within {HELLO_S:g} s.", "bad_message", True)
        except WireError as fault:
            return Stop(one_line(str(fault)), "bad_message", False)

    async def _dismiss(self, link: Link, stop: Stop) -> None:
        self.refused[stop.code] = self.refused.get(stop.code, 0) + 1
        self._observer.tell("turned_away", f"{link.peer} was sent away ({stop.code}): {stop.why}", name=link.peer)
        with contextlib.suppress(LinkClosedError):
            for frame in sent(stop):
                await link.send(frame)
        await link.close()

    async def _held(self, link: Link, welcome: Welcome) -> None:
        number = welcome.agent
        seat = self.seats[number]
        if seat.outbox is not None:
            why = "Another session with this name began, and the newest one counts."
            seat.outbox.finish(Stop(why, "newer_session", False))
        outbox = Outbox(lambda: seat.task)
        seat.name, seat.certified = link.peer, False
        seat.outbox, seat.ready, seat.beat_s = outbox, False, time.monotonic()
        outbox.put_nowait((welcome, None))
        reading = asyncio.ensure_future(self._read(link, number, seat, outbox))
        writing = asyncio.ensure_future(self._write(link, outbox))
        ending = asyncio.ensure_future(outbox.over.wait())  # an agent that reads nothing can't keep its session
        try:
            await asyncio.wait({reading, writing, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for doing in (reading, writing, ending):
                doing.cancel()
            await asyncio.gather(reading, writing, ending, return_exceptions=True)
            if seat.outbox is outbox:
                seat.outbox, was = None, seat.ready
                seat.ready = False
                if was:
                    self._news.put(AgentNews(GONE, number, time_s=time.monotonic()))
            await link.close()

    async def _write(self, link: Link, outbox: Outbox) -> None:
        with contextlib.suppress(LinkClosedError):
            while (item := await outbox.next()) is not None:
                message, digest = item
                long = isinstance(message, Task) and len(message.content) > MOST_BODY
                async with self._sending.held() if long else contextlib.nullcontext():
                    for frame in sent(message, digest):
                        await link.send(frame)

    async def _read(self, link: Link, number: int, seat: Seat, outbox: Outbox) -> None:
        reader, holding, limit, part_s = Reader(self._largest, self._kinds), False, MessageRateLimit(MOST_BEATS), 0.0
        try:
            while True:
                message = reader.take(await (self._part(link, part_s) if holding else link.receive()))
                seat.beat_s = time.monotonic()
                if message is None:
                    self._moved(number, seat)
                    # The first part of a long update is here; the others stay with the agent until there is room.
                    if not holding:
                        await self._place()
                        holding = True
                    part_s = time.monotonic()
                    continue
                await limit.wait(seat, message)
                if not outbox.ending and self._said(number, seat, outbox, message, holding):
                    holding = False
                del message  # else each session would keep the update until the next message
        except LinkClosedError:
            return
        except WireError as fault:
            self.refused["bad_message"] = self.refused.get("bad_message", 0) + 1
            self._observer.tell(
                "wrong_message", f"{seat.name} sent a wrong message: {one_line(str(fault))}", number, seat.name
            )
            outbox.finish(Stop(one_line(str(fault)), "bad_message", True))
            await outbox.over.wait()  # the writer ends the session before, when it has sent that
        finally:
            if holding:
                self.window.release()

    async def _place(self) -> None:
        """Wait for a place in the window."""
        self._waiting += 1
        try:
            await self.window.acquire()
        finally:
            self._waiting -= 1

    async def _part(self, link: Link, part_s: float) -> bytes:
        """Return the next frame of an agent whose place in the window others may wait for.

        Raises:
            WireError: They do, and no part has come for long.
        """
        while True:
            left = part_s + PART_S - time.monotonic()
            if left <= 0.0 and self._waiting:
                raise WireError(f"No part of the update came for {PART_S:g} s, and other agents wait to send theirs.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if left > 0.0 else 1.0):
                    return await link.receive()

    def _said(self, number: int, seat: Seat, outbox: Outbox, message: Message, holding: bool) -> bool:
        """Handle a message, and return whether its place in the window went on with it."""
        now = time.monotonic()
        if not isinstance(message, Leave):
            self._moved(number, seat, message if isinstance(message, Beat) else None)
        if isinstance(message, Ready):
            self._ready(number, seat, outbox, message)
        elif isinstance(message, Credential):
            self._certified(number, seat, message)
        elif isinstance(message, Leave):
            if message.for_good:
                seat.out = True
                self._news.put(AgentNews(LEFT, number, reason=message.reason, time_s=now))
            outbox.finish()
        elif isinstance(message, FOR_LOOP) and seat.ready:
            return self._passed_on(number, seat, outbox, message, holding)
        elif not isinstance(message, Beat):
            raise WireError(f"{type(message).__name__} came from an agent that is not ready.")
        return False

    def _passed_on(self, number: int, seat: Seat, outbox: Outbox, message: ForLoop, holding: bool) -> bool:
        """Pass a message about a job on to the loop, and return whether its place in the window goes on with it."""
        known = seat.answered(message)
        if known is not None:
            outbox.put_nowait((known, None))  # it came before, and the answer was lost
            return False
        seat.unread += 1
        self._news.put(news_of(number, message, holding))
        return "content" in message._fields

    def _certified(self, number: int, seat: Seat, message: Credential) -> None:
        """Take the key by which an agent signs in secure sums.

        Raises:
            WireError: It is not certified for this agent.
        """
        assert self._signers is not None  # else this kind of message is not read
        try:
            self._signers.add(number, message.content, seat.name)
        except SecureSumError as fault:
            raise WireError(str(fault)) from fault
        seat.certified = True

    def _ready(self, number: int, seat: Seat, outbox: Outbox, message: Ready) -> None:
        if seat.ready or seat.outbox is not outbox:
            return
        if self._signers is not None and not seat.certified:
            raise WireError("Ready came before a credential, by which other agents know this one in secure sums.")
        seat.ready, now, speed = True, time.monotonic(), message.steps_per_s
        outbox.copy = CopyId(message.copy, message.copy_digest) if message.copy_digest else None
        copy = outbox.copy_then()
        self._news.put(AgentNews(HERE, number, reason=seat.name, steps_per_s=speed, time_s=now, copy=copy))
        if self._paused:
            outbox.put_nowait((Pause(), None))
        if seat.task is not None:
            outbox.put_nowait(seat.task)

    def _moved(self, number: int, seat: Seat, beat: Beat | None = None) -> None:
        if seat.move(beat):
            self._news.put(AgentNews(MOVED, number, time_s=time.monotonic()))

    def hang(self, ids: Iterable[int]) -> None:
        """Note that the jobs of agents hang."""
        for number in ids:
            self.seats[number].hung = True

    def give(self, tasks: Iterable[Given], over: Iterable[tuple[int, Taken | None]]) -> None:
        """Note that the tasks of agents are `over`, and give agents their next ones."""
        self._ended(over)
        for number, task, content in tasks:
            seat = self.seats[number]
            seat.task, seat.answer, seat.request, seat.unread = (task, content), None, None, 0
            if seat.ready and seat.outbox is not None:
                seat.outbox.put_nowait(seat.task)

    def answer(self, answers: Iterable[tuple[int, Answer]]) -> None:
        """Answer the bids of agents; a task whose update is not wanted has ended."""
        for number, answer in answers:
            seat = self.seats[number]
            seat.answer, seat.unread = answer if answer.send else None, 0
            seat.task = seat.task if answer.send else None
            if seat.ready and seat.outbox is not None:
                seat.outbox.put_nowait((answer, None))

    def ask(self, requests: Iterable[tuple[int, Invitation | SumRequest]]) -> None:
        """Show agents what belongs to a phase of a secure sum; those that are away are shown it when they are back."""
        for number, request in requests:
            seat = self.seats[number]
            seat.request, seat.unread = request, 0
            if seat.ready and seat.outbox is not None:
                seat.outbox.put_nowait((request, None))

    def _ended(self, receipts: Iterable[tuple[int, Taken | None]]) -> None:
        """Note that the tasks of agents have ended, and send each its receipt, if there is one."""
        for number, receipt in receipts:
            seat = self.seats[number]
            seat.unread = max(seat.unread - 1, 0)
            if receipt is None or (seat.task is not None and seat.task[0].job == receipt.job):
                seat.task = seat.answer = seat.request = None
            if receipt is not None and seat.outbox is not None:
                seat.outbox.put_nowait((receipt, None))

    def pause(self, paused: bool) -> None:
        """Tell the agents that are there, and those that come, that no job is given until the pause is over."""
        if paused == self._paused:
            return
        self._paused = paused
        for seat in self.seats:
            if seat.ready and seat.outbox is not None:
                seat.outbox.put_nowait((Pause() if paused else Resume(), None))

    def opt_out(self, name: str) -> None:
        """End the part of an agent in this run, by its name."""
        for number, seat in enumerate(self.seats):
            if seat.name == name and not seat.out:
                seat.out, seat.task = True, None
                self._news.put(AgentNews(LEFT, number, reason="its operator said so", time_s=time.monotonic()))
                if seat.outbox is not None:
                    seat.outbox.finish(OPTED_OUT)

    async def stop(self, stop: Stop) -> None:
        """End all sessions, and send away whoever comes from now on."""
        self._stopped = stop
        for seat in self.seats:
            if seat.outbox is not None:
                seat.outbox.finish(stop)
        for _ in range(200):
            if all(seat.outbox is None for seat in self.seats):
                return
            await asyncio.sleep(0.01)


async def _next(link: Link, reader: Reader) -> Message:
    while True:
        message = reader.take(await link.receive())
        if message is not None:
            return message
