"""Worker processes, and their recovery after one has ended.

    command --submit--> worker, in order --result--> value
    worker ends --restart--> open its shards, restore what they last saved, repeat the commands since --> the same bits

A command has the same effect whenever it is repeated, because all randomness follows from keys. So nothing has to be
written while workers live but a copy of their agents from time to time, as often as it costs a twentieth of the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fedrl.core.errors import RunError
from fedrl.engines.distributed.shard import Setup
from fedrl.engines.state import WorkerDeath

READS = frozenset({"rows", "params_of", "held", "saved"})
"""Commands that change nothing, and are not repeated once their result is known."""
SAVES = frozenset({"saved", "train_and_save"})
"""Commands whose result ends with the saved agents; those before them are not repeated any more."""
SHARE_OF_SAVING = 20.0
"""A shard is saved again after commands that took so many times the seconds of saving it."""
MOST_DEATHS = 3
"""How often in a row a worker is started again without carrying out a command."""


class WorkerDiedError(Exception):
    """A worker process has ended; the message says what is known of it."""


@runtime_checkable
class WorkerTransport(Protocol):
    """Starts worker processes and carries commands to them."""

    hosts: list[str]
    """Name of the machine of each worker."""

    def submit(self, worker: int, shard: int, name: str, *arguments: Any) -> Any:
        """Send a command to `ShardWorker.do`, after those sent before, and return its future."""
        ...

    def result(self, future: Any) -> tuple[Any, float]:
        """Wait for a command, and return its result and seconds.

        Raises:
            WorkerDiedError: The worker ended before it was carried out.
        """
        ...

    def share(self, value: Any) -> Any:
        """Return what can be an argument of commands to several workers in place of a value, and is sent once."""
        ...

    def restart(self, worker: int) -> None:
        """Start a worker again that has ended."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass(eq=False)
class Command:
    """A command that was submitted; `future` is None once its result or its error is known."""

    name: str
    given: tuple[Any, ...]
    future: Any
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class Member:
    """The shard of one simulation in one worker, with what is needed to make it again.

    Attributes:
        worker: Number of the worker.
        number: Number of the shard.
        setup: What it is made from.
        agents: Number of its agents.
        opening: The command that makes it.
        log: Commands since it was saved.
        saved: What it saved last.
        seconds: Seconds of commands since then.
        saving_s: Seconds of saving.
        waiting: Commands whose result nobody has waited for.
        closed: Whether it was closed.
    """

    worker: int
    number: int
    setup: Setup
    agents: int
    opening: Command
    log: list[Command] = field(default_factory=list)
    saved: bytes | None = None
    seconds: float = 0.0
    saving_s: float = 0.05
    waiting: list[Command] = field(default_factory=list)
    closed: bool = False


