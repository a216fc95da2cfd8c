"""Derive keys by hashing instead of threading them, so that the order of events cannot change randomness.

    root --BLAKE2b(stream, numbers)--> key          one hash for each key, on the host

There are three kinds of roots. All parties may know the **run's** root (first parameters, experience, order of data,
selection). Each party, an agent or a server, has a **secret** (masks, stochastic rounding) that no other party can
derive. A simulation derives all secrets from its seed; a real party draws its secret from the operating system.

Calibrated noise and Poisson sampling have a root of their own, the **noise root**, which the operating system draws
also in a simulation, anew for every merge: whoever knows the seed of a run could subtract noise that follows from it.
It is in no state, checkpoint or message. So a private run with one seed has other noise each time, and is reproducible
in everything else; a simulation with `reproducible_noise` derives the root from its seed. Its keys have 256 bits
(`fedrl.core.chacha`), all others 64.

Inside a compiled program, a key is either split or folded into, never both, and never also drawn from: `split(key,
n)[i]` equals `fold_in(key, i)`, and numbers drawn by a key are the keys below it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt32

from fedrl.core.chacha import KEY_WORDS, chacha_key
from fedrl.core.errors import ConfigError
from fedrl.core.types import Key

ROOT_BYTES, KEY_BYTES = 32, 8
KEYS_IN_ROOT = ROOT_BYTES // KEY_BYTES


class Stream(IntEnum):
    """The purposes of keys, with the numbers that distinguish keys of the same purpose.

    Of a run: SERVER (), AGENTS (agent, number of restarts), TRAINING (version, agent, how often it has received that
    version before), ACTING (version, agent, again, local step) and () for a trained policy, EPISODES (version, agent,
    again, local step, environment copy), BEGINNING (rounds trained, agent, environment copy), BROKEN (the same), ANEW
    (number of restarts, agent, environment copy), SELECTION (), GROUPS (version), EVALUATION () and (agent, episode),
    FLEET (), TUNING (number), WORLD () and (rounds trained, local step) of a common world, ABSENT (rounds trained,
    agent, local step) of agents that act in it without a job, SECRET (kind of party, level, number).

    Of a secret: ENCODE (version, again, consensus step), RULE (version), FINISH (version), DOWN (version, again).

    Of a noise root: NOISE (kind of party, level, number, version, again), SAMPLING (server, round, place in the draw).
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
    NOISE = 17
    SAMPLING = 18
    GROUPS = 19
    WORLD = 20
    ABSENT = 21


Root = bytes
"""32 bytes from which keys are derived."""

AGENT, SERVER, EVERYBODY = 0, 1, 2
"""The kinds of parties in `Stream.SECRET` and `Stream.NOISE`; the noise root of a seed is a secret of EVERYBODY."""


class NoiseRoot(bytes):
    """A root of noise. It does not show its bytes where it is printed.

    >>> NoiseRoot(bytes(32))
    NoiseRoot(...)
    """

    def __repr__(self) -> str:
        return "NoiseRoot(...)"

    __str__ = __repr__


class Keys(NamedTuple):
    """The roots of a simulated run.

    Attributes:
        run: The root that all parties know, uint32 `[8]`.
        secrets: The root from which the secrets of all parties are derived, uint32 `[8]`.
        noise: The noise root of the current merge; None where nothing is drawn from it, and in every state of a run.
    """

    run: np.ndarray
    secrets: np.ndarray
    noise: NoiseRoot | None = None


class TurnKeys(NamedTuple):
    """The keys of one agent in one round.

    Attributes:
        training: The key of its local steps; each step folds in its number.
        mend: The key of new episodes in environment copies with numbers that are not finite.
        encode: The key of its stages, derived from its secret.
        noise: The key of its calibrated noise (`fedrl.core.chacha`); None where no part of a federation adds any.
    """

    training: Key
    mend: Key
    encode: Key
    noise: Key | None = None


