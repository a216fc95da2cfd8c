"""Messages of a federation in a simulation: their shapes, their sizes, and what of each upload is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.faults import to_send, watched
from fedrl.core.types import Broadcast, Key, PyTree, Update
from fedrl.engines.program_cache import Shapes, cached_program, shapes
from fedrl.engines.state import Rejection, Uploads, no_uploads
from fedrl.federation.federation import Federation
from fedrl.federation.messages import crossing
from fedrl.wire.codec import codec, is_sent, size_bytes, varies


class Upload(NamedTuple):
    """Size and reports of one agent's update, computed inside the compiled program.

    Attributes:
        size_bytes: uint32, bytes of the encoded update; () if all updates have the same size.
        messages: int32, 1 if the update was sent and 0 if a stage withheld it; () if no stage withholds any.
        report: float32 by name, the scalars that the agent reports; NaN if its training failed.
    """

    size_bytes: Any = ()
    messages: Any = ()
    report: dict[str, Any] = {}


class Messages(NamedTuple):
    """Shapes of the messages on the wire: broadcast, encoded update, decoded update, and its size and reports."""

    sent: Broadcast
    update: Update
    decoded: Update
    upload: Upload

    @property
    def up_bytes(self) -> int | None:
        """Bytes of any encoded update, or None if they depend on the update."""
        return codec(self.update).size_bytes

    @property
    def down_bytes(self) -> int:
        """Bytes of one broadcast."""
        return int(size_bytes(self.sent))


def messages(federation: Federation, fleet: PyTree) -> Messages:
    """Return the shapes of an agent's messages."""
    return _exchanged(federation, shapes(fleet, skip=1)).messages


class _Exchange(NamedTuple):
    """Shapes of the messages, and of the arrays that a federation watches for numbers that are not finite."""

    messages: Messages
    watched: PyTree


@cached_program
def _exchanged(federation: Federation, setting: Shapes) -> _Exchange:
    def exchange(key: Key, setting: PyTree) -> _Exchange:
        sent, update, after = crossing(federation, key, setting)
        found = Messages(sent, update, federation.decode(sent, update), uploaded(update))
        return _Exchange(found, (after.learner, to_send(federation.learner.params(after.learner), update)))

    # Traced once, for its shapes only: nothing is compiled or computed.
    return jax.eval_shape(exchange, jax.random.key(0), setting.tree)


def accounting(wire: Messages, agents: int, later: bool = False) -> Callable[[np.ndarray, Upload], Uploads]:
    """Return `(senders, Upload with a row for each) -> Uploads` of all `agents` agents.

    If updates are sent `later`, in the messages of a protocol, nothing of them is counted when they are announced.
    """
    known = 0 if later else wire.up_bytes

    def account(senders: np.ndarray, rows: Upload) -> Uploads:
        found = no_uploads(agents)
        found.size_bytes[senders] = rows.size_bytes if known is None else known
        once = 0 if later else 1
        found.messages[senders] = once if isinstance(rows.messages, tuple) else rows.messages
        for name, said in rows.report.items():
            found.report[name] = np.full(agents, np.nan, np.float32)
            found.report[name][senders] = said
        return found

    return account


def failures(federation: Federation, setting: Shapes) -> Callable[[np.ndarray, np.ndarray], tuple[Rejection, ...]]:
    """Return `(agents, faults) -> rejections` of the agents whose training failed, in the order of agents."""
    # The names of the arrays to which a `FAULT` number refers.
    names = [name for name, _ in watched(*_exchanged(federation, setting).watched)]

    def found(agents: np.ndarray, faults: np.ndarray) -> tuple[Rejection, ...]:
        pairs = sorted((int(agent), int(fault)) for agent, fault in zip(agents, faults, strict=True) if fault > 0)
        return tuple(Rejection(agent, f"{names[fault - 1]} is not finite") for agent, fault in pairs)

    return found


def uploaded(update: Update) -> Upload:
    """Return size and reports of an encoded update, inside a compiled program."""
    void, said = jnp.isnan(update.weight), is_sent(update)  # an agent without an update reports nothing either
    return Upload(
        jnp.asarray(size_bytes(update), jnp.uint32) if varies(update) else (),
        () if said is True else jnp.asarray(said, jnp.int32),
        {name: jnp.where(void, jnp.nan, jnp.asarray(x, jnp.float32)) for name, x in update.report.items()},
    )
