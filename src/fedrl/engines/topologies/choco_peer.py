"""An agent's own part of CHOCO: it writes messages, reads those of its neighbours, and goes towards their copies.

    message --speak--> bytes for each neighbour      bytes --hear--> copy of the sender      copies --mix--> total

What N peers come to by bytes alone is what `Choco` computes for all of them, to the last bit. A message is the number
of the copy, 4 bytes, and the difference that takes the copy there; under the negative of the number, the copy whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.keys import Root
from fedrl.core.types import PyTree
from fedrl.engines.topologies.choco import Compressor, added, difference, message_key
from fedrl.wire.codec import codec


class PeerCopy(NamedTuple):
    """What a peer holds of an agent, by how many differences it was made, and of a neighbour up to which it heard.

    Attributes:
        held: Float32 arrays, as of a message of one agent.
        number: By how many differences it was made.
        number_received: The number of the peer's own copy that the agent was last sent.
    """

    held: PyTree
    number: int = 0
    number_received: int = 0


class Peer(NamedTuple):
    """An agent by itself.

    Attributes:
        agent: Its number.
        own: The copy that its neighbours hold of it.
        others: Its copies of its neighbours.
        stage_states: The memory of its stages.
    """

    agent: int
    own: PeerCopy
    others: dict[int, PeerCopy]
    stage_states: PyTree


def send(
    compressor: Compressor,
    secret: Root,
    version: int,
    step: int,
    steps: int,
    peer: Peer,
    message: PyTree,
    present: Mapping[int, object],
) -> tuple[dict[int, bytes], Peer]:
    """What the neighbours who are there are sent; nothing, if none is.

    Args:
        compressor: Of the federation.
        secret: Of the agent.
        version: Of the round.
        step: Of consensus, in the round.
        steps: Local steps of the agent in the round.
        peer: Who speaks.
        message: What it holds, in float64 between steps of consensus.
        present: Its neighbours who are there.
    """
    if not present:
        return {}, peer
    apart = jax.tree.map(difference, message, peer.own.held)
    numbers = (np.int32(n) for n in (peer.agent, version, steps))
    data = message_key(secret, version, step)
    encoded, stage_states, _ = compressor.encode(data, *numbers, peer.stage_states, apart)
    own = PeerCopy(jax.tree.map(added, peer.own.held, compressor.decode(encoded)), peer.own.number + 1)
    messages, others = {}, dict(peer.others)
    for k in present:
        late = others[k].number_received != peer.own.number
        body = codec(own.held).encode(own.held) if late else codec(compressor.encoded).encode(encoded)
        messages[k] = np.int32(-own.number if late else own.number).astype("<i4").tobytes() + body
        others[k] = others[k]._replace(number_received=own.number)
    return messages, Peer(peer.agent, own, others, stage_states)


def receive(compressor: Compressor, peer: Peer, sender: int, message: bytes) -> Peer:
    """The peer after a message of a neighbour.

    Raises:
        WireError: The difference belongs to another copy than the peer holds: a message between was lost. Or the bytes
            are no message of this federation.
    """
    number, before = int(np.frombuffer(message[:4], "<i4")[0]), peer.others[sender]
    if number < 0:
        held = codec(before.held).decode(message[4:])
    elif number != before.number + 1:
        raise WireError(
            f"The difference makes copy {number} of agent {sender}, and copy {before.number} is held. A message was "
            "lost, and copies that differ once would differ ever after. Have it sent whole."
        )
    else:
        q = compressor.decode(codec(compressor.encoded).decode(message[4:]))
        held = jax.tree.map(added, before.held, q)
    return peer._replace(others=peer.others | {sender: before._replace(held=held, number=abs(number))})


def mix(peer: Peer, message: PyTree, weights: Mapping[int, float], gamma: float) -> PyTree:
    """What the peer holds after it went towards its neighbours, float64.

    Args:
        peer: Who heard all who are there.
        message: What it held before.
        weights: W_ij of each agent j that it heard, and of itself.
        gamma: The step.
    """

    def whole(x: np.ndarray, *copies: np.ndarray) -> np.ndarray:
        toward = np.zeros(x.shape)
        for (k, weight), copy in zip(by, copies, strict=True):
            toward += (weight - 1.0 if k == peer.agent else weight) * np.asarray(copy, np.float64)
        return x + gamma * toward

    by = sorted(weights.items())
    copies = [peer.own.held if k == peer.agent else peer.others[k].held for k, _ in by]
    return jax.tree.map(whole, message, *copies)
