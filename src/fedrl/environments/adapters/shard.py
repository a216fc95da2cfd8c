"""A shard of the environment copies, stepped one after another, in this process or in a worker process.

    arrays: seed, action, active, anew --> [ reset | step ] --> observation, reward, terminated, truncated, infos
                                                            --> failed: the copies that raised, or returned nonsense

A worker process loads this file by its path, in a quarter of a second, because it does not load JAX. So it imports
nothing of fedrl but files that are loaded in the same way: `LIGHT` in worker.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import re
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from fedrl.environments.adapters.entries import element_of, leaves, shape_of
from fedrl.environments.adapters.observations import flat_observations

RESET, STEP = b"r", b"s"
ALIGNMENT = 64
INFO = "info/"
"""What the names of arrays begin with that hold numbers of `info`."""
NOBODY = -1
"""The row in progress between two commands."""
MADE = ("max_episode_steps", "render_mode")
"""The arguments that `gym.make` takes."""
FRAMES, WIDTH = 6, 200
"""Most frames of a traceback that are shown, and most characters of an exception's message."""
NUMBERS = frozenset({float, int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_})
FLAGS = frozenset({bool, np.bool_})
WHOLE = frozenset({int, np.int64, np.int32})
TUPLES = {
    "step": "five values: observation, reward, terminated, truncated, info",
    "reset": "two values: observation, info",
}
# Frames between the user's code and fedrl's: they tell a user nothing.
_GYMNASIUM = Path(gym.__file__).parent
BETWEEN = tuple(map(str, (_GYMNASIUM / "wrappers", _GYMNASIUM / "core.py", _GYMNASIUM / "envs" / "registration.py")))

FailedRow = tuple[str, str, str]
"""What a copy was doing ("step", "reset" or "opening"), what went wrong, and the traceback in the user's own code."""


class InfoError(Exception):
    """An environment's `info` lacks a number that is measured."""


class ReturnedError(Exception):
    """An environment returned something that its interface does not allow."""


