"""Frames and messages from anyone: nothing but WireError ever comes of them, and no more memory than arrived."""

import base64
import contextlib
import json
import math
import random
import tracemalloc
import zlib
from pathlib import Path
from typing import get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrl.core.errors import WireError
from fedrl.wire import frames as wire
from fedrl.wire.frames import HEAD, MOST_BODY, MOST_HEADER, Joiner, digest_of, packed, unpacked
from fedrl.wire.protocol import FIELDS, KINDS, LARGEST_INT, MOST_TEXT, Beat, Failed, Reader, Sent, Task, sent

MOST = 3 * MOST_BODY
OFTEN = settings(max_examples=100)


def fixture(minor):
    """The messages that a version of the protocol has sent."""
    return Path(__file__).parent / f"messages_{wire.MAJOR}_{minor}.json"


texts = st.text(max_size=40)
counts = st.integers(0, LARGEST_INT)
values = {int: counts, float: st.floats(allow_infinity=False), bool: st.booleans(), str: texts}
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def messages(draw, largest=2000):
    kind = draw(st.sampled_from(KINDS))
    fields = {name: draw(values[hint]) for name, hint in FIELDS[kind].items()}
    if "content" in kind._fields:
        fields["content"] = draw(st.binary(max_size=largest))
    return kind(**fields)


def shown(message):
    """A message such that NaN equals NaN, with its texts as they are sent."""
    found = {}
    for name, value in message._asdict().items():
        text = "".join(c if c.isprintable() else " " for c in value) if isinstance(value, str) else value
        found[name] = "nan" if isinstance(text, float) and math.isnan(text) else text
    return type(message), found


def take(reader, frames):
    """What a reader makes of frames; None if they are no whole message."""
    found = [reader.take(frame) for frame in frames]
    assert all(each is None for each in found[:-1])
    return found[-1]


def feed(reader, frames):
    for frame in frames:
        reader.take(frame)


class TestRoundTrips:
    @OFTEN
    @given(messages())
    def test_every_message_is_read_as_it_was_sent(self, message):
        frames = list(sent(message))
        assert all(len(frame) <= wire.LARGEST for frame in frames)
        assert shown(take(Reader(MOST), frames)) == shown(message)
        assert list(sent(message)) == frames  # the same bytes each time

    @pytest.mark.parametrize("size", [0, 1, MOST_BODY - 1, MOST_BODY, MOST_BODY + 1, 2 * MOST_BODY, MOST])
    def test_content_of_every_length_is_cut_and_joined(self, size):
        content = random.Random(size).randbytes(size)
        frames = list(sent(Sent(3, 2, content)))
        assert len(frames) == max(1, math.ceil(size / MOST_BODY))
        assert take(Reader(MOST), frames) == Sent(3, 2, content)

    @OFTEN
    @given(st.integers(0, 255), st.dictionaries(texts, plain, max_size=5), st.binary(max_size=100))
    def test_every_frame_is_read_as_it_was_packed(self, kind, header, body):
        frame = unpacked(packed(kind, header, body))
        assert (frame.kind, frame.minor, bytes(frame.body)) == (kind, wire.MINOR, body)
        assert msgpack.packb(frame.header) == msgpack.packb(header)

    def test_a_message_without_content_may_come_between_the_parts_of_another(self):
        reader, content = Reader(MOST), bytes(MOST_BODY + 5)
        first, second = sent(Sent(3, 2, content))
        assert reader.take(first) is None
        assert reader.take(*sent(Beat(3))) == Beat(3)
        assert reader.take(second) == Sent(3, 2, content)

    def test_texts_are_made_one_line_and_cut(self):
        assert (
            take(Reader(0), sent(Failed(1, "Traceback:\n\tValueError\x1b[31m"))).reason == "Traceback:  ValueError [31m"
        )
        assert len(take(Reader(0), sent(Failed(1, "x" * 5000))).reason) == MOST_TEXT

    @pytest.mark.parametrize("job", [-1, 2**31, True, 1.0, None, "1"])
    def test_a_field_that_the_other_end_would_refuse_is_not_sent(self, job):
        with pytest.raises(WireError, match="'job' of Beat"):
            sent(Beat(job))


