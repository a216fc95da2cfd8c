"""What a round over the network costs beside the training: coordinator and agents over mutual TLS, with no work to do.

    python -m benchmarks.network [AGENTS PARAMETERS]

The coordinator is that of a real run (sessions, scheduler, trust, exact sums, merge), without a run folder.
Agents are tasks of one other process: each sends the same valid update again, with the version of its task. `raw` is a
TLS echo with asyncio, of the same bytes in the same process layout. Medians over 200 rounds after 20.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Figure, emit

CASES = ((10, 20_000, 2.5), (50, 20_000, 1.2), (10, 1_000_000, 1.2))
WARM, ROUNDS = 20, 200


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def certificates(folder: Path, agents: int) -> None:
    from fedrl.transport.certificates import init, issue

    init(folder)
    issue(folder, "hub", "coordinator", ["localhost", "127.0.0.1"])
    for k in range(agents):
        issue(folder, f"site-{k}")


def federation_of(size: int) -> Any:
    from fedrl.aggregators import mean
    from fedrl.federation.federate import federate
    from fedrl.learners import sgd
    from tests.support.quadratic import quadratic, valley

    # One number describes an environment: with as many as parameters, the fleet would be most of the memory.
    return federate(replace(quadratic(sgd(0.1), size=size), environment=valley(1)), mean())


def setting_of(agents: int) -> Any:
    import numpy as np

    from tests.support.quadratic import Valley

    return Valley(np.ones((agents, 1), np.float32), np.ones((agents, 1), np.float32))


def clients(folder: str, address: str, seats: Sequence[int], size: int, digest: str, update: bytes, place: int) -> None:
    """Agents that send the same update for every task."""
    from fedrl.transport.credentials import load
    from fedrl.transport.grpc_transport import GrpcTransport
    from fedrl.transport.seam import LinkClosedError
    from fedrl.wire.protocol import Hello, Reader, Ready, Sent, Stop, Task, Welcome, sent

    async def one(k: int) -> None:
        link = await GrpcTransport(load(Path(folder) / "issued" / f"site-{k}", "agent")).connect(address)
        for frame in sent(Hello("", 0, 0, digest.encode())):
            await link.send(frame)
        reader = Reader(8 * size + 10_000)
        try:
            while True:
                message = reader.take(await link.receive())
                if isinstance(message, Welcome):
                    for frame in sent(Ready(1.0)):
                        await link.send(frame)
                elif isinstance(message, Task):
                    content = update[:place] + struct.pack("<i", message.version) + update[place + 4 :]
                    for frame in sent(Sent(message.job, message.version, content)):
                        await link.send(frame)
                elif isinstance(message, Stop):
                    return
        except LinkClosedError:
            return

    async def everybody() -> None:
        await asyncio.gather(*(one(k) for k in seats))

    asyncio.run(everybody())


@contextmanager
def coordinating(
    folder: Path, agents: int, size: int, apart: Sequence[int] = (), **options: Any
) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a simulation whose agents are tasks of another process, and the processes: those `apart` have a second one.

    Args:
        folder: Folder of the certificates.
        agents: Number of agents.
        size: Number of parameters.
        apart: Numbers of the agents in the second process.
        **options: Options of `fedrl.simulate`.
    """
    import jax
    import numpy as np

    from fedrl.engines.messages import messages
    from fedrl.engines.simulate import simulate
    from fedrl.federation.wire_digest import as_json, wire_digest
    from fedrl.network.bridge import Bridge
    from fedrl.network.choices import sites
    from fedrl.transport.credentials import load
    from fedrl.transport.enrolment import Enrolment
    from fedrl.transport.grpc_transport import GrpcTransport
    from fedrl.wire.codec import codec

    federation, fleet = federation_of(size), setting_of(agents)
    wire = messages(federation, fleet)
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wire.update)._replace(weight=np.float32(1.0))
    like = like._replace(value=jax.tree.map(lambda x: np.full(x.shape, 1e-3, x.dtype), like.value))
    one, other = (codec(wire.update).encode(like._replace(version=np.int32(v))) for v in (0, -1))
    place = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    digest = json.dumps(as_json(wire_digest(federation, jax.tree.map(lambda x: x[0], fleet))))
    transport = GrpcTransport(load(folder / "issued" / "hub", "coordinator"), Enrolment(folder / "enrolment.json"))
    together, processes = [k for k in range(agents) if k not in apart], []
    with Bridge(transport, "localhost:0") as bridge:
        executor = sites(bridge, lambda name: int(name.split("-")[1]))
        simulation = simulate(federation, fleet, executor=executor, **options)
        for seats in filter(None, (together, apart)):
            given = (str(folder), bridge.address, seats, size, digest, one, place)
            processes.append(multiprocessing.get_context("spawn").Process(target=clients, args=given, daemon=True))
            processes[-1].start()
        yield simulation, processes
    for process in processes:
        process.join(10)


