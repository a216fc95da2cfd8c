"""The log of what left: on the disk before a message leaves, and no line can be changed unseen."""

import asyncio
import hashlib
import json
import math
import os

import pytest

from fedrl.core.errors import RunError
from fedrl.sites.connection import Connection
from fedrl.sites.sent_log import FIRST, NAME, SentLog, read_log
from fedrl.transport.local import LocalTransport
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.protocol import Beat, Ready, Sent, sent

ROUNDS = [Sent(n, n - 1, bytes([n]) * n) for n in range(1, 6)]


class Wire:
    """A link that keeps what is sent, and what the log said then."""

    peer = "coordinator"

    def __init__(self, path, broken=False):
        self.path, self.broken, self.frames, self.lines = path, broken, [], []

    async def send(self, frame):
        self.lines.append(len(self.path.read_bytes().splitlines()))
        if self.broken:
            raise LinkClosedError("The wire is cut.")
        self.frames.append(frame)

    async def receive(self):
        raise LinkClosedError("The wire is cut.")

    async def close(self):
        pass


def written(path, messages=tuple(ROUNDS)):
    log, wire = SentLog(path), Wire(path)
    connection = Connection(wire, log, 100, lambda: 86400.0)
    connection.run = "ab" * 16

    async def send():
        for message in messages:
            await connection.send(message)

    asyncio.run(send())
    log.close()
    return wire


def test_each_message_has_a_line_before_it_leaves(tmp_path):
    path = tmp_path / "sent.jsonl"
    wire = written(path)
    found = read_log(path)
    assert (found.fault, len(found.records)) == ("", 5)
    assert wire.lines == [1, 2, 3, 4, 5]
    for n, (record, message) in enumerate(zip(found.records, ROUNDS, strict=True), 1):
        frames = b"".join(sent(message))
        assert record == (n, 86400.0, "ab" * 16, "Sent", message.job, message._fields, len(frames), record.hash)
        assert record.hash == hashlib.sha256(frames).hexdigest()
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert "1970-01-02T00:00:00.000Z" in path.read_text()


def test_what_was_not_sent_because_the_wire_was_cut_is_logged_all_the_same(tmp_path):
    path = tmp_path / "sent.jsonl"
    log = SentLog(path)
    with pytest.raises(LinkClosedError):
        asyncio.run(Connection(Wire(path, broken=True), log, 100).send(Beat(3)))
    log.close()
    assert [record.kind for record in read_log(path).records] == ["Beat"]


def test_it_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "sent.jsonl"
    written(path, ROUNDS[:2])
    last = read_log(path).last
    written(path, ROUNDS[2:])
    found = read_log(path)
    assert (found.fault, [record.n for record in found.records]) == ("", [1, 2, 3, 4, 5])
    assert json.loads(path.read_text().splitlines()[2])["before"] == last
    assert json.loads(path.read_text().splitlines()[0])["before"] == FIRST


EDITS = {
    "a number": lambda lines: [lines[0], lines[1].replace(b'"job": 2', b'"job": 7'), *lines[2:]],
    "a hash": lambda lines: [lines[0], lines[1].replace(b'"hash": "', b'"hash": "0'), *lines[2:]],
    "a line is removed": lambda lines: [*lines[:2], *lines[3:]],
    "the first line is removed": lambda lines: lines[1:],
    "two lines change places": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a line is repeated": lambda lines: [lines[0], lines[1], lines[1], *lines[2:]],
    "a line of one's own": lambda lines: [lines[0], b'{"n": 2}', *lines[1:]],
    "rubbish": lambda lines: [lines[0], b"\xff\xfe", *lines[1:]],
    "an empty line": lambda lines: [lines[0], b"", *lines[1:]],
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found_and_nothing_is_added_to_such_a_log(name, tmp_path):
    path = tmp_path / "sent.jsonl"
    written(path)
    lines = EDITS[name](path.read_bytes().splitlines())
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = read_log(path)
    assert "The log was changed after it was written" in found.fault
    assert len(found.records) < 5
    with pytest.raises(RunError, match="Keep it as evidence"):
        SentLog(path)


def test_a_line_that_a_crash_has_cut_off_is_taken_away_and_the_chain_goes_on(tmp_path):
    path = tmp_path / "sent.jsonl"
    written(path, ROUNDS[:2])
    whole = path.read_bytes()
    written(path, ROUNDS[2:3])
    line = path.read_bytes()[len(whole) :]
    for cut in (1, len(line) // 2, len(line) - 1):
        path.write_bytes(whole + line[:cut])
        written(path, ROUNDS[3:4])
        found = read_log(path)
        assert (found.fault, [record.job for record in found.records]) == ("", [1, 2, 4])


def test_without_a_line_nothing_leaves(tmp_path, monkeypatch):
    path = tmp_path / "sent.jsonl"
    log, wire = SentLog(path), Wire(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedrl.sites.sent_log.os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        asyncio.run(Connection(wire, log, 100).send(Beat(1)))
    monkeypatch.undo()
    log.close()
    assert (wire.frames, path.read_bytes()) == ([], b"")


def test_two_messages_at_once_do_not_mix_their_frames(tmp_path):
    path = tmp_path / "sent.jsonl"
    log, wire = SentLog(path), Wire(path)
    connection, large = Connection(wire, log, 100), Sent(1, 0, bytes(1 << 20))

    async def both():
        sending = wire.send

        async def slowly(frame):
            await asyncio.sleep(0.001)
            await sending(frame)

        wire.send = slowly
        await asyncio.gather(connection.send(large), connection.send(Beat(1)))

    asyncio.run(both())
    log.close()
    assert wire.frames == [*sent(large), *sent(Beat(1))]


@pytest.mark.parametrize(("speed", "fields"), [(math.nan, []), (1.5, ["steps_per_s"])])
def test_a_number_that_a_site_withholds_is_not_listed_among_what_left(tmp_path, speed, fields):
    async def test():
        async def session(link):
            await link.receive()

        listener = await LocalTransport().listen("withheld", session)
        log = SentLog(tmp_path / NAME)
        connection = Connection(await LocalTransport("site-0").connect("withheld"), log, 100)
        await connection.send(Ready(speed))
        await connection.close()
        log.close()
        await listener.close()

    asyncio.run(test())
    (line,) = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert line["fields"] == fields
