"""What an operator says to a running coordinator, and what it answers."""

import json
import os
import stat
import threading
import urllib.request

import pytest

from fedrl.core.errors import RunError
from fedrl.runs.control import SOCKET, asked
from fedrl.wire.protocol import Pause, Resume
from tests.network.test_coordinate import TABLES, World


class Running:
    """A run in a thread, of so many rounds that it has to be stopped."""

    def __init__(self, out, rounds=100_000, **options):
        self.out, self.world, self.result, self.fault = out, World({**TABLES, "rounds": rounds}), None, None
        self.tables, self.options = {**TABLES, "rounds": rounds, "evaluation": {"every": 0}}, options
        self.reached = threading.Event()
        self.texts = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        assert self.reached.wait(120), self.fault

    def sink(self, event):
        if event.get("event") == "notice":
            self.texts.append(event["text"])
        if event.get("round", 0) >= 3:
            self.reached.set()

    def run(self):
        try:
            self.result = self.world.coordinate(self.tables, self.out, sinks=[self.sink], **self.options)
        except Exception as fault:
            self.fault = fault
            self.reached.set()

    def end(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert self.fault is None


def test_an_operator_sees_pauses_resumes_and_stops_a_run(tmp_path):
    running = Running(tmp_path / "run")
    assert stat.S_IMODE(os.stat(tmp_path / "run" / SOCKET).st_mode) == 0o600
    found = asked(tmp_path / "run", "status")
    assert found["name"] == "corridor"
    assert [agent["name"] for agent in found["agents"]] == ["site-0", "site-1", "site-2"]
    assert {agent["state"] for agent in found["agents"]} <= {"ready", "at work"}
    for agent in found["agents"]:
        assert agent["jobs"] >= 3
        assert agent["reliability"] == 1.0
        assert agent["measured_steps_per_s"] > 0
        assert agent["steps_per_s"] is None  # these agents do not say
    asked(tmp_path / "run", "pause")
    stable, last = 0, -1
    for _ in range(200):
        now = asked(tmp_path / "run", "status")["round"]
        stable, last = (stable + 1, now) if now == last else (0, now)
        if stable == 10:
            break
        threading.Event().wait(0.05)
    assert stable == 10, "rounds go on in a pause"
    asked(tmp_path / "run", "resume")
    for _ in range(200):
        if asked(tmp_path / "run", "status")["round"] > last:
            break
        threading.Event().wait(0.05)
    assert asked(tmp_path / "run", "status")["round"] > last
    for agent in running.world.agents:
        assert [type(m) for m in agent.told if isinstance(m, Pause | Resume)] == [Pause, Resume]
    asked(tmp_path / "run", "stop")
    running.end()
    assert not (tmp_path / "run" / SOCKET).exists()
    with pytest.raises(RunError, match=r"No coordinator answers at .* \(No such file or directory\)\. Give"):
        asked(tmp_path / "run", "status")
    assert any("site-0 is ready" in text for text in running.texts)


def test_a_run_whose_agents_are_all_opted_out_ends_and_says_why(tmp_path):
    running = Running(tmp_path / "run")
    with pytest.raises(RunError, match="is no agent of this run"):
        asked(tmp_path / "run", "optout", name="site-9")
    for k in range(3):
        assert "takes part no more" in asked(tmp_path / "run", "optout", name=f"site-{k}")["said"]
    running.end()
    assert all(agent.ended is not None and agent.ended.code == "opted_out" for agent in running.world.agents)
    assert any("has left for good" in text for text in running.texts)


def test_pages_for_a_supervisor_tell_whether_agents_are_ready(tmp_path):
    found = {}

    def sink(event):
        if event.get("round") == 3:
            for page in ("healthz", "readyz"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
                    found[page] = answer.status, answer.read().decode()

    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    World(TABLES).coordinate(TABLES, tmp_path / "run", sinks=[sink], health=port)
    assert found["healthz"] == (200, "ok")
    assert found["readyz"] == (200, "3 agents ready")


@pytest.mark.parametrize("line", [b"no json\n", b"[]\n", b'{"command": "rm"}\n', b"{" * 100_000 + b"\n", b""])
def test_rubbish_on_the_socket_is_answered_or_ignored(tmp_path, line):
    import socket

    running = Running(tmp_path / "run")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / "run" / SOCKET))
        client.settimeout(15)
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        try:
            answer = client.makefile("rb").readline()
        except ConnectionError:
            answer = b""
    assert not answer or "error" in json.loads(answer)
    asked(tmp_path / "run", "stop")
    running.end()
