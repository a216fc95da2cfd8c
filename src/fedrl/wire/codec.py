"""Encode messages as bytes, of exactly the size that simulations count.

    update --encode--> bytes --decode--> update          the same, bit for bit

Both ends know the shapes of a message, because they run the same federation, so only numbers are sent. A message is the
nodes of its tree in the order of `jax.tree.leaves`, one after the other, each beginning at a whole byte.

    node            bytes
    array           its numbers row by row, little-endian, in their dtype's width
    another node    according to its `Format`: `fedrl.wire.quantized`, `fedrl.wire.sparse`

Nothing in a message is executed, and bytes that no agent could have sent are rejected. Numbers that are not finite are
decoded like others: the server rejects such an update later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.types import PyTree

FORMAT = 1
"""The version of the encoding. Raise it when messages of the same shapes are encoded differently."""


class Source:
    """A reader of bytes from beginning to end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int, what: str) -> memoryview:
        """Return the next `count` bytes.

        Raises:
            WireError: Fewer bytes are left.
        """
        # Checked before an array is made of them, so a message can't announce more memory than it has bytes.
        left = len(self.data) - self.at
        if count > left:
            raise WireError(
                f"{what} takes {count} bytes and {left} are left of {len(self.data)}. The message was cut off, or "
                "written for another federation. Send it again, and compare what both ends run."
            )
        self.at += count
        return self.data[self.at - count : self.at]


class Format(NamedTuple):
    """The encoding of one type of node.

    Attributes:
        size: `(node, entries) -> bytes` if so many entries are sent, by default all. The node has shapes, arrays or
            traced arrays; the result is a number if it depends only on shapes.
        write: `(node, what) -> bytes`, of NumPy arrays. `what` names the node in error messages.
        read: `(like, source, what) -> node`; `like` is a node of shapes.
        varies: Whether its size depends on the numbers in it.
        is_sent: `node -> bool`: whether a message with this node is sent, for nodes that may withhold it. Optional.
    """

    size: Callable[[Any, Any], Any]
    write: Callable[[Any, str], bytes]
    read: Callable[[Any, Source, str], Any]
    varies: bool = False
    is_sent: Callable[[Any], Any] | None = None


FORMATS: dict[type, Format] = {}


def travels_as(kind: type, form: Format) -> None:
    """Register the encoding of a type of node. Nodes of other types are encoded as the arrays that they contain."""
    FORMATS[kind] = form


class Codec(NamedTuple):
    """The encoding and decoding of messages of one structure.

    Attributes:
        encode: `message -> bytes`.
        decode: `bytes -> message`, of NumPy arrays.
        size_bytes: The size of every message in bytes; None if it depends on the numbers in it.
    """

    encode: Callable[[PyTree], bytes]
    decode: Callable[[bytes], PyTree]
    size_bytes: int | None


def codec(like: PyTree) -> Codec:
    """Return the codec of messages with the structure, shapes and dtypes of `like`.

    Args:
        like: A message of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
        WireError: `encode` raises it for other shapes or dtypes; `decode` for bytes that are too short, too long, or
            have a code or an index out of range. The message names the node.

    >>> import numpy as np
    >>> wire = codec({"w": np.zeros(3, np.float32), "n": np.int32(0)})
    >>> sent = wire.encode({"w": np.array([0.5, -1.0, 0.0], np.float32), "n": np.int32(7)})
    >>> len(sent), wire.size_bytes, wire.decode(sent)["w"].tolist()
    (16, 16, [0.5, -1.0, 0.0])
    """
    agreed: Any = jax.tree.structure(like)
    # Names and structure are found once, and not again for every message.
    nodes, whole = _named(like, ""), jax.tree.structure(like, is_leaf=_travels)

    def encode(message: PyTree) -> bytes:
        if jax.tree.structure(message) != agreed:
            raise WireError(
                f"The message is a {jax.tree.structure(message)} where {agreed} was agreed on. It was made by another "
                "federation. Compare what both ends run."
            )
        found = jax.tree.leaves(message, is_leaf=_travels)
        return b"".join(write(node, of, name) for node, (name, of) in zip(found, nodes, strict=True))

    def decode(data: bytes) -> PyTree:
        source = Source(data)
        message: PyTree = jax.tree.unflatten(whole, [read(of, source, name) for name, of in nodes])
        if source.at != len(data):
            raise WireError(
                f"The message has {len(data)} bytes and ends after {source.at}. More was sent than was agreed on. "
                "Compare what both ends run."
            )
        return message

    return Codec(encode, decode, None if varies(like) else int(size_bytes(like)))


def size_bytes(message: PyTree) -> Any:
    """Return the size of a message in bytes: a number, or a traced array if the size `varies` in a traced message."""
    return sum(size(node) for node in jax.tree.leaves(message, is_leaf=_travels))


def varies(message: PyTree) -> bool:
    """Return whether the size of messages of these shapes depends on the numbers in them."""
    return any(form.varies for _, form in _formed(message))


def is_sent(message: PyTree) -> Any:
    """Return whether a message is sent: True, or a flag if a node of it may be withheld."""
    said = [form.is_sent(node) for node, form in _formed(message) if form.is_sent is not None]
    return True if not said else functools.reduce(jnp.logical_or, said)


