"""The same with real processes: `fedrl coordinator` and `fedrl agent` over mutual TLS, behind a relay for each site.

    site.toml --> fedrl agent --TLS--> relay: reset, cut, stall, half-open, damage --> fedrl coordinator --> run folder

Processes are killed with SIGKILL and stopped with SIGSTOP. An observer sees less here: what is encrypted it can't read,
and versions it sees only when it looks at the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

from fedrl.transport.certificates import init, issue
from tests.chaos.plan import CALM, ROUNDS_PER_FAULT, Plan
from tests.chaos.transcript import Transcript
from tests.chaos.world import Outcome
from tests.support.relay import Relay

AGENTS = 3
STUCK_S = 240.0
"""As of `tests.chaos.world`; on a busy machine a process takes a minute to start and to compile."""
ROOT = Path(__file__).parents[2]
KINDS = {
    "coordinator kill": 5,
    "coordinator stop": 3,
    "agent kill": 3,
    "agent stop": 4,
    "reset": 8,
    "cut": 8,
    "stall": 6,
    "half-open": 4,
    "damage": 8,
}
SCHEDULES = ({"name": "synchronous"}, {"name": "synchronous", "deadline_s": 1.0}, {"name": "synchronous", "quorum": 2})


def real_plan(seed: int, faults: int) -> Plan:
    """Return the plan of a seed, whose faults have the kinds above."""
    draw, rounds = random.Random(f"processes {seed}"), int(faults * ROUNDS_PER_FAULT) + CALM
    federation = {"agents": AGENTS, "clock": {}, "schedule": draw.choice(SCHEDULES)}
    tables = {
        "name": f"chaos-{seed}",
        "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
        "learner": {"name": "q_table", "num_steps": 16},
        "federation": federation,
        "rounds": rounds,
        "seeds": [seed],
        "baselines": {},
        "evaluation": {"episodes": 1},
    }
    from tests.chaos.plan import Fault

    made = []
    for version in sorted(draw.randrange(1, rounds - CALM) for _ in range(faults)):
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        target = -1 if kind.startswith("coordinator") else draw.randrange(AGENTS)
        made.append(Fault(version, 0, kind, target, "", round(draw.uniform(0.1, 1.2), 3)))
    return Plan(seed, "processes", tables, 20.0, AGENTS, tuple(made))


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Program:
    """A command that is started again whenever it has ended."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments, self.log, self.starts = arguments, log, 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedrl", *self.arguments],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=os.environ | {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"},
            )

    def ended(self) -> int | None:
        """Return its exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Processes:
    """One run of real processes under chaos.

    Args:
        plan: What happens.
        folder: An empty folder.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.run_folder = plan, folder, folder / "coordinator.0"
        self.transcript, self.faults, self.errors = Transcript(folder / "transcript.jsonl"), Counter(), Counter()
        certificates, self.port = folder / "certificates", free_port()
        init(certificates)
        issue(certificates, "hub", "coordinator", hosts=["localhost", "127.0.0.1"])
        (folder / "experiment.toml").write_text(tomli_w.dumps(plan.tables))
        self.hub = Program(
            [
                *("coordinator", str(folder / "experiment.toml"), "--state", str(self.run_folder), "--replayable"),
                *("--certificates", str(certificates / "issued" / "hub"), "--listen", f"127.0.0.1:{self.port}"),
                *("--patience", str(plan.patience_s), "--quiet"),
            ],
            folder / "coordinator.log",
        )
        for number in range(AGENTS):
            issue(certificates, f"site-{number}")
        self.sites: list[Program] = []
        self.relays: list[Relay] = []
        self.version = 0

    async def run(self) -> Outcome:
        """Run to the last version, or until nothing moves any more."""
        async with contextlib.AsyncExitStack() as stack:
            for number in range(AGENTS):
                relay = await stack.enter_async_context(Relay(f"127.0.0.1:{self.port}", seed=number))
                self.relays.append(relay)
                self.sites.append(self._site(number, relay.address))
            try:
                await self._lived()
            finally:
                for program in (self.hub, *self.sites):
                    program.kill()
        self.transcript.close()
        return Outcome(
            self.run_folder,
            [self.folder / f"site-{number}.0" for number in range(AGENTS)],
            self.transcript.entries,
            self.plan.tables,
            self.plan.seed,
            self.faults,
            self.hub.starts,
            self.errors,
        )

    def _site(self, number: int, address: str) -> Program:
        path = self.folder / f"site-{number}.toml"
        table = {
            "coordinator": address,
            "certificates": str(self.folder / "certificates" / "issued" / f"site-{number}"),
            "folder": str(self.folder / f"site-{number}.0"),
            "experiment": str(self.folder / "experiment.toml"),
            "seed": self.plan.seed,
        }
        path.write_text(tomli_w.dumps(table))
        return Program(["agent", str(path)], self.folder / f"site-{number}.log")

    async def _lived(self) -> None:
        left, moved_s, calm = list(self.plan.faults), time.monotonic(), False
        self._started()
        for site in self.sites:
            site.start()
        while True:
            await asyncio.sleep(0.02)
            version = self._stored()
            if version != self.version:
                self.transcript.note("disk", version=version, sampled=True)
                self.version, moved_s = version, time.monotonic()
            while left and left[0].version <= version:
                await self._suffer(left.pop(0))
            if self.hub.ended() == 0:
                return
            if not left and not calm:
                calm, moved_s = True, time.monotonic()
            if time.monotonic() - moved_s > STUCK_S:
                self.transcript.note("stuck", version=version)
                return
            self._again()

    def _again(self) -> None:
        """Start again what has ended."""
        code = self.hub.ended()
        if code is not None:
            self.errors[f"coordinator: exit code {code}"] += code >= 0
            self._started()
        for site in self.sites:
            code = site.ended()
            if code is not None:
                self.errors[f"agent: exit code {code}"] += code > 0
                site.start()

    def _started(self) -> None:
        self.hub.start()
        self.transcript.note("started", life=self.hub.starts - 1, time=time.time())

    def _stored(self) -> int:
        """Return the version in the checkpoint of the coordinator, or its last one when it is complete."""
        from fedrl.records import checkpoint

        for place in ("checkpoints", "final"):
            path = self.run_folder / place / f"federated-{self.plan.seed}.safetensors"
            if path.exists():
                with contextlib.suppress(Exception):  # it may be moved at this moment
                    return checkpoint.round_of(path)
        return self.version

    async def _suffer(self, fault: Any) -> None:
        self.transcript.note("fault", **fault._asdict())
        self.faults[fault.kind] += 1
        relay = self.relays[max(fault.target, 0)]
        program = self.hub if fault.target < 0 else self.sites[fault.target]
        if fault.kind.endswith("kill"):
            program.kill()
            self.transcript.note("killed", time=time.time(), target=fault.target)
            if fault.target < 0:
                version = self._stored()
                self.transcript.note("disk", version=version, sampled=True)
                self.version = version
        elif fault.kind.endswith("stop"):
            program.send(signal.SIGSTOP)
            threading.Timer(fault.amount, program.send, (signal.SIGCONT,)).start()
        elif fault.kind == "damage":
            relay.damage()
        elif fault.kind in ("stall", "half-open"):
            (relay.stall if fault.kind == "stall" else relay.half_open)()
            asyncio.get_running_loop().call_later(fault.amount, relay.go_on)
        else:
            (relay.reset if fault.kind == "reset" else relay.cut)()


def run(plan: Plan, folder: Path) -> Outcome:
    """Run a plan in an empty folder."""
    folder.mkdir(parents=True)
    return asyncio.run(Processes(plan, folder.resolve()).run())
