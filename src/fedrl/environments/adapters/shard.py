"""A shard of the environment copies, stepped one after another, in this process or in a worker process.

    arrays: seed, action, active --> [ reset | step ] --> observation, reward, terminated, truncated, successor, infos

A worker shares these arrays with the parent process in a memory-mapped file, so that only commands and answers of one
byte are sent. This file imports nothing of fedrl: run as a script it is a worker process, which starts in a quarter
of a second because it does not load JAX.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

RESET, STEP, DONE, FAILED, REFUSED = b"r", b"s", b".", b"!", b"?"
ALIGNMENT = 64
INFO = "info/"
"""What the names of arrays begin with that hold numbers of `info`."""


class InfoError(Exception):
    """An environment's `info` lacks a number that is measured."""


def constructor_of(spec: Any) -> Any:
    """What makes an environment; its module is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SWIG's own in Box2D: raised, it kills the interpreter
        entry = spec.entry_point
        return gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry


def open_environment(spec: Any, arguments: Mapping[str, Any], attributes: Mapping[str, Any]) -> gym.Env:
    """Make one instance and set attributes of it. Composite observations come as one flat array."""
    constructor_of(spec)
    environment = gym.make(spec, disable_env_checker=True, **arguments)
    for name, value in attributes.items():
        setattr(environment.unwrapped, name, value)
    if not isinstance(environment.observation_space, gym.spaces.Discrete | gym.spaces.Box):
        environment = gym.wrappers.FlattenObservation(environment)
    return environment


def fields(
    count: int, observation: gym.Space, action: gym.Space, infos: Mapping[str, bool] = {}
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each shared array, for `count` copies of an environment with these spaces.

    `infos` are the measured keys of `info`; the value is whether only the last step of an episode counts.
    """

    def batch(space: gym.Space) -> tuple[tuple[int, ...], str]:
        return (count, *(space.shape or ())), "i4" if isinstance(space, gym.spaces.Discrete) else "f4"

    flag = ((count,), "?")
    return {
        "observation": batch(observation),
        "next_observation": batch(observation),
        "action": batch(action),
        "reward": ((count,), "f4"),
        "seed": ((count,), "i8"),
        "terminated": flag,
        "truncated": flag,
        "active": flag,
    } | {INFO + key: ((count,), "f4") for key in infos}


def size_bytes(layout: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    """Return the bytes of memory that `lay_out` needs."""
    return sum(_room(*field) for field in layout.values())


def lay_out(buffer: Any, layout: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, np.ndarray]:
    """Return the arrays as views of a buffer, one after another."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        arrays[name] = np.ndarray(shape, dtype, buffer, offset)
        offset += _room(shape, dtype)
    return arrays


def _room(shape: tuple[int, ...], dtype: str) -> int:
    return -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT


class Shard:
    """Open environment copies and their rows of the shared arrays."""

    def __init__(
        self, environments: Sequence[gym.Env], arrays: Mapping[str, np.ndarray], infos: Mapping[str, bool] = {}
    ) -> None:
        self.environments = list(environments)
        self.arrays = arrays
        self._infos = dict(infos)
        seen, done = self.environments[0].observation_space, self.environments[0].action_space
        # Discrete spaces of Gymnasium may start at another number than 0.
        self._first_seen = int(seen.start) if isinstance(seen, gym.spaces.Discrete) else 0
        self._first_done = int(done.start) if isinstance(done, gym.spaces.Discrete) else None
        self._bounds = (done.low, done.high) if isinstance(done, gym.spaces.Box) else None
        self._action_dtype = done.dtype

    def run(self, command: bytes) -> None:
        """Carry out one command on every environment copy."""
        self.reset() if command == RESET else self.step()

    def reset(self) -> None:
        """Begin an episode in every active environment copy, with its seed."""
        for row in np.flatnonzero(self.arrays["active"]):
            environment = self.environments[row]
            opening, _ = environment.reset(seed=int(self.arrays["seed"][row]))
            self.arrays["observation"][row] = self._seen(opening)

    def step(self) -> None:
        """Step every active environment copy, and begin the next episode where one ended."""
        arrays = self.arrays
        actions, active = self._actions(), arrays["active"].tolist()
        rewards, terminations, truncations = arrays["reward"], arrays["terminated"], arrays["truncated"]
        for row, environment in enumerate(self.environments):
            if not active[row]:
                continue
            reached, reward, terminated, truncated, info = environment.step(actions[row])
            seen = arrays["next_observation"][row] = self._seen(reached)
            rewards[row], terminations[row], truncations[row] = reward, terminated, truncated and not terminated
            for key, at_end in self._infos.items():
                if terminated or truncated or not at_end:
                    arrays[INFO + key][row] = _number(info, key)
            if terminated or truncated:
                # Unseeded: Gymnasium goes on with the generator that the first reset seeded.
                seen = self._seen(environment.reset()[0])
            arrays["observation"][row] = seen

    def close(self) -> None:
        """Close every environment copy."""
        for environment in self.environments:
            environment.close()
        self.environments = []

    def _seen(self, observation: Any) -> Any:
        return observation - self._first_seen if self._first_seen else observation

    def _actions(self) -> Any:
        if self._first_done is not None:
            return (self.arrays["action"] + self._first_done).tolist()
        assert self._bounds is not None
        return np.clip(self.arrays["action"], *self._bounds).astype(self._action_dtype)


def _number(info: Mapping[str, Any], key: str) -> float:
    """Return a number of `info`.

    Raises:
        InfoError: The key is missing, or its value is no number.
    """
    if key not in info:
        raise InfoError(
            f"info has no {key!r}, which is measured: its keys are {sorted(map(str, info)) or 'none'}. Measure one of "
            "these (parts = [...]), or write take = 'last' for a key that only the last step of an episode has."
        )
    try:
        return float(info[key])
    except (TypeError, ValueError):
        raise InfoError(
            f"info[{key!r}] is {info[key]!r}, and a measure needs one number. Measure another key, or wrap the "
            "environment so that it gives a number."
        ) from None


def work() -> None:
    """Run as a worker process until the parent closes this process's standard input, or dies."""
    # Ctrl-C reaches the whole process group: the parent handles it and then closes our input.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Answers go to a copy of stdout, and stdout to stderr, so that prints of an environment don't mix with answers.
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        sys.path[:] = pickle.load(commands)
        spec, settings, layout, path, rows, infos = pickle.load(commands)
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        arrays = {name: array[slice(*rows)] for name, array in lay_out(memory, layout).items()}
        shard = Shard([open_environment(spec, *setting) for setting in settings], arrays, infos)
        answers.write(DONE)
        while command := commands.read(1):
            shard.run(command)
            answers.write(DONE)
        shard.close()
    except BrokenPipeError:
        pass  # the parent is gone
    except InfoError as error:
        answers.write(REFUSED + str(error).encode())
        sys.exit(1)
    except Exception:
        answers.write(FAILED + traceback.format_exc().encode())
        sys.exit(1)


if __name__ == "__main__":
    work()
