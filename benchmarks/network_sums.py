"""What secure sums add to a round over the network: the round of `benchmarks.network`, with and without them.

    python -m benchmarks.network_sums [AGENTS PARAMETERS]

Agents are tasks of one other process and train nothing: they carry out their part of the sum. All of them share one
core here, while they have one each at sites; so beside the whole the time of the processor is printed, of the
coordinator and of all agents. Their folders are in memory where there is such a file system: the note before a masked
vector is not measured with the disk of this machine. Medians over 100 rounds after 10.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Figure, emit
from benchmarks.network import certificates, cpu, setting_of

AGENTS, PARAMETERS = 10, 4_610
WARM, ROUNDS = 10, 100
GOAL_MS = 15.0
MODES = ("plain", "masks", "masks, not verified")


def federation_of(agents: int, size: int, mode: str) -> Any:
    from dataclasses import replace

    from fedrl.aggregators import mean
    from fedrl.core.summation import exact_sum
    from fedrl.federation.federate import federate
    from fedrl.learners import sgd
    from fedrl.secure.grid import ring_sum
    from tests.support.quadratic import quadratic, valley

    learner = replace(quadratic(sgd(0.1), size=size), environment=valley(1))
    summation = exact_sum()
    if mode != "plain":
        summation = ring_sum(agents, 8.0, agents // 2 + 1, protocol="masks", phase_s=30.0, verified=mode == "masks")
    return federate(learner, mean("uniform"), summation=summation)


def clients(folder: str, address: str, agents: int, size: int, mode: str, times: Any) -> None:
    """Agents that send an update for each task, or take part in a secure sum."""

    async def everybody() -> None:
        await asyncio.gather(
            *(IdleAgent(Path(folder), k, agents, size, mode, times).live(address) for k in range(agents))
        )

    asyncio.run(everybody())


class IdleAgent:
    """An agent that trains nothing.

    Args:
        folder: Folder of the certificates, and for what it keeps.
        number: Its number.
        agents: Number of agents.
        size: Number of parameters.
        mode: One of `MODES`.
        times: Where the seconds of the processor for secure sums are added.
    """

    def __init__(self, folder: Path, number: int, agents: int, size: int, mode: str, times: Any) -> None:
        import jax
        import numpy as np

        from fedrl.engines.messages import messages
        from fedrl.federation.wire_digest import wire_digest
        from fedrl.sites.memory import Kept
        from fedrl.transport.credentials import load

        self._folder, self._number, self._agents, self._times = folder, number, agents, times
        self._federation, fleet = federation_of(agents, size, mode), setting_of(agents)
        self._wire = messages(self._federation, fleet)
        self._digest = wire_digest(self._federation, jax.tree.map(lambda x: x[0], fleet))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._wire.update)
        self._update, self._vector = (
            zeros._replace(weight=np.float32(1.0)),
            np.arange(size + 1, dtype=np.int32).tobytes(),
        )
        self._mine, self._kept = load(folder / "issued" / f"site-{number}", "agent"), Kept(())  # type: ignore[arg-type]
        self._sums: Any = None
        self._largest, self._masks = 8 * size + 100_000, mode != "plain"

    async def live(self, address: str) -> None:
        """Take part until the coordinator ends the run."""
        from fedrl.federation.wire_digest import as_json
        from fedrl.transport.grpc_transport import GrpcTransport
        from fedrl.transport.seam import LinkClosedError
        from fedrl.wire.protocol import Hello, Reader, sent

        link, reader = await GrpcTransport(self._mine).connect(address), Reader(self._largest)
        answers: list[Any] = [Hello("", 0, 0, json.dumps(as_json(self._digest)).encode())]
        try:
            while True:
                for answer in answers:
                    for frame in sent(answer):
                        await link.send(frame)
                message = reader.take(await link.receive())
                answers = [] if message is None else self.answers(message)
        except LinkClosedError:
            return

    def answers(self, message: Any) -> list[Any]:
        """Return what the agent sends for a message."""
        from fedrl.wire.protocol import Ready, Task, Welcome
        from fedrl.wire.secure_sum import Invitation, SumRequest

        if isinstance(message, Welcome):
            return [*self._greeting(message), Ready(1.0)]
        if isinstance(message, Task):
            return [self._done(message)]
        if not isinstance(message, Invitation | SumRequest):
            return []
        began = time.process_time()
        reply = self._sums.reply(message, self._kept)
        self._times[0] += time.process_time() - began
        return [reply]

    def _greeting(self, welcome: Any) -> list[Any]:
        from fedrl.network.sum_terms import terms_of
        from fedrl.secure.credential import SumSigner
        from fedrl.sites.memory import RunMemory
        from fedrl.sites.summing import SiteSums
        from fedrl.wire.secure_sum import Credential

        if not self._masks:
            return []
        digest = self._digest.digest
        terms = terms_of(self._federation, welcome.run, self._agents, digest)
        memory = RunMemory(self._folder / f"kept-{self._number}", welcome.run, digest)
        self._sums = SiteSums(welcome.agent, terms, SumSigner(self._mine), self._mine.ca, memory)
        return [Credential(self._sums.credential)]

    def _done(self, task: Any) -> Any:
        import numpy as np

        from fedrl.wire.codec import codec
        from fedrl.wire.protocol import Sent

        if not self._masks:
            update = self._update._replace(version=np.int32(task.version))
            return Sent(task.job, task.version, codec(self._wire.update).encode(update))
        heard = hashlib.sha256(task.content).digest()
        last_sum = self._sums.last_sum(self._kept, task.verdict == "merged")
        done = {"last_sum": last_sum, "job": task.job, "version": task.version, "order": (task.steps, task.share)}
        self._kept = self._kept._replace(**done, vector=self._vector, broadcast=heard)
        return self._sums.done(self._kept)


def measured(folder: Path, agents: int, size: int, mode: str) -> dict[str, float]:
    """Run a coordinator, and return milliseconds of a round, and of the processors of coordinator and agents."""
    from fedrl.engines.simulate import simulate
    from fedrl.network.bridge import Bridge
    from fedrl.network.choices import sites
    from fedrl.transport.credentials import load
    from fedrl.transport.enrolment import Enrolment
    from fedrl.transport.grpc_transport import GrpcTransport

    transport = GrpcTransport(load(folder / "issued" / "hub", "coordinator"), Enrolment(folder / "enrolment.json"))
    agents_s = multiprocessing.get_context("spawn").Array("d", 1)
    with Bridge(transport, "localhost:0") as bridge:
        executor = sites(bridge, lambda name: int(name.split("-")[1]))
        simulation = simulate(federation_of(agents, size, mode), setting_of(agents), executor=executor)
        given = (str(folder), bridge.address, agents, size, mode, agents_s)
        process = multiprocessing.get_context("spawn").Process(target=clients, args=given, daemon=True)
        process.start()
        state, times, used, before = simulation.init(0), list[float](), 0.0, 0.0
        for number in range(WARM + ROUNDS):
            if number == WARM:
                used, before = cpu(), agents_s[0]
            began = time.perf_counter()
            state, seen = simulation.round(state)
            times.append(time.perf_counter() - began)
            assert not seen.rejected, seen.rejected
            assert not seen.skipped, seen.skipped
        used, agents_used = cpu() - used, agents_s[0] - before
    process.join(10)
    return {
        "ms": 1e3 * median(times[WARM:]),
        "coordinator_cpu_ms": 1e3 * used / ROUNDS,
        "agents_sum_cpu_ms": 1e3 * agents_used / ROUNDS,
        "bytes_up": seen.bytes_up,
        "bytes_down": seen.bytes_down,
    }


def part(folder: Path, agents: int, size: int, mode: str) -> dict[str, float]:
    """Measure in a process of its own."""
    import subprocess

    command = [sys.executable, "-m", "benchmarks.network_sums", "part", str(folder), str(agents), str(size), mode]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(found.stderr[-3000:])
    result: dict[str, float] = json.loads(found.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    if sys.argv[1:2] == ["part"]:
        print(json.dumps(measured(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])))
        return
    agents, size = (AGENTS, PARAMETERS) if len(sys.argv) < 3 else (int(sys.argv[1]), int(sys.argv[2]))
    found = {}
    for mode in MODES:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
            folder = Path(place) / "certs"
            certificates(folder, agents)
            found[mode] = part(folder, agents, size, mode)
        print(f"{agents} agents, {size + 1:,} entries, {mode}: {json.dumps(found[mode])}", flush=True)
    for mode in MODES[1:]:
        what = f"{agents} agents, {size + 1:,} entries, {mode}: added to a round"
        emit(Figure(what, found[mode]["ms"] - found["plain"]["ms"], GOAL_MS, "ms", at_least=False))


if __name__ == "__main__":
    main()