def constructor_of(spec: Any) -> Any:
    """What makes an environment; its module is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SWIG's own in Box2D: raised, it kills the interpreter
        entry = spec.entry_point
        return gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry


def open_environment(spec: Any, arguments: Mapping[str, Any], attributes: Mapping[str, Any]) -> gym.Env:
    """Make one instance and set attributes of it. Composite observations come as one flat array."""
    constructor_of(spec)
    # Arguments of the constructor go into the specification: `gym.make` has parameters of its own, such as `id`.
    own = {name: value for name, value in arguments.items() if name not in MADE}
    made = {name: value for name, value in arguments.items() if name in MADE}
    spec = dataclasses.replace(spec, kwargs={**spec.kwargs, **own})
    environment = gym.make(spec, disable_env_checker=True, **made)
    for name, value in attributes.items():
        setattr(environment.unwrapped, name, value)
    return flat_observations(environment)


def fields(
    count: int, observation: gym.Space, action: gym.Space, infos: Mapping[str, bool] = {}
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each shared array, for `count` copies of an environment with these spaces.

    `infos` are the measured keys of `info`; the value is whether only the last step of an episode counts.
    """

    def batch(space: gym.Space) -> tuple[tuple[int, ...], str]:
        whole = all(isinstance(part, gym.spaces.Discrete) for part in leaves(space))
        return (count, *shape_of(space)), "i4" if whole else "f4"

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
        "anew": flag,
        "at": ((count,), "i4"),
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
    """Environment copies and their rows of the shared arrays.

    Attributes:
        failed: The copies that failed in the last command. A failed copy is opened anew by its next reset with `anew`.
    """

    def __init__(
        self,
        spec: Any,
        settings: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
        arrays: Mapping[str, np.ndarray],
        infos: Mapping[str, bool] = {},
    ) -> None:
        self.arrays, self.failed = arrays, dict[int, FailedRow]()
        self._spec, self._settings, self._infos = spec, settings, dict(infos)
        self.environments: list[gym.Env | None] = [None] * len(settings)
        # Views of memory: an entry is written in a third of the time that an array takes.
        self._at: Any = memoryview(arrays["at"])  # type: ignore[arg-type]
        self._rewards: Any = memoryview(arrays["reward"])  # type: ignore[arg-type]
        self._ends: Any = tuple(memoryview(arrays[name]) for name in ("terminated", "truncated"))  # type: ignore[arg-type]
        self._first_done: int | None = 0
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None
        self._at[0] = NOBODY

    def open(self, now: bool = True) -> None:
        """Open every environment copy, or only import what makes them: resets open them then, in less time."""
        if not now:
            with contextlib.suppress(Exception):  # told by the reset
                constructor_of(self._spec)
            return
        self._each(range(len(self.environments)), "opening", self._opened)

    def run(self, command: bytes) -> dict[int, FailedRow]:
        """Carry out one command on every active environment copy, and return those that failed."""
        self.failed = {}
        self.reset() if command == RESET else self.step()
        return self.failed

    def reset(self) -> None:
        """Begin an episode in every active environment copy, with its seed; open it first where `anew` is set."""
        anew, seeds = self.arrays["anew"].tolist(), self.arrays["seed"].tolist()
        active = np.flatnonzero(self.arrays["active"]).tolist()
        self._each([row for row in active if anew[row] or self.environments[row] is None], "opening", self._opened)

        def begin(row: int) -> None:
            environment = self.environments[row]
            assert environment is not None
            opening, _ = environment.reset(seed=seeds[row])
            self.arrays["observation"][row] = self._seen(opening)

        self._each([row for row in active if row not in self.failed], "reset", begin)

    def step(self) -> None:
        """Step every active environment copy, and begin the next episode where one ended."""
        arrays, at, rewards, (terminations, truncations) = self.arrays, self._at, self._rewards, self._ends
        actions, active = self._actions(), arrays["active"].tolist()
        reached_by, shown = arrays["next_observation"], arrays["observation"]
        for row, environment in enumerate(self.environments):
            if not active[row]:
                continue
            at[0], doing = row, "step"
            try:
                assert environment is not None
                reached, reward, terminated, truncated, info = environment.step(actions[row])
                seen = self._seen(reached)
                reached_by[row] = seen
                rewards[row] = reward if reward.__class__ in NUMBERS else _number(reward)
                if terminated.__class__ not in FLAGS or truncated.__class__ not in FLAGS:
                    terminated, truncated = _flag("terminated", terminated), _flag("truncated", truncated)
                over = bool(terminated or truncated)
                terminations[row], truncations[row] = bool(terminated), over and not terminated
                for key, at_end in self._infos.items():
                    if over or not at_end:
                        arrays[INFO + key][row] = _measured(info, key)
                if over:
                    doing = "reset"
                    # Unseeded: Gymnasium goes on with the generator that the first reset seeded.
                    opening, _ = environment.reset()
                    seen = self._seen(opening)
                shown[row] = seen
            except InfoError:
                raise
            except (Exception, SystemExit) as error:
                self.failed[row] = (doing, *described(error, doing))
        at[0] = NOBODY

    def close(self) -> None:
        """Close every environment copy."""
        for row in range(len(self.environments)):
            self._close(row)

    def _each(self, rows: Any, doing: str, act: Any) -> None:
        for row in rows:
            self._at[0] = row
            try:
                act(row)
            except (Exception, SystemExit) as error:
                self.failed[row] = (doing, *described(error, doing))
        self._at[0] = NOBODY

    def _opened(self, row: int) -> None:
        self._close(row)
        environment = open_environment(self._spec, *self._settings[row])
        self.environments[row] = environment
        seen, done = environment.observation_space, environment.action_space
        for name, space in (("observation", seen), ("action", done)):
            if shape_of(space) != self.arrays[name].shape[1:]:
                raise ReturnedError(
                    f"has {name}s in {space}, and the first copy has the shape {self.arrays[name].shape[1:]}"
                )
        # Discrete spaces of Gymnasium may start at another number than 0.
        self._seen = _numbered(seen) if isinstance(seen, gym.spaces.Discrete) else _shaped(seen)
        self._first_done = int(done.start) if isinstance(done, gym.spaces.Discrete) else None
        self._bounds = (done.low, done.high) if isinstance(done, gym.spaces.Box) else None
        self._element = element_of(done)
        self._action_dtype = done.dtype

    def _close(self, row: int) -> None:
        environment, self.environments[row] = self.environments[row], None
        if environment is not None:
            try:
                environment.close()
            except Exception:  # a simulator that has crashed may not be able to close, and its process ends anyway
                traceback.print_exc()

    def _actions(self) -> Any:
        if self._first_done is not None:
            return (self.arrays["action"] + self._first_done).tolist()
        if self._bounds is None:
            return [self._element(row) for row in self.arrays["action"]]
        return np.clip(self.arrays["action"], *self._bounds).astype(self._action_dtype)


