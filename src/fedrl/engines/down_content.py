"""Messages to agents under down stages as bytes, of exactly the size that `fedrl.engines.down_messages` counts.

    content      kind, 1 byte | rest of the broadcast | what the kind says

    SAME         nothing: the agent trains from its copy
    DIFFERENCE   the encoded difference that leads from the agent's copy to the next one
    WHOLE        the copy; with look-ahead the one before it, and the difference between the two
    APART        parameters for this job alone, while the agent's copy stays as it is

    coordinator  DownContents(...).message(CopyId) --content--> DownReader(...).read(content, Copy, number, ahead)  site

A copy is known by its number and its digest. An agent says both when it connects, so a copy that was restored from a
backup, or made in another run, is never mistaken for the server's. A difference that an agent has added already is not
added again, so a message may come twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.down_messages import DIFFERENCE, KIND_BYTES, NOTHING, SAME, WHOLE
from fedrl.engines.inbox import Copied
from fedrl.engines.program_cache import cached_program
from fedrl.engines.topologies.server import looking_ahead
from fedrl.federation.federation import Federation
from fedrl.wire.codec import codec
from fedrl.wire.frames import digest_of

APART = 3
"""The kind of a message with parameters for one job, which only a coordinator sends that was restarted."""


class CopyId(NamedTuple):
    """What identifies a copy.

    Attributes:
        number: Its number, the differences added so far.
        digest: Its digest, 32 hexadecimal digits; "" of one that was sent over the connection that there is now.
    """

    number: int
    digest: str


class Copy(NamedTuple):
    """The copy of an agent, NumPy arrays.

    Attributes:
        number: Its number.
        held: The copy, and with look-ahead the one before as well, a tuple.
    """

    number: int
    held: tuple[Params, ...]


class DownCodec:
    """Bytes of copies and differences of a federation with down stages.

    Args:
        federation: The federation.
        sent: Shapes of its broadcast, `fedrl.engines.messages.Messages.sent`.

    Attributes:
        largest: Bytes that no message exceeds.
    """

    def __init__(self, federation: Federation, sent: Broadcast) -> None:
        down = federation.downlink
        assert down is not None
        self.message = jax.eval_shape(lambda params: down.message(down.init(params)), sent.params)
        self.rest, self.params = codec(sent._replace(params=())), codec(sent.params)
        self.difference = codec(self.message)
        self.whole_bytes = _fixed(self.params.size_bytes)
        self.start = KIND_BYTES + _fixed(self.rest.size_bytes)
        dense = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.message))
        self.largest = self.start + self.whole_bytes + max(dense, self.difference.size_bytes or 0)

    def bytes_of(self, held: tuple[Params, ...]) -> bytes:
        """Return a copy as bytes."""
        return b"".join(self.params.encode(each) for each in held)

    def held_of(self, data: bytes) -> tuple[Params, ...]:
        """Read a copy.

        Raises:
            WireError: The bytes are none.
        """
        size = max(1, self.whole_bytes)
        return tuple(self.params.decode(data[i : i + size]) for i in range(0, max(1, len(data)), size))

    def id_of(self, copy: Copy) -> CopyId:
        """Return what identifies a copy."""
        return CopyId(copy.number, digest_of(self.bytes_of(copy.held)).hex())


class DownContents:
    """The messages to agents about one broadcast, each encoded when it is needed first.

    Args:
        wire: The codecs.
        sent: The broadcast that agents train from.
        copied: The server's copy, a row of `Table.copies`; None if agents are sent parameters for this job alone.
        earlier: `number -> digest` of an earlier copy of the server; None if it is not known any more.
    """

    def __init__(
        self, wire: DownCodec, sent: Broadcast, copied: Copied | None, earlier: Callable[[int], str | None]
    ) -> None:
        self._wire, self._sent, self._copied = wire, sent, copied
        self.number, self.ahead, self._known = 0, 0.0, list[tuple[int, str | None, int]]()
        if copied is not None:
            self.number, self.ahead = int(copied.number), float(copied.ahead)
            self.digest = wire.id_of(Copy(self.number, copied.held)).digest
            before = self.number - 1
            self._known = [(self.number, self.digest, SAME), (before, earlier(before), DIFFERENCE)]
        self._encoded: dict[int, tuple[bytes, bytes]] = {}

    def number_of(self, copy: CopyId | None) -> int:
        """Return the number of an agent's copy, or `NOTHING` if it is neither this one nor the one before."""
        return NOTHING if copy is None or self._kind_for(copy) == WHOLE else copy.number

    def message(self, copy: CopyId | None) -> tuple[bytes, bytes]:
        """Return the message to an agent with this copy, and the hash of its bytes."""
        return self.encoded(APART if self._copied is None else self._kind_for(copy))

    def after(self, copy: CopyId | None) -> CopyId | None:
        """Return what identifies the copy of an agent after its message."""
        return copy if self._copied is None else CopyId(self.number, "")

    def encoded(self, kind: int) -> tuple[bytes, bytes]:
        """Return the message of a kind, and the hash of its bytes."""
        if kind not in self._encoded:
            rest = self._wire.rest.encode(self._sent._replace(params=()))
            content = b"".join((bytes([kind]), rest, self._of(kind)))
            self._encoded[kind] = content, digest_of(content)
        return self._encoded[kind]

    def _kind_for(self, copy: CopyId | None) -> int:
        for number, digest, kind in self._known:
            if copy is not None and copy.number == number and copy.digest in ("", digest):
                return kind
        return WHOLE

    def _of(self, kind: int) -> bytes:
        if kind == APART or self._copied is None:
            return self._wire.params.encode(self._sent.params)
        held, looks_ahead = self._copied.held, len(self._copied.held) > 1
        if kind == SAME:
            return b""
        if kind == WHOLE and not looks_ahead:
            return self._wire.params.encode(held[0])
        # Who looks ahead needs the copy before to the last bit, which the copy minus the difference would not have.
        whole = self._wire.params.encode(held[1]) if kind == WHOLE else b""
        return whole + (self._wire.difference.encode(self._copied.message) if self.number else b"")


