"""A federation in this process that is run while everything goes wrong that its plan says.

    thread of this call   coordinate, again and again until the run is complete, each time as a new process would
    a thread of asyncio   the agents, each started again whenever it has ended before the run has
    transcript            frames, versions on the disk, faults

Parties share nothing but sockets and what the plan does to them. `Outcome` is what there is to be checked.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

import fedrl.network.clock as network_clock
import fedrl.network.executor as network_executor
import fedrl.network.sessions as network_sessions
from fedrl.config import load
from fedrl.config.build import build
from fedrl.records import checkpoint
from fedrl.records.folder import RunFolder
from fedrl.runs.coordinate import coordinate
from fedrl.sites.agent import Backoff, SiteAgent
from fedrl.sites.policy import MayLeave
from tests.chaos.disk import DISK, KilledError, Machine
from tests.chaos.links import Hub, LinkFault, SiteNetwork
from tests.chaos.plan import LINK, Fault, Plan
from tests.chaos.transcript import Transcript, digest

ALL = MayLeave(
    reports=("loss",), statistics=("scaffold",), payload=("delta", "gradient"), sizes=True, capacity=True, reasons=True
)
QUICK = Backoff(0.01, 0.05)
STUCK_S = 60.0
"""Seconds without a new version, or without an end, after which a run counts as stuck."""


class Outcome(NamedTuple):
    """What is left of a run.

    Attributes:
        folder: The last folder of the coordinator.
        sites: The last folders of the sites.
        entries: The transcript.
        tables: The experiment.
        seed: Its seed.
        faults: Number of faults that came to pass, by kind.
        lives: Number of processes of the coordinator.
        errors: Why processes ended that were not killed.
    """

    folder: Path
    sites: list[Path]
    entries: list[dict[str, Any]]
    tables: dict[str, Any]
    seed: int
    faults: Counter[str]
    lives: int
    errors: Counter[str]


class Clock:
    """The module `time`, with a monotonic clock that can jump ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        """Return the seconds of a clock that has jumped."""
        return time.monotonic() + self.ahead_s


CLOCK = Clock()
for module in (network_clock, network_executor, network_sessions):
    module.time = CLOCK  # type: ignore[attr-defined]


class Site:
    """One site over all its processes."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.network = SiteNetwork(f"site-{number}", world.transcript, lambda: world.hub.address, number)
        self.machine = Machine(world.folder / f"site-{number}.0", happened=lambda kind: world.count(f"agent {kind}"))
        self.ahead_s = 0.0
        self.running: asyncio.Task[Any] | None = None
        self.done = False
        self.cut()

    def cut(self) -> None:
        """Let the machine's end be silent."""
        self.machine.cut = lambda: self.world.loop.call_soon_threadsafe(self.network.cut)

    async def live(self) -> None:
        """Run an agent, and start it again when it has ended."""
        while not self.world.over.is_set():
            agent = self.agent()
            self.running = asyncio.ensure_future(agent.run())
            try:
                end = await self.running
                self.world.errors[f"agent: {end.code}"] += end.code != "done"
                if end.code == "done":
                    self.done = True
                    return
            except (KilledError, asyncio.CancelledError):
                if not self.machine.dead:
                    raise
            except Exception as fault:
                self.world.errors[f"agent: {type(fault).__name__} {str(fault)[-90:]}"] += 1
            if self.machine.dead:
                self.machine = self.machine.next()
                self.cut()
            await asyncio.sleep(0.02)

    def agent(self) -> SiteAgent:
        """Return a new process of the agent."""
        experiment = self.world.experiment
        return SiteAgent(
            experiment.federation,
            lambda number: jax.tree.map(lambda x: x[number], experiment.fleet),
            self.network.transport(self.machine),
            "coordinator",
            self.machine.folder,
            ALL,
            seed=self.world.plan.seed,
            backoff=QUICK,
            notice=lambda notice: self.world.transcript.note(
                "notice", agent=f"site-{self.number}", event=notice.event, text=notice.text
            ),
            clock=lambda: time.time() + self.ahead_s,
        )

    def suffer(self, fault: Fault) -> None:
        """Make a fault happen, in the thread of the event loop."""
        if fault.kind in LINK:
            self.network.waiting.append(LinkFault(fault.kind, fault.direction, fault.amount))
        elif fault.kind == "clock":
            self.ahead_s += fault.amount
            self.world.count(f"agent {fault.kind}")
        elif fault.kind == "disk full":
            self.machine.full = int(fault.amount)
        elif fault.kind == "kill at disk":
            self.machine.countdown = int(fault.amount)
        elif self.running is not None and not self.done:
            self.machine.kill()
            self.world.count(f"agent {fault.kind}")
            self.network.cut()
            self.running.cancel()


