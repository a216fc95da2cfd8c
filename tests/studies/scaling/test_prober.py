"""A process for each number of agents: whatever happens to it is a result, and none is left behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrl.studies.scaling import memory, prober
from fedrl.studies.scaling.limits import Limit, limit_of
from fedrl.studies.scaling.prober import Prober

TABLES = {"name": "x", "federation": {"agents": 3}}
ANSWER = {"state": "measured", "round_s": 0.5, "memory_bytes": 1000, "bytes_up": 1.0, "bytes_down": 2.0}
BEGIN = (
    "import json, os, signal, sys, time; request = json.loads(sys.stdin.buffer.readline()); "
    "agents = request['tables']['federation']['agents']; say = lambda **x: print(json.dumps(x), flush=True); "
)
"""What all made-up processes begin with."""


@pytest.fixture
def probing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prober]:
    """`(code, limit, timeout_s) -> Prober` of processes that run this code."""

    def made(code: str, limit: str | None = None, timeout_s: float = 30.0) -> Prober:
        monkeypatch.setattr(prober, "START", BEGIN + code)
        wanted: Limit | None = None if limit is None else limit_of(limit)
        return Prober(TABLES, None, None, wanted, timeout_s, threading.Event(), lambda agents, what: None)

    return made


def test_what_was_measured_is_compared_with_the_limit(probing: Callable[..., Prober]) -> None:
    code = f"say(doing='building'); say(**{ANSWER!r}, machine={{'devices': 2}}, agents_seen=agents)"
    probe = probing(code, "round <= 1 s")
    assert probe(7) == ANSWER | {"agents": 7, "agents_seen": 7, "holds": True}
    assert probe.machine == {"devices": 2}
    assert probing(code, "round <= 499 ms")(7) == ANSWER | {"agents": 7, "agents_seen": 7, "holds": False}
    assert (probing(code, "bytes <= 3 B")(7) or {})["holds"] is True
    assert (probing(code, "bytes <= 2.9 B")(7) or {})["holds"] is False
    assert (probing(code)(7) or {})["holds"] is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("say(doing='round 2'); os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL, as the system does"),
        ("say(doing='round 2'); os._exit(7)", "Its process ended (exit code 7) while measuring round 2."),
        ("say(doing='building'); os._exit(0)", "Its process ended (exit code 0) while building."),
        ("say(state='failed', reason='It ran out of memory.')", "It ran out of memory."),
    ],
)
def test_a_process_that_ends_without_an_answer_breaks_the_limit(
    probing: Callable[..., Prober], code: str, reason: str
) -> None:
    found = probing(code, "round <= 1 s")(10)
    assert found is not None
    assert (found["state"], found["holds"]) == ("failed", False)
    assert reason in found["reason"]


def test_a_process_that_takes_too_long_is_ended_with_what_it_has_started(
    probing: Callable[..., Prober], tmp_path: Path
) -> None:
    pids_file = str(tmp_path / "pids")
    code = (
        f"say(doing='round 1'); pid = os.fork(); open({pids_file!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    )
    found = probing(code, "round <= 1 s", timeout_s=1.0)(10)
    assert found is not None
    assert found["reason"] == "It took longer than 1.0 s and was ended while measuring round 1."
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_with_far_more_memory_than_the_limit_is_ended(probing: Callable[..., Prober]) -> None:
    code = "say(doing='round 1'); held = bytearray(os.urandom(1)) * 200_000_000; time.sleep(60)"
    found = probing(code, "memory <= 50 MB")(10)
    assert found is not None
    assert found["holds"] is False
    assert "far more than the limit" in found["reason"]


def test_a_machine_without_memory_ends_the_process_and_not_the_search(
    probing: Callable[..., Prober], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "is_short", lambda: True)
    found = probing("time.sleep(60)", "round <= 1 s")(10)
    assert found is not None
    assert found["reason"].startswith("The machine ran out of memory")


def test_an_interruption_ends_the_process_and_has_no_result(
    probing: Callable[..., Prober], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "END_S", 0.5)
    probe = probing("say(doing='round 1'); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    threading.Timer(0.5, probe.stop.set).start()
    began = time.monotonic()
    assert probe(10) is None
    assert probe.interrupted
    assert time.monotonic() - began < 10


def test_a_process_that_compiled_is_measured_again_once(probing: Callable[..., Prober], tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = (
        f"n = len(open({str(count)!r}).read()); open({str(count)!r}, 'a').write('.'); "
        f"say(**{ANSWER!r}, compiled_s=float(%s))"
    )
    count.write_text("")
    probe = probing(code % "5 if n == 0 else 0")
    for expected in (2, 3):  # the second number of agents finds the programs
        probe(10)
        assert len(count.read_text()) == expected
    count.write_text("")
    probe = probing(code % "5")  # without a cache
    for expected in (2, 3):
        probe(10)
        assert len(count.read_text()) == expected


def test_memory_is_read_from_the_files_of_linux(tmp_path: Path) -> None:
    """In a container, its limit counts and not the memory of the machine."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 300 kB\n")
    (tmp_path / "proc/self/status").write_text("Name: x\nVmHWM:   123 kB\nVmRSS:  99 kB\n")
    assert memory.peak_bytes(tmp_path) == 123 * 1024
    assert memory.machine_bytes(tmp_path) == 1000 * 1024
    assert memory.spare_bytes(tmp_path) == 300 * 1024
    assert not memory.is_short(tmp_path)
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory.max").write_text(f"{500 * 1024}\n")
    (group / "memory.current").write_text(f"{490 * 1024}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {10 * 1024}\n")
    assert memory.machine_bytes(tmp_path) == 500 * 1024
    assert memory.spare_bytes(tmp_path) == 20 * 1024
    assert memory.is_short(tmp_path)
    (group / "memory.max").write_text("max\n")
    assert memory.machine_bytes(tmp_path) == 1000 * 1024
    assert not memory.is_short(tmp_path / "elsewhere")


def test_a_peak_is_no_less_than_what_was_held_and_workers_are_counted() -> None:
    held = bytearray(os.urandom(1)) * 50_000_000
    assert memory.peak_bytes() > len(held)
    code = "import os; own = bytearray(os.urandom(1)) * 80_000_000; print(len(own), flush=True); input()"
    before = memory.workers_bytes()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert memory.workers_bytes() - before > 80_000_000
        assert worker.pid in list(memory.descendants(os.getpid()))
        worker.communicate(b"\n")
    assert worker.pid not in list(memory.descendants(os.getpid()))
