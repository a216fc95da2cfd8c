"""What a round costs beside the training: ours over mutual TLS, beside Flower's deployment and its simulation engine.

    make bench-flower

The same work for all: ten agents that do none, a vector of 20,000 float32 to each of them and back, the weighted mean.
Ours is `benchmarks.network`: a coordinator, and agents that are tasks of another process, over mutual TLS. Flower's
deployment is one SuperLink and ten SuperNodes on this machine, without TLS; for every message a SuperNode starts a
process for the app, and asks its SuperLink for messages every three seconds, so about three seconds of a round are that
wait. Flower's simulation engine runs the same app on Ray in one machine, and sends nothing over a network.

Medians over rounds after the first one, which starts processes. Flower has an environment of its own, `.venv-flower`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, emit, leave_out
from benchmarks.network import CASES, certificates, part

AGENTS, PARAMETERS = CASES[0][:2]
ROUNDS = {"deployment": 5, "simulation": 30}
GOALS = {"deployment": 1000.0, "simulation": 20.0}
PLACE = Path(__file__).parents[1] / ".venv-flower" / "bin"
APP = Path(__file__).parent / "flower_app"
LONGEST_S = 400.0


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@contextmanager
def running(home: Path, *command: str) -> Iterator[None]:
    """Run a process of Flower with those that it starts, and end all of them."""
    with (home / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(PLACE / command[0]), *command[1:]],
            env=environment(home),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def environment(home: Path) -> dict[str, str]:
    path = f"{PLACE}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}


def flower(way: str) -> list[float]:
    """Return the seconds of each round of Flower."""
    with tempfile.TemporaryDirectory() as place:
        home, port = Path(place), free_port()
        address = f"127.0.0.1:{port}"
        connection = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        (home / "config.toml").write_text(connection)
        link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        link += ["--disable-runtime-dependency-installation"]
        with running(home, *link, *(["--simulation"] if way == "simulation" else [])):
            wait_for_port(port)
            if way == "simulation":
                return rounds_of(home, way, ["--federation-config", f"num-supernodes={AGENTS}"])
            return deployed(home, address, AGENTS)


def deployed(home: Path, address: str, more: int) -> list[float]:
    """Start the SuperNodes, one inside the other so that all of them end, and run the app."""
    if not more:
        return rounds_of(home, "deployment", [])
    node = ["flower-supernode", "--insecure", "--superlink", address, "--host", "127.0.0.1", "--port", str(free_port())]
    with running(home, *node):
        return deployed(home, address, more - 1)


def rounds_of(home: Path, way: str, more: list[str]) -> list[float]:
    """Run the app, and return the seconds of each round."""
    settings = f"agents={AGENTS} parameters={PARAMETERS} rounds={ROUNDS[way]}"
    command = [str(PLACE / "flwr"), "run", str(APP), "here", "--stream", "--run-config", settings, *more]
    found = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    rounds = [line.split() for line in found.stdout.splitlines() if line.startswith("ROUND ")]
    if len(rounds) != ROUNDS[way] or any(int(agents) != AGENTS for _, _, agents, _ in rounds):
        raise SystemExit(f"Flower's {way} ended after {len(rounds)} rounds: {(found.stdout + found.stderr)[-2000:]}")
    return [float(seconds) for _, _, _, seconds in rounds]


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("Flower's SuperLink does not listen after a minute.")


def main() -> None:
    if not (PLACE / "flwr").exists():
        leave_out("Flower is not installed. Run: make bench-flower")
    version = subprocess.run([str(PLACE / "flwr"), "--version"], capture_output=True, text=True, check=False).stdout
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "certs"
        certificates(folder, AGENTS)
        ours = part("fedrl", folder, AGENTS, PARAMETERS)["ms"]
    print(f"fedrl over mutual TLS: {ours:.2f} ms a round", flush=True)
    for way, goal in GOALS.items():
        seconds = flower(way)
        shown = ", ".join(f"{each:.3f}" for each in seconds)
        print(f"{version.strip()}, {way}: {shown} s a round", flush=True)
        times = 1e3 * median(seconds[1:]) / ours
        emit(Figure(f"a round of Flower's {way} over one of ours, K = {AGENTS}", times, goal, "x"))


if __name__ == "__main__":
    main()
