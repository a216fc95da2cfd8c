"""Frames: the pieces in which messages travel, with everything that a receiver needs to refuse one before it trusts it.

    magic, major, minor, kind, flags, header length, body length, CRC of all before it and of the header | header | body

The header is a MessagePack map of at most 64 kB, the body at most 512 kB of a message's content. Content that is longer
is cut into several frames of one kind; a `Joiner` puts it together again and compares its hash. Lengths are compared
with limits before anything is allocated, and nothing in a frame is executed. No flag has a meaning yet: all are 0.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from fedrl.core.errors import WireError

MAGIC = b"FRL1"
MAJOR, MINOR = 1, 3
"""The version of the protocol. Ends of another major version don't understand each other; a minor one adds fields
and kinds."""
HEAD, CRC = struct.Struct("<4sBBBBIII"), struct.Struct("<I")
MOST_HEADER, MOST_BODY = 64 * 1024, 512 * 1024
LARGEST = HEAD.size + MOST_HEADER + MOST_BODY
"""The largest number of bytes of a frame."""


class Frame(NamedTuple):
    """A frame that was read.

    Attributes:
        kind: Number of the kind of message.
        minor: Minor version of the protocol that its sender speaks.
        header: Fields of the message, by name.
        body: Its content, or a part of it.
    """

    kind: int
    minor: int
    header: dict[str, Any]
    body: memoryview


def packed(kind: int, header: Mapping[str, Any], body: bytes | memoryview = b"") -> bytes:
    """Return a frame as bytes.

    Args:
        kind: Number of the kind of message.
        header: Fields of the message, by name.
        body: Its content, or a part of it.

    Raises:
        WireError: Fields or content are larger than a frame may be.

    >>> unpacked(packed(3, {"job": 7}, b"abc")).header
    {'job': 7}
    """
    import msgpack

    fields = msgpack.packb(dict(header))
    if len(fields) > MOST_HEADER or len(body) > MOST_BODY:
        raise WireError(
            f"A frame of kind {kind} has {len(fields)} bytes of fields and {len(body)} of content. The largest are "
            f"{MOST_HEADER} and {MOST_BODY}. Send content in parts, and shorter fields."
        )
    head = HEAD.pack(MAGIC, MAJOR, MINOR, kind, 0, len(fields), len(body), 0)[: -CRC.size]
    return b"".join((head, CRC.pack(zlib.crc32(fields, zlib.crc32(head))), fields, body))


def unpacked(data: bytes) -> Frame:
    """Read a frame.

    Raises:
        WireError: The bytes are no frame of this protocol.
    """
    import msgpack

    if len(data) < HEAD.size:
        raise WireError(f"A frame of {len(data)} bytes came, and its head alone has {HEAD.size}. It was cut off.")
    magic, major, minor, kind, flags, fields, body, crc = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"A frame begins with {magic!r}, and those of fedrl with {MAGIC!r}. The other end is no fedrl.")
    if major != MAJOR:
        raise WireError(
            f"The other end speaks version {major} of the protocol, and this one version {MAJOR}. Install the same "
            "version of fedrl at both ends."
        )
    if fields > MOST_HEADER or body > MOST_BODY or len(data) != HEAD.size + fields + body:
        raise WireError(
            f"A frame of {len(data)} bytes says that it has {fields} bytes of fields and {body} of content; at most "
            f"{MOST_HEADER} and {MOST_BODY} are allowed. It is damaged, or the other end is no fedrl."
        )
    raw = data[HEAD.size : HEAD.size + fields]
    if zlib.crc32(raw, zlib.crc32(data[: HEAD.size - CRC.size])) != crc or flags:
        raise WireError("The checksum or the flags of a frame are wrong: it was damaged on the way.")
    try:
        header = msgpack.unpackb(raw, max_map_len=64, max_array_len=1024, max_ext_len=0, strict_map_key=True)
    except Exception as fault:
        raise WireError(f"The fields of a frame can't be read: {type(fault).__name__} {fault}.") from fault
    if not isinstance(header, dict) or not all(isinstance(name, str) for name in header):
        raise WireError(f"The fields of a frame are a {type(header).__name__}, and have to be a map of names.")
    return Frame(kind, minor, header, memoryview(data)[HEAD.size + fields :])


PART, PARTS, SIZE, HASH = "part", "parts", "size", "hash"
"""Fields that cut content adds to those of its message."""


def frames(kind: int, header: Mapping[str, Any], content: bytes = b"", digest: bytes | None = None) -> Iterator[bytes]:
    """Return the frames of a message: one, or as many as its content needs.

    Args:
        kind: Number of the kind of message.
        header: Fields of the message, by name.
        content: Its content, of any length.
        digest: The hash of the content (`digest_of`), if it is known already.

    >>> [len(unpacked(frame).body) for frame in frames(3, {"job": 7}, bytes(MOST_BODY + 1))]
    [524288, 1]
    """
    if not content:
        yield packed(kind, header)
        return
    count, view = -(-len(content) // MOST_BODY), memoryview(content)
    known = {PARTS: count, SIZE: len(content), HASH: digest_of(content) if digest is None else digest}
    for i in range(count):
        yield packed(kind, {**header, PART: i, **known}, view[i * MOST_BODY : (i + 1) * MOST_BODY])


def digest_of(content: bytes) -> bytes:
    """Return the first 16 bytes of the SHA-256 of content; processors have instructions for it."""
    return hashlib.sha256(content).digest()[:16]


class Joiner:
    """Puts the content of one message at a time together, from frames that arrive in order.

    Args:
        largest: The largest content in bytes; a larger one is refused before memory is allocated for it.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._parts: list[memoryview] = []
        self._known: tuple[int, int, int, bytes] = (0, 0, 0, b"")

    def add(self, frame: Frame) -> bytes | None:
        """Add a frame, and return the content if it is complete, or None.

        Raises:
            WireError: The content is too large, its parts don't fit together, or its hash is wrong. What came of it is
                discarded.
        """
        try:
            return self._added(frame)
        except WireError:
            self._parts = []
            raise

    def _added(self, frame: Frame) -> bytes | None:
        if PART not in frame.header:
            if self._parts or len(frame.body):
                raise WireError(f"A frame of kind {frame.kind} came in the middle of the content of another message.")
            return b""
        part, known = self._announced(frame)
        _, parts, size, digest = known
        if not self._parts:
            if part != 0 or parts != -(-size // MOST_BODY) or not size:
                raise WireError(f"Content begins with part {part} of {parts}, and {size} bytes: parts are missing.")
            self._known = known
        expected = len(self._parts)
        if known != self._known or part != expected:
            raise WireError(f"Part {part} of {parts} came, and part {expected} of {self._known[1]} was expected.")
        if len(frame.body) != min(MOST_BODY, size - part * MOST_BODY):
            raise WireError(f"Part {part} of {parts} has {len(frame.body)} bytes, which is not its share of {size}.")
        # Memory is taken for what has come, not for what was announced.
        self._parts.append(frame.body)
        if len(self._parts) < parts:
            return None
        content, self._parts = b"".join(self._parts), []
        if digest_of(content) != digest:
            raise WireError(f"The hash of {size:,} bytes of content is wrong: they were damaged on the way.")
        return content

    def _announced(self, frame: Frame) -> tuple[int, tuple[int, int, int, bytes]]:
        """Return the number of a part, and what it says of the whole: kind, parts, size, hash."""
        part, parts, size, digest = (frame.header.get(name) for name in (PART, PARTS, SIZE, HASH))
        if not (_is_count(part) and _is_count(parts) and _is_count(size) and isinstance(digest, bytes)):
            said = f"part {part!s:.20} of {parts!s:.20}, size {size!s:.20}"
            raise WireError(f"A part of content says {said}: these are no counts, or it has no hash.")
        if size > self.largest:
            raise WireError(f"Content of {size:,} bytes was announced, and at most {self.largest:,} are allowed here.")
        return part, (frame.kind, parts, size, digest)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