class ServerKeys(NamedTuple):
    """The keys of one server in one version, from its secret.

    Attributes:
        rule: The key of its aggregator.
        finish: The key of the stages' `finish`.
        down: The key of the down stages.
        noise: The key of its calibrated noise, as of `TurnKeys`.
    """

    rule: Key
    finish: Key
    down: Key
    noise: Key | None = None


def check_roots(**roots: object) -> None:
    """Refuse roots of the wrong type or size, and a secret equal to the run's root, which all parties know.

    Raises:
        ConfigError: A root is invalid; the message names the argument.
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
    """Return the roots of the run with this seed, any integer.

    >>> int(keys_of(1).run[0]) == int(keys_of(1 + 2**32).run[0])
    False
    """
    # Hashed as text: `jax.random.key` would cut a seed to 32 bits, and seeds 2^32 apart would be the same run.
    text = str(int(seed)).encode()
    run, secrets = (hashlib.blake2b(text, person=name, digest_size=ROOT_BYTES).digest() for name in (b"run", b"secret"))
    return Keys(np.frombuffer(run, np.uint32), np.frombuffer(secrets, np.uint32))


def keys_below(keys: Keys, stream: Stream, *numbers: int) -> Keys:
    """Return the roots of a run that continues from another one, with keys that differ from all keys of that run."""

    def below(root: np.ndarray) -> np.ndarray:
        return derived(root.tobytes(), stream, *numbers, count=KEYS_IN_ROOT).reshape(-1)

    return Keys(below(keys.run), below(keys.secrets))


def derived(root: Root, stream: Stream, *numbers: int, count: int = 1) -> UInt32[np.ndarray, "count 2"]:
    """Derive the data of `count` keys of 64 bits each, at most 8.

    >>> derived(bytes(32), Stream.RULE, 3).shape
    (1, 2)
    """
    # Little-endian with a fixed width, so that parties on any machine derive the same keys.
    path = struct.pack(f"<{1 + len(numbers)}q", stream, *numbers)
    digest = hashlib.blake2b(path, key=root, digest_size=KEY_BYTES * count).digest()
    return np.frombuffer(digest, np.uint32).reshape(count, 2)


def stream_key(keys: Keys, stream: Stream, *numbers: int) -> Key:
    """Return one key of the run.

     stream_key(keys_of(0), Stream.EVALUATION).shape
    ()
    """
    return jax.random.wrap_key_data(derived(keys.run.tobytes(), stream, *numbers)[0])


def agent_secret(keys: Keys, agent: int) -> Root:
    """Return the secret of an agent in a simulation."""
    return _secret(keys.secrets.tobytes(), AGENT, 0, agent)


def server_secret(keys: Keys, level: int = 0, number: int = 0) -> Root:
    """Return the secret of a server in a simulation; in a tree by its level above the agents and its number."""
    return _secret(keys.secrets.tobytes(), SERVER, level, number)


@lru_cache(maxsize=1 << 16)
def _secret(root: Root, kind: int, level: int, number: int) -> Root:
    return derived(root, Stream.SECRET, kind, level, number, count=KEYS_IN_ROOT).tobytes()


NoiseSource = Callable[[Keys], NoiseRoot | None]
"""`keys -> noise root` of the next merge of a run."""


def no_noise(keys: Keys) -> None:
    """Return no noise root, where nothing is drawn from one."""
    del keys


def noise_of_system(keys: Keys | None = None) -> NoiseRoot:
    """Return a noise root drawn from the operating system, which differs at every call."""
    del keys
    return NoiseRoot(os.urandom(ROOT_BYTES))


def noise_of_seed(keys: Keys) -> NoiseRoot:
    """Return the noise root that follows from the seed of a run. Whoever knows the seed can subtract the noise."""
    return NoiseRoot(derived(keys.secrets.tobytes(), Stream.SECRET, EVERYBODY, 0, 0, count=KEYS_IN_ROOT).tobytes())


def noise_data(
    root: Root, kind: int, level: int, number: int, version: int, again: int = 0
) -> UInt32[np.ndarray, " 8"]:
    """Return the data of a party's noise key for a version that it has received `again` times before."""
    return derived(root, Stream.NOISE, kind, level, number, version, again, count=KEYS_IN_ROOT).reshape(KEY_WORDS)


