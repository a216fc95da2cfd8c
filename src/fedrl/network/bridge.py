"""The bridge between the loop of a federation, which waits and computes in its thread, and sessions, in another one."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fedrl.core.errors import StoppedWaitingError
from fedrl.network.news import AgentNews, NewsQueue
from fedrl.network.observer import Observer
from fedrl.network.sessions import Given, Membership, Sessions
from fedrl.secure.credential import KnownSigners
from fedrl.transport.seam import Listener, Transport
from fedrl.wire.protocol import Answer, Stop, Taken
from fedrl.wire.secure_sum import Invitation, SumRequest

AGAIN = Stop("The coordinator stops for now. Its run can be continued.", "restarting", True)
POLL_S = 0.2
"""Seconds after which a wait looks whether it was asked to stop."""


class Bridge:
    """What a coordinator's loop knows of the outside: it gives tasks, and takes news.

    Args:
        transport: How frames travel.
        address: Where to listen, HOST:PORT; port 0 for any free one.
        stop: Ends a wait when it is set.
        run: Returns the identity of the run, 32 hexadecimal digits, when it begins to listen; by default a new one.
        name: Name of the run, for people.
        replayable: Whether all keys follow from the seed of the run.
        beat_s: Seconds between two beats of an agent at work.
        observer: Who is told what happens; by default nobody.
    """

    def __init__(
        self,
        transport: Transport,
        address: str,
        *,
        stop: threading.Event | None = None,
        run: Callable[[], str] | None = None,
        name: str = "",
        replayable: bool = False,
        beat_s: float = 2.0,
        observer: Observer | None = None,
    ) -> None:
        self.transport, self._asked = transport, address
        self.stopping = threading.Event() if stop is None else stop
        self._identity = run
        self.paused = threading.Event()
        self.run, self.version = "", 0
        self.observer = Observer() if observer is None else observer
        self.name, self.replayable, self.beat_s = name, replayable, beat_s
        self.news = NewsQueue()
        self.address = ""
        self._over: list[tuple[int, Taken | None]] = []
        self.sessions: Sessions | None = None
        self.signers: KnownSigners | None = None
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def serve(self, membership: Membership, agents: int, largest: int, authority: bytes = b"") -> None:
        """Listen, and admit agents.

        Args:
            membership: Decides who takes part.
            agents: Number of seats.
            largest: The largest message of an agent in bytes.
            authority: Certificate of the authority, PEM, where updates are hidden in secure sums; else empty.

        Raises:
            ConfigError: The address is none, or is taken.
        """
        self.run = secrets.token_hex(16) if self._identity is None else self._identity()
        self.signers = KnownSigners(authority, self.run) if authority else None
        # Made here and not before: a loop that is never run has to be closed all the same.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fedrl sessions", daemon=True)
        self._thread.start()

        async def begin() -> tuple[Sessions, Listener]:
            given = (self.news, self.observer, self.signers)
            sessions = self.sessions = Sessions(membership, agents, largest, *given)
            await self.observer.begin()
            return sessions, await self.transport.listen(self._asked, sessions.session)

        try:
            self.sessions, self._listener = self._asking(begin())
        except BaseException:
            self.close()
            raise
        self.address = self._listener.address
        self.observer.listening(self)

    def give(self, tasks: Sequence[Given]) -> None:
        """Give agents their tasks."""
        assert self.sessions is not None
        over, self._over = self._over, []
        self._loop.call_soon_threadsafe(self.sessions.give, tasks, over)

    def ended(self, receipts: Sequence[tuple[int, Taken | None]]) -> None:
        """Note that tasks have ended, with the receipt for each agent that gets one."""
        assert self.sessions is not None
        self._over += receipts
        # Waking the other thread costs as much as a message; without receipts it hears of it with the next tasks.
        if any(receipt is not None for _, receipt in receipts):
            over, self._over = self._over, []
            self._loop.call_soon_threadsafe(self.sessions.give, (), over)

    def answer(self, answers: Sequence[tuple[int, Answer]]) -> None:
        """Answer the bids of agents."""
        assert self.sessions is not None
        self._loop.call_soon_threadsafe(self.sessions.answer, answers)

    def ask(self, requests: Sequence[tuple[int, Invitation | SumRequest]]) -> None:
        """Send agents what a phase of a secure sum shows them."""
        assert self.sessions is not None
        self._loop.call_soon_threadsafe(self.sessions.ask, requests)

    def pause(self, paused: bool) -> None:
        """Give no jobs any more, or give them again, and tell the agents. It is called in the sessions' event loop."""
        (self.paused.set if paused else self.paused.clear)()
        if self.sessions is not None:
            self.sessions.pause(paused)

    def heard_s(self, agent: int) -> float:
        """Return when anything last came from an agent, a part of a message included, by `time.monotonic`."""
        assert self.sessions is not None
        return self.sessions.seats[agent].beat_s

    def moved_s(self, agent: int) -> float:
        """Return when an agent last showed progress, by `time.monotonic`."""
        assert self.sessions is not None
        return self.sessions.seats[agent].moved_s

    def hang(self, ids: Sequence[int]) -> None:
        """Note that the jobs of agents hang; the next progress of each is news."""
        assert self.sessions is not None
        self._loop.call_soon_threadsafe(self.sessions.hang, ids)

    def taken_over(self, count: int) -> None:
        """Give back places in the window, whose updates have been read."""
        assert self.sessions is not None
        window = self.sessions.window

        def release() -> None:
            for _ in range(count):
                window.release()

        self._loop.call_soon_threadsafe(release)

    def wait(self, seconds: float, enough: int = 1) -> Iterable[AgentNews]:
        """Return the news that are there, or that come within some seconds; none if there are none.

        Args:
            seconds: The longest wait.
            enough: Number of updates to wait for, without other news; after `POLL_S`, fewer are returned.

        Raises:
            StoppedWaitingError: The coordinator was asked to stop.
        """
        left = seconds
        while True:
            if self.stopping.is_set():
                raise StoppedWaitingError("The round was given up: the coordinator was asked to stop.")
            pause = min(left, POLL_S)
            found = self.news.take(pause, enough)
            left -= pause
            if found or left <= 0.0:
                return found

    def close(self, why: Stop = AGAIN) -> None:
        """End all sessions with a reason, and listen no more; a second call does nothing."""
        if self._thread is None or not self._thread.is_alive():
            return
        sessions, listener = self.sessions, self._listener

        async def end() -> None:
            if sessions is not None:
                await sessions.stop(why)
            if listener is not None:
                await listener.close()
            await self.observer.end()
            # More than once: before Python 3.12, `asyncio.wait_for` loses a cancellation that comes with its result.
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in others:
                    task.cancel()
                await asyncio.wait(others, timeout=0.1)

        try:
            self._asking(end(), 10.0)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
            self._loop.close()

    def _asking(self, action: Any, timeout_s: float = 30.0) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout_s)

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