def _shaped(space: gym.Space) -> Any:
    """Return a check that an observation is an array of the space's shape."""
    shape = space.shape

    def seen(observation: Any) -> Any:
        if getattr(observation, "shape", None) == shape and observation.dtype.kind != "O":
            return observation
        try:
            array = np.asarray(observation, np.float32)  # a list of numbers is as good
        except (TypeError, ValueError):
            raise ReturnedError(f"returned the observation {_short(observation)}, and {space} has numbers") from None
        if array.shape != shape:
            raise ReturnedError(f"returned an observation of shape {array.shape}, and that of {space} is {shape}")
        return array

    return seen


def _numbered(space: gym.spaces.Discrete) -> Any:
    """Return a function that counts an observation from 0, and checks that it is one of the space."""
    start, count = int(space.start), int(space.n)

    def seen(observation: Any) -> int:
        # An array of one number would be accepted by NumPy, and so it is here.
        value = observation
        if observation.__class__ not in WHOLE:
            array = np.asarray(observation)
            value = array.item() if array.size == 1 and array.dtype.kind in "iu" else None
        if value is None or not 0 <= value - start < count:
            raise ReturnedError(f"returned the observation {_short(observation)}, which is not in {space}")
        return int(value) - start

    return seen


def _number(reward: Any) -> float:
    """Return a reward as a number. An array of one number is one: simulators that compute with arrays return it."""
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ReturnedError(f"returned the reward {_short(reward)}, and a reward is one number")
    return float(array.item())


def _flag(name: str, value: Any) -> bool:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ReturnedError(f"returned {name} = {_short(value)}, and {name} is True or False")
    return bool(array.item())


def _measured(info: Mapping[str, Any], key: str) -> float:
    """Return a number of `info`.

    Raises:
        InfoError: The key is missing, or its value is no number.
    """
    if not isinstance(info, Mapping):
        raise ReturnedError(f"returned the info {_short(info)}, and info is a dictionary")
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


def described(error: BaseException, doing: str) -> tuple[str, str]:
    """Return what went wrong in an environment, as the end of a sentence, and the traceback in the user's own code."""
    if isinstance(error, ReturnedError):
        return str(error), ""
    # What comes before the last frame of this file called it; what comes after is the environment's.
    frames = list(traceback.extract_tb(error.__traceback__))
    own = [i for i, frame in enumerate(frames) if frame.filename == __file__]
    frames = [
        each for each in frames[max(own, default=-1) + 1 :] if not each.filename.startswith((*BETWEEN, "<frozen"))
    ]
    message = str(error)
    if not frames and doing in TUPLES:
        got = re.search(r"(not enough|too many) values to unpack|cannot unpack non-iterable (\w+)", message)
        if got:
            number = re.search(r"got (\d+)", message)
            more = "more values" if doing == "step" else "an observation alone, or more values"
            wrong = {"NoneType": "None", None: more}.get(got[2], f"one {got[2]}")
            wrong = f"{number[1]} values" if number else wrong
            return f"returned {wrong}, and a {doing} returns {TUPLES[doing]}", ""
    if isinstance(error, SystemExit):
        said = f"called sys.exit({'' if error.code is None else error.code!r})"
    else:
        said = f"raised {type(error).__name__}" + (f": {_short(message, str)}" if message else "")
    if not frames:
        return said, ""
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
    shown = frames[-FRAMES:]
    linecache.checkcache()
    lines = [*traceback.format_list(shown), *traceback.format_exception_only(error)]
    return f"{said} ({where})", "".join(lines).rstrip()


def _short(value: Any, write: Any = repr) -> str:
    text = " ".join(str(write(value)).split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
