"""Whoever may open the socket or the pages of a coordinator can say anything there, and neither stops nor fills it."""

import asyncio
import json
import os
import socket
import stat
import threading

import pytest

import fedrl.runs.control as control_module
from fedrl.core.errors import RunError
from fedrl.network.bridge import Bridge
from fedrl.runs.control import MOST_CLIENTS, SOCKET, Control, asked
from fedrl.transport.local import LocalTransport
from tests.network.test_control import Running
from tests.network.test_coordinate import TABLES, World


@pytest.fixture
def short(monkeypatch):
    """Clients have half a second, so that a test does not take ten."""
    monkeypatch.setattr(control_module, "ANSWER_S", 0.5)


def controlled(place, test, **options):
    """Run a test while a coordinator without a run listens for its operator."""

    async def run():
        control = Control(Bridge(LocalTransport(), "nowhere"), place, **options)
        await control.begin()
        try:
            return await asyncio.wait_for(test(control), 60)
        finally:
            await control.end()

    return asyncio.run(run())


async def said(place, *lines):
    """What the socket answers to lines; b"" if it closes without a word."""
    reader, writer = await asyncio.open_unix_connection(str(place / SOCKET))
    try:
        for line in lines:
            writer.write(line)
        await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def page(address, request):
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        writer.write(request)
        writer.write_eof()
        await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