class TestDamage:
    def test_every_flip_of_a_bit_in_head_and_header_is_noticed(self):
        for message in (Beat(7), Task(1, 2, 3, 4, 0.5, 0, "merged", b"abc"), Failed(3, "a reason")):
            (frame,) = sent(message)
            body = len(unpacked(frame).body)
            for bit in range(8 * (len(frame) - body)):
                damaged = bytearray(frame)
                damaged[bit // 8] ^= 1 << bit % 8
                with pytest.raises(WireError):
                    unpacked(bytes(damaged))

    def test_every_flip_of_a_bit_in_content_is_noticed(self):
        (frame,) = sent(Sent(1, 1, b"0123456789"))
        for bit in range(8 * (len(frame) - 10), 8 * len(frame)):
            damaged = bytearray(frame)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(WireError, match="hash"):
                Reader(MOST).take(bytes(damaged))

    def test_every_frame_that_was_cut_off_or_is_too_long_is_noticed(self):
        (frame,) = sent(Sent(1, 1, b"0123456789"))
        for length in range(len(frame)):
            with pytest.raises(WireError):
                Reader(MOST).take(frame[:length])
        with pytest.raises(WireError):
            Reader(MOST).take(frame + b"\0")

    @pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1), (0, 1, 1), (1, 2, 0), (2,), (0, 1, 0)])
    def test_parts_out_of_order_twice_or_missing_are_refused(self, order):
        frames, reader = list(sent(Sent(1, 1, bytes(2 * MOST_BODY + 9)))), Reader(MOST)
        with pytest.raises(WireError, match=r"part|Part"):
            feed(reader, [frames[i] for i in order])
        assert take(reader, frames).job == 1  # a refused content leaves nothing behind

    def test_parts_of_two_messages_are_not_mixed(self):
        one, other = [list(sent(Sent(1, 1, bytes([i]) * (MOST_BODY + 1)))) for i in range(2)]
        reader = Reader(MOST)
        reader.take(one[0])
        with pytest.raises(WireError, match="expected"):
            reader.take(other[1])

    def test_a_later_minor_version_may_add_fields_and_another_major_one_is_refused(self, monkeypatch):
        monkeypatch.setattr(wire, "MINOR", 7)
        newer = packed(4, {"job": 3, "a new field": [1, {"x": None}]})
        monkeypatch.undo()
        assert Reader(MOST).take(newer) == Beat(3)
        monkeypatch.setattr(wire, "MAJOR", 2)
        other = packed(4, {"job": 3})
        monkeypatch.undo()
        with pytest.raises(WireError, match="speaks version 2"):
            unpacked(other)


def forged(kind, raw, body=b"", flags=0):
    """A frame with these bytes as header, and a right checksum."""
    head = HEAD.pack(wire.MAGIC, wire.MAJOR, wire.MINOR, kind, flags, len(raw), len(body), 0)[:-4]
    return head + wire.CRC.pack(zlib.crc32(raw, zlib.crc32(head))) + raw + body


class TestForgery:
    @OFTEN
    @given(st.binary(max_size=300))
    def test_any_bytes_raise_nothing_else(self, data):
        with pytest.raises(WireError):
            Reader(MOST).take(data)

    @OFTEN
    @given(st.integers(0, 255), st.binary(max_size=200), st.binary(max_size=50), st.integers(0, 1))
    def test_any_header_raises_nothing_else(self, kind, raw, body, flags):
        with contextlib.suppress(WireError):
            Reader(MOST).take(forged(kind, raw, body, flags))

    @OFTEN
    @given(st.sampled_from(KINDS), st.data())
    def test_any_values_of_fields_raise_nothing_else_and_have_their_types_if_they_are_read(self, kind, data):
        names = [*FIELDS[kind], "part", "parts", "size", "hash", "more"]
        header = {name: data.draw(st.one_of(plain, counts)) for name in names if data.draw(st.booleans())}
        try:
            message = Reader(MOST).take(packed(KINDS.index(kind), header, data.draw(st.binary(max_size=9))))
        except WireError:
            return
        if message is not None:
            for name, hint in get_type_hints(kind).items():
                assert type(getattr(message, name)) is hint

    @OFTEN
    @given(
        st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 10**9]), st.sampled_from([0, 1, 3, MOST_BODY])), max_size=8)
    )
    def test_any_sequence_of_parts_raises_nothing_else(self, parts):
        joiner = Joiner(MOST)
        for part, length in parts:
            known = {"parts": 3, "size": 2 * MOST_BODY + 3, "hash": bytes(16)}
            with contextlib.suppress(WireError):
                joiner.add(unpacked(packed(5, {"part": part, **known}, bytes(length))))

    @pytest.mark.parametrize(
        "raw",
        [
            msgpack.packb([1, 2]),
            msgpack.packb(None),
            msgpack.packb({1: 2}),
            msgpack.packb({b"job": 2}),
            msgpack.packb({str(i): i for i in range(65)}),
            msgpack.packb({"job": list(range(1025))}),
            msgpack.packb({"job": msgpack.ExtType(5, b"x")}),
            msgpack.packb({"job": msgpack.Timestamp(1)}),
            b"\x91" * 5000 + b"\xc0",  # nested lists
            b"\x81\xa1a" * 5000 + b"\xc0",
            b"\xdf\xff\xff\xff\xff",  # a map of 2^32 - 1 entries
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\x81\xa1\xff\x00",  # no UTF-8
            msgpack.packb({"job": 2}) + b"\0",
            b"",
        ],
    )
    def test_headers_that_are_no_map_of_names_are_refused(self, raw):
        with pytest.raises(WireError):
            unpacked(forged(4, raw))

    @pytest.mark.parametrize("kinds", [(Beat,), ()])
    def test_kinds_that_may_not_come_here_are_refused(self, kinds):
        with pytest.raises(WireError, match="may come"):
            take(Reader(MOST, kinds), sent(Sent(1, 1, b"")))
        with pytest.raises(WireError, match="kind 200"):
            Reader(MOST, kinds).take(packed(200, {}))

    def test_content_where_none_belongs_is_refused(self):
        for header, body in (({"job": 1}, b"x"), ({"job": 1, "part": 0, "parts": 1, "size": 0, "hash": b""}, b"")):
            with pytest.raises(WireError, match="it has none"):
                Reader(MOST).take(packed(4, header, body))
        with pytest.raises(WireError, match="in the middle"):
            Reader(MOST).take(packed(5, {"job": 1, "version": 1}, b"x"))

    def test_a_frame_that_is_too_large_is_not_packed(self):
        with pytest.raises(WireError, match="largest"):
            packed(5, {}, bytes(MOST_BODY + 1))
        with pytest.raises(WireError, match="largest"):
            packed(5, {"x": "y" * MOST_HEADER})


