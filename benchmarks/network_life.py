"""What a coordinator needs besides a round's messages: disk, memory, and time after a stop or a kill.

    python -m benchmarks.network_life [commit | memory | stopped | killed | long ...]

commit    records, log and checkpoint of a version, against writing as many bytes with fsync
memory    peak of a coordinator with 50 and 100 agents, a million parameters, a mean
stopped   the rounds after an agent's process was stopped, with a deadline of two seconds, and with FedBuff
killed    `kill -9` of a coordinator twice: what it lost, and how long it takes to listen again
long      memory of both sides over 3,000 rounds of ten agents

Agents are tasks of one other process, as in `benchmarks.network`. In the last two they are whole agents of sites.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from benchmarks.measure import Figure, emit, seconds
from benchmarks.network import certificates, coordinating

CORRIDOR = {
    "name": "corridor",
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_steps": 16},
    "seeds": [7],
    "evaluation": {"episodes": 4},
}
TICK = os.sysconf("SC_CLK_TCK")


def commit(folder: Path) -> None:
    """Measure what makes a version durable, against fsync of its size."""
    from fedrl.records.folder import RunFolder
    from fedrl.runs.coordinate import EventLog
    from fedrl.runs.states import save_state

    def write(place: Path, content: bytes) -> None:
        with (place / f"raw-{next(names)}").open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())

    names = count()
    certificates(folder / "certs", 2)
    for size in (20_000, 1_000_000):
        place = folder / f"{size}"
        place.mkdir()
        path, run, log, numbers = place / "checkpoint", RunFolder(place), EventLog(place), count(1)
        log.follow(SimpleNamespace(log=[]))  # type: ignore[arg-type]
        with coordinating(folder / "certs", 2, size) as (simulation, _):
            state, _ = simulation.round(simulation.init(0))

        def version(
            path: Any = path, run: Any = run, log: Any = log, numbers: Any = numbers, now: Any = (simulation, state)
        ) -> None:
            record = {"round": next(numbers), "loss": 0.1}
            log(record)
            run.append(record)
            save_state(path, *now, record["round"], run.syncing())

        version()
        content = bytes(path.stat().st_size)
        pairs = [(seconds(version), seconds(partial(write, place, content))) for _ in range(41)]
        times = [1e3 * median(each) for each in zip(*pairs, strict=True)]
        found = median(one / other for one, other in pairs)
        what = f"{size:,} parameters, {len(content):,} bytes"
        print(f"{what}: a durable version {times[0]:.1f} ms, fsync {times[1]:.1f} ms", flush=True)
        emit(Figure(f"{what}: a durable version over fsync of its size", found, 1.5, "x", at_least=False))


def peak(folder: Path, agents: int, size: int) -> float:
    """Return the peak memory of this process as a coordinator, in MB."""
    from fedrl.core.arenas import use_one_arena

    use_one_arena()  # as `fedrl coordinator` does
    certificates(folder, agents)
    with coordinating(folder, agents, size) as (simulation, _):
        state = simulation.init(0)
        for _ in range(8):
            state, _ = simulation.round(state)
        # Not `ru_maxrss`, which begins at the size of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def memory(folder: Path) -> None:
    """Measure the coordinator's peak memory, in a process of its own for each."""
    found = []
    for agents, size in ((2, 1_000), (50, 1_000_000), (100, 1_000_000)):
        command = [sys.executable, "-m", "benchmarks.network_life", "peak", str(folder / f"{agents}")]
        said = subprocess.run([*command, str(agents), str(size)], stdout=subprocess.PIPE, text=True, check=True)
        found.append(float(said.stdout.split()[-1]))
        print(f"{agents} agents, {size:,} parameters: peak {found[-1]:.0f} MB", flush=True)
    emit(
        Figure("peak memory, 50 agents, a million parameters", found[1], 400.0, "MB", at_least=False),
        Figure("peak memory of 100 agents over that of 50", found[2] / found[1], 1.1, "x", at_least=False),
    )