class Workers:
    """Worker processes that several simulations share; the last one that closes ends them.

    Args:
        transport: Its processes.
        closed: Called when they are ended.
    """

    def __init__(self, transport: WorkerTransport, closed: Callable[[], None] = lambda: None) -> None:
        self.transport, self._closed = transport, closed
        self._members: list[list[Member]] = [[] for _ in transport.hosts]
        self._locks = [threading.RLock() for _ in transport.hosts]
        self._in_a_row = [0] * len(transport.hosts)
        self._deaths: list[WorkerDeath] = []
        self._users, self._numbers = 0, 0
        self._counting = threading.Lock()

    def __len__(self) -> int:
        return len(self._members)

    def open(self, setups: Sequence[Setup]) -> list[Member]:
        """Make a shard in each of the first workers."""
        found = []
        with self._counting:
            self._users += 1
            numbers = range(self._numbers, self._numbers + len(setups))
            self._numbers += len(setups)
        for worker, (number, setup) in enumerate(zip(numbers, setups, strict=True)):
            with self._locks[worker]:
                opening = Command("open", (), self.transport.submit(worker, number, "open", setup))
                found.append(Member(worker, number, setup, len(setup.numbers), opening))
                self._members[worker].append(found[-1])
        return found

    def close(self, members: Sequence[Member]) -> None:
        """End these shards, and all workers if there are no others."""
        for member in members:
            with self._locks[member.worker]:
                member.closed = True
                self._members[member.worker].remove(member)
                self.transport.submit(member.worker, member.number, "close")
        with self._counting:
            self._users -= 1
        self.end_unused()

    def end_unused(self) -> None:
        """End all workers if no simulation has agents there."""
        with self._counting:
            if self._users:
                return
        self._closed()
        self.transport.close()

    def submit(self, member: Member, name: str, *arguments: Any) -> Command:
        """Send a command, for whose result `result` waits.

        Raises:
            RunError: The simulation is closed.
        """
        with self._locks[member.worker]:
            check_open(member)
            command = Command(name, arguments, self.transport.submit(member.worker, member.number, name, *arguments))
            member.log.append(command)
        return command

    def post(self, member: Member, name: str, *arguments: Any) -> None:
        """Send a command without waiting for it; its error is raised by the next `result`."""
        member.waiting.append(self.submit(member, name, *arguments))

    def result(self, member: Member, command: Command) -> Any:
        """Wait for a command and those posted before; workers that have ended are started again meanwhile.

        Raises:
            RunError: A worker has ended several times in a row.
        """
        self._wait(member, member.opening)
        while posted := self._next(member):
            self._wait(member, posted)
        return self._wait(member, command)

    def save(self, member: Member) -> None:
        """Let a shard save its agents, if enough was computed since the last time; the next `result` receives them."""
        if member.seconds >= SHARE_OF_SAVING * member.saving_s:
            member.seconds = 0.0
            self.post(member, "saved")

    def deaths(self) -> tuple[WorkerDeath, ...]:
        """Return the workers that have ended since the last call."""
        with self._counting:
            found, self._deaths = tuple(self._deaths), []
        return found

    def _next(self, member: Member) -> Command | None:
        with self._locks[member.worker]:
            return member.waiting.pop(0) if member.waiting else None

    def _wait(self, member: Member, command: Command) -> Any:
        self._settle(member, command)
        if command.error is not None:
            raise command.error
        # Its result is kept by no one else, and may be large.
        value, command.value = command.value, None
        return value

    def _settle(self, member: Member, command: Command) -> None:
        """Wait until the result of a command is known."""
        if command.name in SAVES:
            # Those of another thread, too: they can't be repeated once the log begins after this command.
            with self._locks[member.worker]:
                before = member.log[: member.log.index(command)] if command in member.log else []
            for each in before:
                self._settle(member, each)
        while (future := command.future) is not None:
            value: Any = None
            seconds, error = 0.0, None
            try:
                value, seconds = self.transport.result(future)
            except WorkerDiedError as death:
                self._recover(member, command, future, str(death))
                continue
            except Exception as fault:
                error = fault
            with self._locks[member.worker]:
                if command.future is not future:  # another thread has found the worker dead
                    continue
                self._in_a_row[member.worker] = 0
                if command.name in SAVES and error is None:
                    value = self._saved(member, command, value, seconds)
                else:
                    member.seconds += seconds
                command.value, command.error, command.future = value, error, None

    def _saved(self, member: Member, command: Command, value: tuple[Any, bytes], seconds: float) -> Any:
        """Note what a shard has saved, and return the rest of the command's result."""
        rest, member.saved = value
        if command.name == "saved":
            member.saving_s = max(seconds, 1e-3)
        member.log = member.log[member.log.index(command) + 1 :]
        return rest

    def _recover(self, member: Member, command: Command, future: Any, reason: str) -> None:
        """Start the worker of a command again, unless another thread has, and repeat what it had done."""
        worker, transport = member.worker, self.transport
        with self._locks[worker]:
            if command.future is not future:
                return
            check_open(member)
            here = self._members[worker]
            with self._counting:
                agents = sum(each.agents for each in here)
                self._deaths.append(WorkerDeath(worker, transport.hosts[worker], agents, reason))
            self._in_a_row[worker] += 1
            if self._in_a_row[worker] > MOST_DEATHS:
                raise RunError(
                    f"Worker {worker} on {transport.hosts[worker]} ended {self._in_a_row[worker]} times in a row "
                    f"({reason}). Its machine may lack memory: let fewer agents or workers run there, or add machines."
                )
            transport.restart(worker)
            for each in here:
                opening = transport.submit(worker, each.number, "open", each.setup)
                each.opening.future = None if each.opening.future is None else opening
                if each.saved is not None:
                    transport.submit(worker, each.number, "restore", each.saved)
                for known in each.log:
                    if known.name not in READS or known.future is not None:
                        again = transport.submit(worker, each.number, known.name, *known.given)
                        known.future = None if known.future is None else again


def check_open(member: Member) -> None:
    """Refuse commands for a shard that was closed.

    Raises:
        RunError: It was.
    """
    if member.closed:
        raise RunError(
            "The simulation was closed, and its workers have ended with the states of its agents. Use it inside its "
            "`with` block, or build it again."
        )
