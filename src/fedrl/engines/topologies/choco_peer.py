"""A single agent's part of CHOCO: it sends messages, receives those of its neighbours, and steps towards their copies.

    message --send--> bytes for each neighbour      bytes --receive--> copy of the sender      copies --mix--> total

N peers that exchange these bytes compute the same bits as `Choco`, which simulates all of them. A message is the number
of the copy, 4 bytes, and the difference to the copy before; a negative number marks a whole copy.
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
    """A peer's copy of an agent's message.

    Attributes:
        held: The copy, float32 arrays in the shapes of a message.
        number: Number of differences it was made of.
        number_received: For a neighbour, the number of the peer's own copy that this neighbour was last sent.
    """

    held: PyTree
    number: int = 0
    number_received: int = 0


class Peer(NamedTuple):
    """An agent by itself.

    Attributes:
        agent: Number of the agent.
        own: The copy that its neighbours have of it.
        others: Its copies of its neighbours, by number.
        stage_states: Memory of its stages.
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
    """Return the bytes for each present neighbour, and the peer after sending; nothing if no neighbour is present.

    Args:
        compressor: Compressor of the federation.
        secret: Secret of the agent.
        version: Number of the round.
        step: Number of the consensus step within the round.
        steps: Local steps of the agent in the round.
        peer: Sender.
        message: Its message, in float64 between consensus steps.
        present: Its present neighbours.
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
        # A neighbour that missed a message can't apply this difference: it gets the whole copy.
        late = others[k].number_received != peer.own.number
        body = codec(own.held).encode(own.held) if late else codec(compressor.encoded).encode(encoded)
        messages[k] = np.int32(-own.number if late else own.number).astype("<i4").tobytes() + body
        others[k] = others[k]._replace(number_received=own.number)
    return messages, Peer(peer.agent, own, others, stage_states)


def receive(compressor: Compressor, peer: Peer, sender: int, message: bytes) -> Peer:
    """Return the peer after it received a message of a neighbour.

    Raises:
        WireError: The difference belongs to another copy than the peer has, because a message in between was lost; or
            the bytes are no message of this federation.
    """
    number, before = int(np.frombuffer(message[:4], "<i4")[0]), peer.others[sender]
    if number < 0:
        held = codec(before.held).decode(message[4:])
    elif number != before.number + 1:
        raise WireError(
            f"The difference makes copy {number} of agent {sender}, and this peer has copy {before.number}. A message "
            "was lost, and copies that differ once stay different. Request the whole copy."
        )
    else:
        q = compressor.decode(codec(compressor.encoded).decode(message[4:]))
        held = jax.tree.map(added, before.held, q)
    return peer._replace(others=peer.others | {sender: before._replace(held=held, number=abs(number))})


def mix(peer: Peer, message: PyTree, weights: Mapping[int, float], gamma: float) -> PyTree:
    """Return the peer's message after the step towards its neighbours' copies, in float64.

    Args:
        peer: Peer that has received the messages of all present neighbours.
        message: Its message before the step.
        weights: W_ij for each agent j that it received from, and for itself.
        gamma: Step size.
    """

    def whole(x: np.ndarray, *copies: np.ndarray) -> np.ndarray:
        toward = np.zeros(x.shape)
        for (k, weight), copy in zip(by, copies, strict=True):
            toward += (weight - 1.0 if k == peer.agent else weight) * np.asarray(copy, np.float64)
        return x + gamma * toward

    by = sorted(weights.items())
    copies = [peer.own.held if k == peer.agent else peer.others[k].held for k, _ in by]
    return jax.tree.map(whole, message, *copies)