def write_tree(message: PyTree, like: PyTree, what: str = "") -> bytes:
    """Return the bytes of a message.

    Args:
        message: Arrays and nodes with a format of their own, in a pytree.
        like: What was agreed on: a message of the same structure, shapes and dtypes.
        what: What the message is, for error messages.

    Raises:
        WireError: The message has other shapes or dtypes.
    """
    found = jax.tree.leaves(message, is_leaf=_travels)
    return b"".join(write(node, of, name) for node, (name, of) in zip(found, _named(like, what), strict=True))


def read_tree(like: PyTree, source: Source, what: str = "") -> PyTree:
    """Read the next message, as NumPy arrays.

    Args:
        like: A message of the same structure, shapes and dtypes.
        source: The bytes, from which those of the message are taken.
        what: What the message is, for error messages.

    Raises:
        WireError: The bytes end too early, or have values that no message has.
    """
    found = [read(of, source, name) for name, of in _named(like, what)]
    return jax.tree.unflatten(jax.tree.structure(like, is_leaf=_travels), found)


def size(node: Any, entries: Any = None) -> Any:
    """Return the size of a node in bytes, or of so many of its entries."""
    return _form(node).size(node, entries)


def write(node: Any, like: Any, what: str) -> bytes:
    """Return the bytes of a node of a message.

    Args:
        node: An array, or a node with a format of its own.
        like: A node of the shapes and dtypes that were agreed on.
        what: Which node it is, for error messages.

    Raises:
        WireError: The node has other shapes or dtypes.
    """
    node = jax.tree.map(np.asarray, node)
    for leaf, of in zip(jax.tree.leaves(node), jax.tree.leaves(like), strict=True):
        if (leaf.shape, leaf.dtype) != (of.shape, of.dtype):
            raise WireError(
                f"{what} is {leaf.dtype} of shape {leaf.shape} where {of.dtype} of shape {of.shape} was agreed on. It "
                "was made by another federation. Compare what both ends run."
            )
    return _form(node).write(node, what)


def read(like: Any, source: Source, what: str) -> Any:
    """Read the next node of a message.

    Args:
        like: A node of the same shapes and dtypes.
        source: The bytes, from which those of the node are taken.
        what: Which node it is, for error messages.

    Raises:
        WireError: The bytes end too early, or have values that no such node has.
    """
    return _form(like).read(like, source, what)


def travels_if(kind: Callable[[Any, Any], Any], flag: str, follows: str, may_be_silent: bool = False) -> None:
    """Register nodes `kind(flag, value)` whose value is sent only if the flag is set: a byte, then the value.

    Args:
        kind: The type of node, called with a flag and a value.
        flag: The name of the flag's attribute; the value's is `value`.
        follows: The name of the value, for error messages.
        may_be_silent: Whether a message without the value counts as not sent.
    """

    # The flag costs a byte even where the value is withheld, so that the receiver knows what to read.
    def size(node: Any, entries: Any) -> Any:
        del entries
        return 1 + jnp.where(getattr(node, flag), size_bytes(node.value), 0)

    def write(node: Any, what: str) -> bytes:
        return b"\x01" + write_tree(node.value, node.value, what) if getattr(node, flag) else b"\x00"

    def read(like: Any, source: Source, what: str) -> Any:
        said = source.take(1, what)[0]
        if said > 1:
            raise WireError(
                f"{what}: the flag whether {follows} follows is {said}, and must be 0 or 1. The bytes were damaged, or "
                "written for another federation. Compare what both ends run."
            )
        if said:
            return kind(np.bool_(True), read_tree(like.value, source, what))
        return kind(np.bool_(False), jax.tree.map(lambda of: np.zeros(of.shape, of.dtype), like.value))

    is_sent = (lambda node: getattr(node, flag)) if may_be_silent else None
    FORMATS[kind] = Format(size, write, read, varies=True, is_sent=is_sent)  # type: ignore[index]


def _travels(node: Any) -> bool:
    return type(node) in FORMATS


def _named(like: PyTree, what: str) -> list[tuple[str, Any]]:
    """Return the nodes of a message with their names for error messages."""
    nodes = jax.tree.leaves_with_path(like, is_leaf=_travels)
    return [(what + jax.tree_util.keystr(path) or "the message", node) for path, node in nodes]


def _formed(message: PyTree) -> list[tuple[Any, Format]]:
    return [(node, _form(node)) for node in jax.tree.leaves(message, is_leaf=_travels)]


def _form(node: Any) -> Format:
    return FORMATS.get(type(node), ARRAY)


def _write_array(array: np.ndarray, what: str) -> bytes:
    del what
    return array.astype(_little_endian(array.dtype)).tobytes()


def _read_array(like: Any, source: Source, what: str) -> np.ndarray:
    data = source.take(like.size * like.dtype.itemsize, what)
    found = np.frombuffer(data, _little_endian(like.dtype)).astype(like.dtype, copy=False).reshape(like.shape)
    # A view of the message saves a copy; an unaligned one is copied, as it would be slow to compute with.
    return found if found.flags.aligned else found.copy()


def _little_endian(kind: Any) -> np.dtype:
    return np.dtype(kind).newbyteorder("<")


def _size_array(array: Any, entries: Any) -> Any:
    return (array.size if entries is None else entries) * array.dtype.itemsize


ARRAY = Format(_size_array, _write_array, _read_array)
