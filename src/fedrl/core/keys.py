"""Keys are derived, never threaded, so the order in which things happen cannot change randomness.

    root --BLAKE2b(stream, numbers)--> key          one hash for each key, on the host

Two roots: the **run's**, which all parties may have (first parameters, experience, order of data, selection), and the
**secret** of each party, an agent or a server (noise, masks, stochastic rounding), which nobody else can derive. A
simulation derives the secrets of all parties from its seed; a party of its own draws its secret from the operating
system.

What is derived below a key, inside a compiled program, is either split or folded in, never both, and no key that has
children is drawn from: `split(key, n)[i]` is `fold_in(key, i)`, and numbers drawn by a key are keys below it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt32

from fedrl.core.errors import ConfigError
from fedrl.core.types import Key

ROOT_BYTES, KEY_BYTES = 32, 8


class Stream(IntEnum):
    """What keys are for, and the numbers that tell them apart within the stream.

    Of a run: SERVER (), AGENTS (agent, how often it has begun anew), TRAINING (version, agent, how often it has heard
    that version before), ACTING (version, agent, again, local step), EPISODES (version, agent, again, local step,
    instance), BEGINNING (rounds trained, agent, instance), BROKEN (the same), ANEW (times begun, agent, instance),
    SELECTION (), EVALUATION () and (agent, episode), FLEET (), TUNING (number), SECRET (kind of party, level, number).

    Of a secret: ENCODE (version, again, step of consensus), RULE (version), FINISH (version), DOWN (version, again).
    """

    SERVER = 0
    AGENTS = 1
    TRAINING = 2
    ACTING = 3
    EPISODES = 4
    BEGINNING = 5
    BROKEN = 6
    ANEW = 7
    SELECTION = 8
    EVALUATION = 9
    FLEET = 10
    TUNING = 11
    SECRET = 12
    ENCODE = 13
    RULE = 14
    FINISH = 15
    DOWN = 16


Root = bytes
"""32 bytes from which keys are derived."""

AGENT, SERVER = 0, 1
"""Kinds of parties."""


class Keys(NamedTuple):
    """The roots of a simulated run, each uint32 `[8]`: what all parties share, and what their secrets follow from."""

    run: np.ndarray
    secrets: np.ndarray


class TurnKeys(NamedTuple):
    """The keys of one agent in one round.

    Attributes:
        training: Of its local steps; each folds in its number.
        mend: For the new episodes of instances that broke.
        encode: By which its stages draw, from its secret.
    """

    training: Key
    mend: Key
    encode: Key


class ServerKeys(NamedTuple):
    """The keys of one server in one version, from its secret.

    Attributes:
        rule: By which its aggregator draws.
        finish: By which stages draw at the server.
        down: By which it encodes what it sends.
    """

    rule: Key
    finish: Key
    down: Key


def check_roots(**roots: object) -> None:
    """Refuse what is no root, and a secret that is the root of the run, which the other parties know.

    Raises:
        ConfigError: It names the argument.
    """
    for name, root in roots.items():
        if not isinstance(root, bytes) or len(root) != ROOT_BYTES:
            found = f"{len(root)} bytes" if isinstance(root, bytes) else f"of type {type(root).__name__}"
            raise ConfigError(
                f"{name} is {found}. Keys are derived from a root of {ROOT_BYTES} bytes. Draw it with "
                f"os.urandom({ROOT_BYTES}), or derive it from a seed: fedrl.core.keys."
            )
    if len(set(roots.values())) < len(roots):
        raise ConfigError(
            f"{' and '.join(roots)} are the same bytes. All parties know the root of the run, so they could derive "
            f"the keys of this one's noise. Draw the secret with os.urandom({ROOT_BYTES})."
        )


def keys_of(seed: int) -> Keys:
    """The roots of the run with this seed, any whole number.

    >>> int(keys_of(1).run[0]) == int(keys_of(1 + 2**32).run[0])
    False
    """
    text = str(int(seed)).encode()
    run, secrets = (hashlib.blake2b(text, person=name, digest_size=ROOT_BYTES).digest() for name in (b"run", b"secret"))
    return Keys(np.frombuffer(run, np.uint32), np.frombuffer(secrets, np.uint32))


def keys_below(keys: Keys, stream: Stream, *numbers: int) -> Keys:
    """The roots of a run that goes on from another: none of its keys is one of the first run's."""
    words = (derived(root.tobytes(), stream, *numbers, count=ROOT_BYTES // KEY_BYTES) for root in keys)
    return Keys(*(each.reshape(-1) for each in words))


def derived(root: Root, stream: Stream, *numbers: int, count: int = 1) -> UInt32[np.ndarray, "count 2"]:
    """Key data of so many keys, each of 64 bits; at most 8 at a time.

    >>> derived(bytes(32), Stream.RULE, 3).shape
    (1, 2)
    """
    path = struct.pack(f"<{1 + len(numbers)}q", stream, *numbers)
    digest = hashlib.blake2b(path, key=root, digest_size=KEY_BYTES * count).digest()
    return np.frombuffer(digest, np.uint32).reshape(count, 2)


def stream_key(keys: Keys, stream: Stream, *numbers: int) -> Key:
    """One key of the run.

    >>> stream_key(keys_of(0), Stream.EVALUATION).shape
    ()
    """
    return jax.random.wrap_key_data(derived(keys.run.tobytes(), stream, *numbers)[0])


def agent_secret(keys: Keys, agent: int) -> Root:
    """The secret of an agent in a simulation."""
    return _secret(keys.secrets.tobytes(), AGENT, 0, agent)


def server_secret(keys: Keys, level: int = 0, number: int = 0) -> Root:
    """The secret of a server in a simulation: in a tree, by its level from the agents on and its number there."""
    return _secret(keys.secrets.tobytes(), SERVER, level, number)


@lru_cache(maxsize=1 << 16)
def _secret(root: Root, kind: int, level: int, number: int) -> Root:
    return derived(root, Stream.SECRET, kind, level, number, count=ROOT_BYTES // KEY_BYTES).tobytes()


def turn_data(run: Root, secret: Root, version: int, agent: int, again: int) -> UInt32[np.ndarray, "3 2"]:
    """Key data of `TurnKeys`: of an agent that hears a version, and has heard it so often before."""
    shared = derived(run, Stream.TRAINING, version, agent, again, count=2)
    return np.concatenate([shared, derived(secret, Stream.ENCODE, version, again, 0)])


def turns(
    keys: Keys,
    agents: Iterable[int],
    versions: Iterable[int],
    again: Iterable[int],
    secret_of: Callable[[Keys, int], Root] = agent_secret,
) -> np.ndarray:
    """Key data of the turns of several agents, uint32 `[agents, 3, 2]`; their secrets are those of a simulation."""
    run = keys.run.tobytes()
    rows = zip(agents, versions, again, strict=True)
    return np.stack([turn_data(run, secret_of(keys, k), v, k, n) for k, v, n in rows])


def turn_keys(data: jax.Array | np.ndarray) -> TurnKeys:
    """The keys with this data, `[3, 2]`; in a compiled program, too."""
    return TurnKeys(*(jax.random.wrap_key_data(data[i]) for i in range(3)))


def server_data(secret: Root, version: int, again: int = 0) -> UInt32[np.ndarray, "3 2"]:
    """Key data of `ServerKeys`: of a server that makes the version after this one."""
    rule, finish = (derived(secret, stream, version) for stream in (Stream.RULE, Stream.FINISH))
    return np.concatenate([rule, finish, derived(secret, Stream.DOWN, version, again)])


def server_keys(data: jax.Array | np.ndarray) -> ServerKeys:
    """The keys with this data, `[3, 2]`; in a compiled program, too."""
    return ServerKeys(*(jax.random.wrap_key_data(data[i]) for i in range(3)))


def turn_below(key: Key) -> TurnKeys:
    """The keys of a turn below one key, for a federation inside of a compiled program.

    >>> turn_below(jax.random.key(0)).encode.shape
    ()
    """
    return TurnKeys(*jax.random.split(key, 3))


def server_below(key: Key) -> ServerKeys:
    """The keys of a server below one key, for a federation inside of a compiled program."""
    return ServerKeys(*jax.random.split(key, 3))