class World:
    """One run under chaos.

    Args:
        plan: What happens.
        folder: An empty folder.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.transcript = Transcript(folder / "transcript.jsonl")
        self.experiment = build(load(plan.tables))
        self.over, self.stop = threading.Event(), threading.Event()
        self.faults, self.errors = Counter[str](), Counter[str]()
        self._left, self._frames, self._lock = list(plan.faults), 0, threading.Lock()
        self.version, self.moved_s = 0, time.monotonic()
        self.random = random.Random(plan.seed)
        self.loop = asyncio.new_event_loop()
        self.machine = Machine(folder / "coordinator.0", happened=lambda kind: self.count(f"coordinator {kind}"))
        self.hub = Hub(0, self.transcript, self.machine.going, self.passed)
        self.sites = [Site(self, number) for number in range(plan.tables["federation"]["agents"])]

    def run(self) -> Outcome:
        """Run to the last version, or until nothing moves any more."""
        thread = threading.Thread(target=self.loop.run_forever, name="agents", daemon=True)
        thread.start()
        agents = [asyncio.run_coroutine_threadsafe(site.live(), self.loop) for site in self.sites]
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        life = 0
        try:
            while not self._lived(life):
                if self.over.is_set():
                    break
                life += 1
            self._await_agents()
        finally:
            self.over.set()
            self._end(agents, thread)
        return Outcome(
            self.machine.folder,
            [site.machine.folder for site in self.sites],
            self.transcript.entries,
            self.plan.tables,
            self.plan.seed,
            self.faults + Counter(kind for site in self.sites for kind in site.network.applied),
            life + 1,
            self.errors,
        )

    def _lived(self, life: int) -> bool:
        """Be one process of the coordinator; return whether the run is complete."""
        if RunFolder(self.machine.folder).complete:  # the process before was killed after its last file
            return True
        stop = self.stop = threading.Event()
        machine = self.machine
        hub = self.hub = Hub(life, self.transcript, machine.going, self.passed)

        def cut() -> None:
            hub.cut()
            # The operation may be one of another thread than that of the run, such as a line of coordinator.jsonl.
            stop.set()
            self.transcript.note("killed", life=life)

        machine.cut, machine.committed = cut, self._committed(life)
        self.transcript.note("started", life=life)
        try:
            coordinate(
                self.plan.tables,
                machine.folder,
                hub,
                "127.0.0.1:0",
                seat_of=lambda name: int(name.split("-")[1]),
                gather=self.plan.gather,
                patience_s=self.plan.patience_s,
                replayable=True,
                stop=stop,
                verbose=0,
            )
            if not stop.is_set():
                return True
        except KilledError:
            pass
        except Exception as fault:
            self.errors[f"coordinator: {type(fault).__name__} {str(fault)[:90]}"] += 1
            time.sleep(0.02)
        finally:
            hub.cut()
        if machine.dead:
            self.machine = machine.next()
        return False

    def _committed(self, life: int) -> Any:
        def committed(path: Path) -> None:
            if path.parent.name != "checkpoints":
                return
            self.transcript.note("disk", life=life, version=checkpoint.round_of(path), hash=digest(path.read_bytes()))
            with self._lock:
                self.version, self._frames = checkpoint.round_of(path), 0
                self.moved_s = time.monotonic()
            self._due()

        return committed

    def passed(self) -> None:
        """Take note of a frame that the coordinator has received."""
        with self._lock:
            self._frames += 1
        self._due()

    def _due(self) -> None:
        """Make the faults happen whose time has come."""
        while True:
            with self._lock:
                if not self._left:
                    return
                fault = self._left[0]
                now = (self.version, self._frames)
                if now < (fault.version, fault.frames) and self.version <= fault.version:
                    return
                self._left.pop(0)
            self.transcript.note("fault", **fault._asdict())
            if fault.target >= 0:
                self.loop.call_soon_threadsafe(self.sites[fault.target].suffer, fault)
            else:
                self._suffer(fault)

    def _suffer(self, fault: Fault) -> None:
        machine = self.machine
        if fault.kind == "clock":
            CLOCK.ahead_s += fault.amount
        elif fault.kind == "disk full":
            machine.full = int(fault.amount)
            return
        elif fault.kind == "kill at disk":
            machine.countdown = int(fault.amount)
            return
        elif fault.kind == "stop":
            machine.going.clear()
            threading.Timer(fault.amount, machine.going.set).start()
        else:
            # Its thread ends at its next operation of the disk, and it is silent from now on.
            self.hub.cut()
            machine.dying = True
            self.stop.set()
        self.count(f"coordinator {fault.kind}")

    def count(self, what: str) -> None:
        """Take note of a fault that has happened."""
        with self._lock:
            self.faults[what] += 1

    def _watch(self) -> None:
        while not self.over.wait(0.2):
            if time.monotonic() - self.moved_s > STUCK_S:
                self.transcript.note("stuck", version=self.version)
                self.over.set()
                self.stop.set()

    def _await_agents(self) -> None:
        """Wait until every agent has heard of the end, or has nobody to ask."""
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not all(site.done for site in self.sites):
            time.sleep(0.01)

    def _end(self, agents: list[Any], thread: threading.Thread) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        del agents
        for machine in (self.machine, *(site.machine for site in self.sites)):
            machine.full, machine.countdown, machine.dying = 0, None, False
            machine.going.set()
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(end(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        thread.join(5)
        if not thread.is_alive():
            self.loop.close()
        DISK.clear()
        CLOCK.ahead_s = 0.0  # other modules have the usual clock, and other tests come next in this process
        self.transcript.close()


def run(plan: Plan, folder: Path) -> Outcome:
    """Run a plan in an empty folder."""
    folder.mkdir(parents=True)
    return World(plan, folder.resolve()).run()


__all__ = ["Outcome", "World", "run"]