STATUS = b'{"command": "status"}\n'
LINES = {
    "no JSON": b"status\n",
    "not UTF-8": b'{"command": "\xff\xfe"}\n',
    "a number": b"1\n",
    "a list": b"[" * 100 + b"]" * 100 + b"\n",
    "deep": b"[" * 60_000 + b"\n",
    "a number of 60,000 digits": b"1" * 60_000 + b"\n",
    "an unknown command": b'{"command": "rm -rf"}\n',
    "a command that is a map": b'{"command": {"a": [1]}}\n',
    "no command": b"{}\n",
    "optout of nobody": b'{"command": "optout"}\n',
    "optout of a number": b'{"command": "optout", "name": 7}\n',
    "optout of two lines": b'{"command": "optout", "name": "site-0\\nsite-1\\u001b[2J"}\n',
    "half a character": b'{"command": "optout", "name": "\\ud800"}\n',
    "another line": b'{"command": "none"}\n{"command": "stop"}\n',
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_no_command_is_answered_in_one_line_and_changes_nothing(tmp_path, name):
    async def test(control):
        answer = await said(tmp_path, LINES[name])
        assert answer.count(b"\n") == 1
        assert answer.isascii()
        assert list(json.loads(answer)) == ["error"]
        assert json.loads(answer)["error"].isprintable()
        found = json.loads(await said(tmp_path, STATUS))
        assert not found["paused"]
        assert not found["stopping"]

    controlled(tmp_path, test)


def test_a_line_that_is_too_long_is_answered_too(tmp_path):
    async def test(control):
        assert "too long" in json.loads(await said(tmp_path, b'{"command": "' + b"a" * 200_000 + b'"}\n'))["error"]

    controlled(tmp_path, test)


def test_clients_that_say_nothing_are_closed_and_the_newest_is_always_served(tmp_path):
    async def test(control):
        idle = [await asyncio.open_unix_connection(str(tmp_path / SOCKET)) for _ in range(3 * MOST_CLIENTS)]
        guests = [await asyncio.open_connection(*control.health_address.split(":")) for _ in range(3 * MOST_CLIENTS)]
        assert json.loads(await said(tmp_path, STATUS))["agents"] == []
        assert (await page(control.health_address, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok")
        assert control.clients <= 2 * MOST_CLIENTS
        for _, writer in (*idle, *guests):
            writer.close()

    controlled(tmp_path, test, health=0)


def test_a_client_that_reads_nothing_or_says_a_byte_now_and_then_is_let_go(tmp_path, short):
    async def test(control):
        control.status = lambda: {"much": "x" * (8 << 20)}  # more than any buffer of a socket
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deaf.setblocking(False)
        deaf.connect(str(tmp_path / SOCKET))
        deaf.send(STATUS)
        _, slow = await asyncio.open_connection(*control.health_address.split(":"))
        for _ in range(12):
            if not slow.is_closing():
                slow.write(b"G")
            await asyncio.sleep(0.1)
        assert not control.clients
        deaf.close()
        slow.close()

    controlled(tmp_path, test, health=0)


def test_a_long_answer_arrives_whole_also_where_nothing_more_is_said(tmp_path):
    async def test(control):
        control.status = lambda: {"run": "x" * (4 << 20)}
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
        writer.write(STATUS)
        writer.write_eof()
        await asyncio.sleep(0.1)
        assert len(json.loads(await reader.read())["run"]) == 4 << 20
        writer.close()

    controlled(tmp_path, test)


REQUESTS = {
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n": b"200",
    b"GET /healthz\r\n\r\n": b"200",
    b"GET /readyz HTTP/1.1\r\n\r\n": b"503",
    b"GET /healthz/../status HTTP/1.1\r\n\r\n": b"404",
    b"GET /control.sock HTTP/1.1\r\n\r\n": b"404",
    b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc": b"405",
    b"\xff\xfe\x00\r\n\r\n": b"400",
    b"\r\n": b"400",
    b"GET\r\n\r\n": b"400",
    b"GET " + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n": b"400",
}


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_any_request_to_the_pages_has_an_answer(tmp_path, request_):
    async def test(control):
        answer = await page(control.health_address, request_)
        assert answer.split(b" ")[:2] == [b"HTTP/1.1", REQUESTS[request_]], answer

    controlled(tmp_path, test, health=0)


def test_the_pages_are_on_this_machine_alone(tmp_path):
    async def test(control):
        assert control.health_address.startswith("127.0.0.1:")
        for place in socket.getaddrinfo(socket.gethostname(), int(control.health_address.rpartition(":")[2])):
            if not place[4][0].startswith(("127.", "::1")):
                with pytest.raises(OSError, match=r"refused|unreachable|assign"):
                    await asyncio.open_connection(place[4][0], place[4][1])

    controlled(tmp_path, test, health=0)


def test_the_socket_is_the_users_alone_whatever_the_umask_and_whatever_was_there(tmp_path):
    elsewhere, path = tmp_path / "elsewhere", tmp_path / SOCKET
    elsewhere.write_text("kept")

    async def test(control):
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert path.lstat().st_uid == os.geteuid()
        assert json.loads(await said(tmp_path, STATUS))

    mask = os.umask(0)
    try:
        path.symlink_to(elsewhere)
        controlled(tmp_path, test)
        assert elsewhere.read_text() == "kept"
        assert stat.S_IMODE(elsewhere.stat().st_mode) != 0o600
        with socket.socket(socket.AF_UNIX) as stale:  # of a coordinator that was killed
            stale.bind(str(path))
        controlled(tmp_path, test)
        assert not path.exists()
    finally:
        os.umask(mask)


def test_what_is_in_the_way_of_the_socket_is_named(tmp_path):
    (tmp_path / SOCKET).mkdir()
    with pytest.raises(RunError, match="is a folder"):
        controlled(tmp_path, None)
    long = tmp_path / ("a" * 120)
    long.mkdir()
    with pytest.raises(RunError, match="at most about 100 characters"):
        controlled(long, None)


@pytest.mark.parametrize(
    "answer", [b"", b"7\n", b"no json\n", b"{}", b'{"error": 7}\n', b"[" * 100_000 + b"\n", b"\xff\n"]
)
def test_an_answer_of_something_else_is_one_sentence(tmp_path, answer):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / SOCKET))
        other.listen()

        def serve():
            line, _ = other.accept()
            with line:
                line.recv(1000)
                line.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(RunError) as heard:
            asked(tmp_path, "status")
        serving.join()
    assert "\n" not in str(heard.value)


def test_a_second_coordinator_in_the_same_folder_is_refused_and_the_first_one_is_still_heard(tmp_path):
    running = Running(tmp_path / "run")
    try:
        with pytest.raises(RunError, match="is in use by process"):
            World(TABLES).coordinate(running.tables, tmp_path / "run")
        assert asked(tmp_path / "run", "status")["run"]
    finally:
        asked(tmp_path / "run", "stop")
        running.end()