def stopped(folder: Path) -> None:
    """Measure rounds before and after the process of one of ten agents is stopped."""
    from fedrl.server.schedules import fed_buff, synchronous

    certificates(folder, 10)
    for name, schedule in (("deadline of 2 s", synchronous(deadline_s=2.0)), ("FedBuff", fed_buff(5))):
        with coordinating(folder, 10, 20_000, [9], scheduler=schedule) as (simulation, processes):
            state, times = simulation.init(0), []
            for number in range(421):
                if number == 220:
                    os.kill(processes[1].pid, signal.SIGSTOP)
                began = time.perf_counter()
                state, _ = simulation.round(state)
                times.append(time.perf_counter() - began)
            processes[1].kill()
        before, first, after = times[20:220], times[220:223], times[221:]
        stop = ", ".join(f"{each:.2f}" for each in first)
        print(
            f"{name}: {1e3 * median(before):.1f} ms a round, then {stop} s, {1e3 * median(after):.1f} ms later",
            flush=True,
        )
        if name == "FedBuff":
            emit(Figure("FedBuff with a stopped agent", sum(after) / sum(before), 1.2, "x", at_least=False))
        else:
            emit(
                Figure("the longest of the next rounds after an agent stopped", max(first), 2.5, "s", at_least=False),
                Figure("rounds later", median(after[3:]) / median(before), 1.1, "x", at_least=False),
            )


def agents_of(folder: str, address: str, agents: int) -> None:
    """Run the agents of all sites in one process, until the end of the run."""
    from fedrl.cli.agent import transport_of
    from fedrl.launch import use_devices
    from fedrl.sites.agent import Backoff, SiteAgent
    from fedrl.sites.site_file import build_site, load_site

    use_devices(1)

    def one(k: int) -> SiteAgent:
        site = Path(folder) / "sites" / f"site-{k}.toml"
        site.write_text(site.with_suffix(".template").read_text().replace("@ADDRESS@", address))
        found = build_site(load_site(site))
        config = found.config
        return SiteAgent(
            found.federation,
            found.setting_of,
            transport_of(config),
            address,
            Path(config.folder),
            config.may_leave,
            seed=config.seed,
            give_up_s=60.0,
            backoff=Backoff(0.1, 1.0),
        )

    async def everybody() -> None:
        await asyncio.gather(*(agent.run() for agent in [one(k) for k in range(agents)]))

    asyncio.run(everybody())