def server_noise(keys: Keys, version: int, level: int = 0, number: int = 0) -> UInt32[np.ndarray, " 8"] | None:
    """Return the data of the noise key with which a server commits the version after this one; None without noise."""
    return None if keys.noise is None else noise_data(keys.noise, SERVER, level, number, version)


def turns_noise(
    keys: Keys, agents: Iterable[int], versions: Iterable[int], again: Iterable[int]
) -> UInt32[np.ndarray, "agents 8"] | None:
    """Return the data of the noise keys of several agents, as `turns` that of their other keys; None without noise."""
    if keys.noise is None:
        return None
    rows = zip(agents, versions, again, strict=True)
    return np.stack([noise_data(keys.noise, AGENT, 0, k, v, n) for k, v, n in rows])


def turn_data(run: Root, secret: Root, version: int, agent: int, again: int) -> UInt32[np.ndarray, "3 2"]:
    """Return the data of an agent's `TurnKeys` for a version that it has received `again` times before."""
    shared = derived(run, Stream.TRAINING, version, agent, again, count=2)
    return np.concatenate([shared, derived(secret, Stream.ENCODE, version, again, 0)])


def turns(
    keys: Keys,
    agents: Iterable[int],
    versions: Iterable[int],
    again: Iterable[int],
    secret_of: Callable[[Keys, int], Root] = agent_secret,
) -> np.ndarray:
    """Return the data of the `TurnKeys` of several agents in a simulation, uint32 `[agents, 3, 2]`."""
    run = keys.run.tobytes()
    rows = zip(agents, versions, again, strict=True)
    return np.stack([turn_data(run, secret_of(keys, k), v, k, n) for k, v, n in rows])


def turn_keys(data: jax.Array | np.ndarray, noise: jax.Array | np.ndarray | None = None) -> TurnKeys:
    """Return the keys with this data, `[3, 2]`, and the noise key with data `[8]`; also inside compiled programs."""
    training, mend, encode = (jax.random.wrap_key_data(data[i]) for i in range(3))
    return TurnKeys(training, mend, encode, _noise_key(noise))


def server_data(secret: Root, version: int, again: int = 0) -> UInt32[np.ndarray, "3 2"]:
    """Return the data of the `ServerKeys` with which a server commits the version after this one."""
    rule, finish = (derived(secret, stream, version) for stream in (Stream.RULE, Stream.FINISH))
    return np.concatenate([rule, finish, derived(secret, Stream.DOWN, version, again)])


def server_keys(data: jax.Array | np.ndarray, noise: jax.Array | np.ndarray | None = None) -> ServerKeys:
    """Return the keys with this data, `[3, 2]`, and the noise key with data `[8]`; also inside compiled programs."""
    rule, finish, down = (jax.random.wrap_key_data(data[i]) for i in range(3))
    return ServerKeys(rule, finish, down, _noise_key(noise))


def _noise_key(data: jax.Array | np.ndarray | None) -> Key | None:
    return None if data is None else chacha_key(data)


def turn_below(key: Key) -> TurnKeys:
    """Return the `TurnKeys` below one key, for a federation inside a compiled program.

    Their noise key is as strong as the key above, which is enough for shapes and tests: a federation inside another
    one adds no calibrated noise.

    >>> turn_below(jax.random.key(0)).encode.shape
    ()
    """
    return TurnKeys(*_below(key))


def server_below(key: Key) -> ServerKeys:
    """Return the `ServerKeys` below one key, for a federation inside a compiled program; noise as of `turn_below`."""
    return ServerKeys(*_below(key))


def _below(key: Key) -> tuple[Key, Key, Key, Key]:
    one, two, three, above = jax.random.split(key, 4)
    return one, two, three, chacha_key(jax.random.bits(above, (KEY_WORDS,), "uint32"))