def measured(folder: Path, agents: int, size: int) -> dict[str, float]:
    """Run a coordinator, and return milliseconds and CPU milliseconds of a round."""
    with coordinating(folder, agents, size) as (simulation, _):
        state, times, used = simulation.init(0), [], 0.0
        for number in range(WARM + ROUNDS):
            if number == WARM:
                used = cpu()
            began = time.perf_counter()
            state, seen = simulation.round(state)
            times.append(time.perf_counter() - began)
            assert not seen.rejected, seen.rejected
        used = cpu() - used
    return {"ms": 1e3 * median(times[WARM:]), "cpu_ms": 1e3 * used / ROUNDS}


def echoes(folder: str, port: int, agents: int) -> None:
    """The other end of the raw measurement."""

    async def one(k: int) -> None:
        context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        context.load_cert_chain(f"{folder}/issued/site-{k}/certificate.pem", f"{folder}/issued/site-{k}/key.pem")
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context, limit=1 << 22)
        try:
            while True:
                (size,) = struct.unpack("<I", await reader.readexactly(4))
                writer.write(struct.pack("<I", size) + await reader.readexactly(size))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def everybody() -> None:
        await asyncio.gather(*(one(k) for k in range(agents)))

    asyncio.run(everybody())


def raw(folder: Path, agents: int, size: int) -> dict[str, float]:
    """Return milliseconds and CPU milliseconds of a round of echoes of the same bytes."""
    content = os.urandom(4 * size)

    async def run() -> tuple[list[float], float]:
        peers: list[Any] = []
        ready = asyncio.Event()

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peers.append((reader, writer))
            if len(peers) == agents:
                ready.set()

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / "issued" / "hub" / "certificate.pem", folder / "issued" / "hub" / "key.pem")
        server = await asyncio.start_server(met, "localhost", 0, ssl=context, limit=1 << 22)
        port = server.sockets[0].getsockname()[1]
        given = (str(folder), port, agents)
        process = multiprocessing.get_context("spawn").Process(target=echoes, args=given, daemon=True)
        process.start()
        await ready.wait()

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(struct.pack("<I", len(content)) + content)
            await writer.drain()
            (length,) = struct.unpack("<I", await reader.readexactly(4))
            await reader.readexactly(length)

        times, used = [], 0.0
        for number in range(WARM + ROUNDS):
            if number == WARM:
                used = cpu()
            began = time.perf_counter()
            await asyncio.gather(*(one(*peer) for peer in peers))
            times.append(time.perf_counter() - began)
        used = cpu() - used
        process.kill()
        return times[WARM:], used

    times, used = asyncio.run(run())
    return {"ms": 1e3 * median(times), "cpu_ms": 1e3 * used / ROUNDS}


def main() -> None:
    if sys.argv[1:2] == ["part"]:  # each measurement has a process of its own
        kind, folder, agents, size = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
        print(json.dumps((measured if kind == "fedrl" else raw)(folder, agents, size)))
        return
    cases = CASES if len(sys.argv) < 3 else [(int(sys.argv[1]), int(sys.argv[2]), 2.5)]
    for agents, size, goal in cases:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "certs"
            certificates(folder, agents)
            ours, theirs = (part(kind, folder, agents, size) for kind in ("fedrl", "raw"))
        what = f"{agents} agents, {size:,} parameters"
        print(f"{what}: {json.dumps(ours)}, raw {json.dumps(theirs)}", flush=True)
        emit(Figure(f"{what}: a round over raw TLS echo", ours["ms"] / theirs["ms"], goal, "x", at_least=False))


def part(kind: str, folder: Path, agents: int, size: int) -> dict[str, float]:
    import subprocess

    command = [sys.executable, "-m", "benchmarks.network", "part", kind, str(folder), str(agents), str(size)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(found.stderr[-3000:])
    result: dict[str, float] = json.loads(found.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