class DownReader:
    """Reads the messages of a server with down stages, and keeps the agent's copy up to date.

    Args:
        federation: The federation of the agent.
        sent: Shapes of its broadcast.
    """

    def __init__(self, federation: Federation, sent: Broadcast) -> None:
        self.wire, self._federation = DownCodec(federation, sent), federation
        self._receive, self._ahead = _receiving(federation), 0.0

    def compile(self) -> None:
        """Compile the program that adds a difference."""
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.wire.message)
        held = self.wire.params.decode(bytes(self.wire.whole_bytes))
        jax.block_until_ready(self._receive(held, like))

    def read(self, content: bytes, copy: Copy | None, number: int, ahead: float) -> tuple[Broadcast, Copy | None]:
        """Return the broadcast of a message, and the agent's copy after it.

        Args:
            content: The message.
            copy: The agent's copy; None if it has none.
            number: Number of the copy after the message, as the coordinator says.
            ahead: Factor of the look-ahead along the last difference; 0 for none.

        Raises:
            WireError: The message can't be read, or does not fit the agent's copy, which then stays as it is.
        """
        self._check_ahead(ahead)
        if len(content) < self.wire.start or content[0] not in (SAME, DIFFERENCE, WHOLE, APART):
            begin = content[0] if content else "nothing"
            raise WireError(
                f"A message to a site begins with {begin} and has {len(content)} bytes. It begins with its kind, 0 to "
                f"{APART}, and has {self.wire.start} bytes or more. It was damaged, or made for another federation."
            )
        rest = self.wire.rest.decode(content[KIND_BYTES : self.wire.start])
        kind, data = content[0], content[self.wire.start :]
        if kind == APART:
            return rest._replace(params=self.wire.params.decode(data)), copy
        after = self._after(kind, data, copy, number, ahead > 0.0)
        params = after.held[0]
        if ahead > 0.0:
            if len(after.held) < 2:
                raise WireError(
                    f"The coordinator looks ahead along its last difference, and copy {number} of this site has none. "
                    "It has not sent the whole copy, as it has to."
                )
            params = jax.tree.map(np.asarray, looking_ahead(self._federation, ahead)(*after.held))
        return rest._replace(params=params), after

    def _check_ahead(self, ahead: float) -> None:
        """Refuse a look-ahead that is none, or another one than before: each would be compiled."""
        if not (math.isfinite(ahead) and ahead >= 0.0) or (self._ahead and ahead != self._ahead):
            known = f", and was {self._ahead} before" if self._ahead else ""
            raise WireError(
                f"The coordinator looks ahead by {ahead}{known}. The factor is a finite number from 0 on, which "
                "follows from the schedule of the run and does not change in it."
            )
        self._ahead = ahead

    def _after(self, kind: int, data: bytes, copy: Copy | None, number: int, looks_ahead: bool) -> Copy:
        """Return the copy after a message."""
        wire = self.wire
        if kind == WHOLE and looks_ahead and number:
            before = wire.params.decode(data[: wire.whole_bytes])
            difference = wire.difference.decode(data[wire.whole_bytes :])
            return Copy(number, (self._added(before, difference), before))
        if kind == WHOLE:
            held = wire.params.decode(data)
            return Copy(number, (held, held) if looks_ahead else (held,))
        if kind == SAME and data:
            raise WireError(f"{len(data)} bytes came after the word that nothing has changed. The message was damaged.")
        difference = wire.difference.decode(data) if kind == DIFFERENCE else None
        if copy is not None and copy.number == number:
            return copy  # a difference that has been added before comes again when a connection broke
        if difference is not None and copy is not None and copy.number == number - 1:
            held = self._added(copy.held[0], difference)
            return Copy(number, (held, copy.held[0]) if looks_ahead else (held,))
        mine = "none" if copy is None else f"copy {copy.number}"
        what = f"the difference to copy {number}" if kind == DIFFERENCE else f"that copy {number} has not changed"
        raise WireError(
            f"The coordinator sends {what}, and this site has {mine}. It has to send the whole copy, as this site says "
            "which copy it has whenever it connects."
        )

    def _added(self, held: Params, difference: PyTree) -> Params:
        added: Params = jax.tree.map(np.asarray, self._receive(held, difference))
        return added


def _fixed(size: int | None) -> int:
    assert size is not None  # broadcasts are arrays
    return size


@cached_program
def _receiving(federation: Federation) -> Callable[[Params, PyTree], Any]:
    """Return the program that adds a difference to a copy."""
    assert federation.downlink is not None
    return jax.jit(federation.downlink.receive)