class Run:
    """A run over the network, with its coordinator and its agents as one process each.

    Args:
        folder: A new folder.
        agents: Number of agents.
        rounds: Number of rounds.
    """

    def __init__(self, folder: Path, agents: int, rounds: int) -> None:
        from fedrl.cli.local_federation import laid_out
        from fedrl.config import load
        from fedrl.runs.coordinate import for_sites

        laid_out(folder, load(for_sites({**CORRIDOR, "federation": {"agents": agents}, "rounds": rounds})), True)
        self.folder, self.records = folder, folder / "run" / "records.jsonl"
        self.address = "localhost:0"
        self.listening_s = self.begin()
        given = (str(folder), self.address, agents)
        self.agents = multiprocessing.get_context("spawn").Process(target=agents_of, args=given, daemon=True)
        self.agents.start()

    def begin(self) -> float:
        """Start the coordinator, and return the processor's seconds until it listens."""
        command = [sys.executable, "-m", "fedrl", "coordinator", str(self.folder / "experiment.toml"), "--replayable"]
        command += ["--state", str(self.folder / "run"), "--listen", self.address, "--patience", "600"]
        command += ["--certificates", str(self.folder / "certs" / "issued" / "hub")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = self.process.stderr
        assert errors is not None
        said = next((line for line in errors if "may connect to" in line), "")
        if not said:
            raise SystemExit(f"the coordinator of {self.folder} ended before it listened")
        used = self.used_s()
        threading.Thread(target=errors.read, daemon=True).start()  # else a full pipe would stop the coordinator
        self.address = said.split()[-1].rstrip(".")
        return used

    def used_s(self) -> float:
        """Return the seconds that the coordinator has used of the processor."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rounds(self) -> Iterator[int]:
        """Yield the number of rounds that are recorded, until the coordinator ends."""
        while self.process.poll() is None:
            yield self.records.read_bytes().count(b"\n") if self.records.exists() else 0
            time.sleep(0.02)
        if self.process.returncode:
            raise SystemExit(f"the coordinator of {self.folder} ended with exit code {self.process.returncode}")

    def stored(self) -> int:
        """Return the number of the last version on the disk."""
        from fedrl.records.checkpoint import round_of

        return max((round_of(path) for path in self.folder.glob("run/checkpoints/*.safetensors")), default=0)

    def digest(self) -> str:
        """Return the hash of the final parameters."""
        return hashlib.sha256((self.folder / "run" / "params.safetensors").read_bytes()).hexdigest()

    def close(self) -> None:
        """End both processes."""
        self.process.kill()
        self.agents.join(10)
        self.agents.kill()


@contextmanager
def running(folder: Path, agents: int, rounds: int) -> Iterator[Run]:
    """Yield a run, and end its processes."""
    run = Run(folder, agents, rounds)
    try:
        yield run
    finally:
        run.close()


def killed(folder: Path) -> None:
    """Kill a coordinator after rounds 50 and 150 of 200, and compare with an undisturbed run."""
    with running(folder / "whole", 3, 200) as run:
        list(run.rounds())
        whole = run.digest()
    listening, lost = [], 0
    with running(folder / "killed", 3, 200) as run:
        for at in (50, 150):
            next(number for number in run.rounds() if number >= at)
            run.process.kill()
            run.process.wait()
            stored = run.stored()
            listening.append(run.begin())
            lost += stored - run.stored() if run.stored() < stored else 0
        list(run.rounds())
        numbers = [json.loads(line)["round"] for line in run.records.read_text().splitlines()]
        same = run.digest() == whole
    lost += len(set(range(1, 201)) - set(numbers))
    print(f"killed twice: {lost} versions lost, the parameters are {'the same' if same else 'OTHERS'}", flush=True)
    emit(
        Figure("after kill -9: processor until it listens again", max(listening), 2.0, "s", at_least=False),
        Figure("after kill -9: versions lost", lost, 0.0, "", at_least=False),
        Figure("after kill -9: parameters of the undisturbed run", float(same), 1.0),
    )


def long(folder: Path) -> None:
    """Measure the memory of coordinator and agents over 3,000 rounds."""

    def resident(pid: Any) -> float:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    with running(folder / "long", 10, 3000) as run:
        seen: list[tuple[int, float, float]] = []
        for number in run.rounds():
            if number >= 500 and run.process.poll() is None and number >= (seen[-1][0] + 25 if seen else 500):
                seen.append((number, resident(run.process.pid), resident(run.agents.pid)))
    for number, one, other in seen[:: max(1, len(seen) // 10)]:
        print(f"round {number}: coordinator {one:.1f} MB, agents {other:.1f} MB", flush=True)
    for column, name in ((1, "coordinator"), (2, "ten agents")):
        # The means of the first and the last rounds: single values vary with the allocator.
        some = max(1, len(seen) // 10)
        first, last = (sum(each[column] for each in part) / some for part in (seen[:some], seen[-some:]))
        emit(Figure(f"3,000 rounds: memory of {name} at the end over round 500", last / first, 1.05, "x", False))


def main() -> None:
    if sys.argv[1:2] == ["peak"]:
        print(peak(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
        return
    known = {each.__name__: each for each in (commit, memory, stopped, killed, long)}
    for name in sys.argv[1:] or known:
        with tempfile.TemporaryDirectory() as place:
            known[name](Path(place))


if __name__ == "__main__":
    main()
