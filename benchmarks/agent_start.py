"""How long agents need to begin, with the demonstration's experiment.

    python -m benchmarks.agent_start

* an agent whose programs are in the cache, from the start of its process until it is ready: the whole command, and its
  parts in one more start
* `fedrl up --agents 5` without any program in the cache, until its first round is on the disk

Python's bytecode is there, as after an installation; it is kept in a temporary folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, emit

FEDRL = [sys.executable, "-m", "fedrl"]
STARTS = 5


def surroundings(folder: Path, cache: str) -> dict[str, str]:
    """Return environment variables with a cache of programs of its own, and bytecode beside it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"XDG_CACHE_HOME": str(folder / cache), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


@contextmanager
def coordinator(folder: Path) -> Iterator[Path]:
    """Run a coordinator that waits for two agents, and yield the file of the first one."""
    from fedrl.cli.local_federation import laid_out
    from fedrl.config import load, tables_of
    from fedrl.runs.coordinate import for_sites

    laid_out(folder, load(for_sites(tables_of("cartpole")), ["federation.agents=2"]), False)
    command = [*FEDRL, "coordinator", str(folder / "experiment.toml"), "--state", str(folder / "run")]
    command += ["--certificates", str(folder / "certs" / "issued" / "hub"), "--listen", "localhost:0"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=surroundings(folder, "warm"), **pipes)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "may connect to" in line)
    text = (folder / "sites" / "site-0.template").read_text()
    site = folder / "sites" / "site-0.toml"
    site.write_text(text.replace("@ADDRESS@", said.split()[-1].rstrip(".")))
    try:
        yield site
    finally:
        process.kill()
        process.wait()


def started(site: Path, env: dict[str, str]) -> tuple[float, float]:
    """Return the seconds until an agent is ready, on the clock and of the processor."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([*FEDRL, "agent", str(site), "--json"], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    if not any(json.loads(line)["event"] == "ready" for line in process.stdout):
        raise SystemExit("the agent ended before it was ready")
    taken = time.perf_counter() - begun
    process.kill()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parts(site: Path) -> None:
    """Start an agent in this process as the command does, and print the seconds of each part."""
    marks = [("interpreter", 0.0, 0.0)]
    since = time.perf_counter() - time.process_time()

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter() - since, time.process_time()))

    mark("interpreter")
    import fedrl.cli  # noqa: F401

    mark("import the command line")
    import jax  # noqa: F401

    mark("import jax")

    from fedrl.cli.agent import transport_of
    from fedrl.launch import use_devices
    from fedrl.sites.agent import SiteAgent
    from fedrl.sites.site_file import build_site, load_site
    from fedrl.transport.notices import NetworkNotice

    mark("import the rest")
    use_devices(1)
    found = build_site(load_site(site))
    mark("build the federation")
    config, transport = found.config, transport_of(found.config)
    mark("certificate, gRPC")
    names = {"compiling": "connect, begin the run", "connected": "load the programs", "ready": "ready"}

    def notice(what: NetworkNotice) -> None:
        if what.event in names:
            mark(names[what.event])
        if what.event == "ready":
            agent.stop()

    agent = SiteAgent(
        found.federation,
        found.setting_of,
        transport,
        config.coordinator,
        Path(config.folder),
        config.may_leave,
        notice=notice,
    )
    mark("digest of the federation")
    asyncio.run(agent.run())
    for (_, wall, cpu), (name, until, used) in pairwise(marks):
        print(f"  {name:25} {until - wall:6.2f} s, processor {used - cpu:6.2f} s")
    print(f"  {'in all':25} {marks[-1][1]:6.2f} s, processor {marks[-1][2]:6.2f} s", flush=True)


def cold(folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Return the seconds until the first round of a whole federation is on the disk, on the clock and of processors."""
    records, before = folder / "run" / "records.jsonl", resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    command = [*FEDRL, "up", "cartpole", "--agents", "5", "--rounds", "1000", "--quiet", "--state", str(folder)]
    process = subprocess.Popen(command, env=env)
    while not (records.exists() and records.stat().st_size):
        if process.poll() is not None:
            raise SystemExit(f"fedrl up ended with exit code {process.returncode} before its first round")
        time.sleep(0.01)
    taken = time.perf_counter() - begun
    process.terminate()  # it ends its agents
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    if sys.argv[1:2] == ["part"]:
        parts(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with coordinator(folder / "site") as site:
            env = surroundings(folder / "site", "warm")
            found = [started(site, env) for _ in range(1 + STARTS)][1:]
            wall, used = (median(each) for each in zip(*found, strict=True))
            print(f"start of an agent: {wall:.2f} s, processor {used:.2f} s", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.agent_start", "part", str(site)], env=env, check=True)
        emit(Figure("an agent with a warm cache, until it is ready", wall, 4.0, "s", at_least=False))
        taken, used = cold(folder / "up", surroundings(folder / "site", "cold"))
        print(f"fedrl up --agents 5 without programs: {taken:.1f} s, processors {used:.1f} s until its end", flush=True)
    emit(Figure("fedrl up --agents 5 without programs, until the first round", taken, 40.0, "s", at_least=False))


if __name__ == "__main__":
    main()