class TestMemory:
    def peak(self, work):
        work()  # imports and caches are not what is measured
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("size", [10**9, 2**63, 10**15])
    def test_nothing_is_allocated_for_content_that_is_only_announced(self, size):
        parts = -(-size // MOST_BODY)
        frame = packed(
            5, {"job": 1, "version": 1, "part": 0, "parts": parts, "size": size, "hash": bytes(16)}, bytes(100)
        )

        def announced(largest):
            with pytest.raises(WireError):
                Reader(largest).take(frame)

        assert self.peak(lambda: announced(MOST)) < 100_000
        assert self.peak(lambda: announced(2**64)) < 100_000  # even where so much were allowed

    def test_a_first_part_takes_no_more_memory_than_itself(self):
        frame = next(sent(Sent(1, 1, bytes(100 * MOST_BODY))))
        assert self.peak(lambda: Reader(100 * MOST_BODY).take(frame)) < 100_000

    def test_announced_lengths_of_a_frame_allocate_nothing(self):
        head = HEAD.pack(wire.MAGIC, wire.MAJOR, wire.MINOR, 4, 0, 2**32 - 1, 2**32 - 1, 0)

        def announced():
            with pytest.raises(WireError):
                unpacked(head)

        assert self.peak(announced) < 100_000

    def test_joining_takes_the_content_once(self):
        frames = list(sent(Sent(1, 1, bytes(MOST))))

        assert self.peak(lambda: feed(Reader(MOST), frames)) < 1.1 * MOST


def examples():
    """A message of each kind, and contents of one part and of two."""
    made = {int: 7, float: 0.25, bool: True, str: "a name"}
    for kind in KINDS:
        fields = {name: made[hint] for name, hint in FIELDS[kind].items()}
        contents = [b"", bytes(range(256)), bytes(MOST_BODY + 3)] if "content" in kind._fields else [None]
        for content in contents:
            yield kind(**fields) if content is None else kind(**fields, content=content)


def stored(message, frames):
    """A message as the fixture has it."""
    fields = {name: _text(value) if name == "content" else value for name, value in message._asdict().items()}
    return {"kind": type(message).__name__, "fields": fields, "frames": [_text(frame) for frame in frames]}


def _text(data):
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _bytes(text):
    return zlib.decompress(base64.b64decode(text))


class TestReleases:
    """Every release reads what earlier versions of the protocol have sent; their files are never written again."""

    @pytest.mark.parametrize("minor", range(wire.MINOR + 1))
    def test_the_messages_of_every_version_are_read(self, minor):
        kinds = {kind.__name__: kind for kind in KINDS}
        saved = json.loads(fixture(minor).read_text())
        assert {each["kind"] for each in saved} <= set(kinds)
        for each in saved:
            fields = {name: _bytes(value) if name == "content" else value for name, value in each["fields"].items()}
            message = take(Reader(MOST), [_bytes(frame) for frame in each["frames"]])
            assert type(message) is kinds[each["kind"]]
            assert {name: getattr(message, name) for name in fields} == fields

    def test_this_version_sends_them_as_the_same_bytes(self):
        saved = [[_bytes(frame) for frame in each["frames"]] for each in json.loads(fixture(wire.MINOR).read_text())]
        assert [list(sent(each)) for each in examples()] == saved

    def test_the_numbers_of_kinds_and_the_hash_are_those_of_the_version_that_added_them(self):
        names = [kind.__name__ for kind in KINDS]
        assert names[:6] == ["Hello", "Welcome", "Ready", "Task", "Beat", "Sent"]
        assert names[6:12] == ["Failed", "Taken", "Leave", "Pause", "Resume", "Stop"]
        assert names[12:14] == ["Bid", "Answer"]
        assert names[14:20] == ["Credential", "JobDone", "Invitation", "SumRequest", "SumReply", "Declined"]
        assert digest_of(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223"


if __name__ == "__main__":
    text = json.dumps([stored(each, sent(each)) for each in examples()], indent=1) + "\n"
    fixture(wire.MINOR).write_text(text)
