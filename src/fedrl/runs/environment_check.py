"""Check what fedrl relies on in an environment of Gymnasium, before a run does: `fedrl check-env module:make`.

Each check is a `Finding`. A check that fails is one sentence with the cure; an exception of the environment is shown
with the lines of its own code.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fedrl.config import catalogue
from fedrl.config.own_environments import expanded
from fedrl.core.environment import ActionSpace, Discrete, HostEnvironment, Product
from fedrl.core.errors import ConfigError, FedrlError
from fedrl.core.imports import is_reference, own_traceback
from fedrl.environments.adapters.gymnasium import specification
from fedrl.environments.adapters.shard import open_environment

SEED, STEPS, SPEED_S = 7, 200, 0.5
EXACT = "the same observations, rewards and ends"


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: What was checked.
        passed: Whether it is as it has to be.
        text: What was found; if it failed, with the cure.
    """

    name: str
    passed: bool
    text: str


class Recording(NamedTuple):
    """What an environment did in one episode of random actions."""

    observations: list[Any]
    rewards: list[Any]
    ends: list[tuple[Any, Any]]


def check_environment(name: str, settings: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Yield the finding of each check of a Gymnasium environment.

    Args:
        name: "module:name" of a class or function that returns an environment, or a registered id.
        settings: Arguments, and `max_steps`.

    Raises:
        ConfigError: The environment can't be opened, or is none of Gymnasium.
    """
    id, arguments, opened = _opened(name, dict(settings or {}))

    def make() -> gym.Env:
        return open_environment(specification(id), arguments, {})

    limit, spaces = opened.max_steps, opened.gymnasium_spaces
    assert spaces is not None
    yield Finding("spaces", True, " ".join(f"observations {spaces[0]}, actions {spaces[1]}".split()))
    for note in opened.notes:
        yield Finding("note", True, note)
    yield Finding("time limit", True, f"episodes have at most {limit} steps")
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("steps", lambda: _steps(make, limit)),
        ("contract of Gymnasium", lambda: _contract(make)),
        ("values", lambda: _values(make, limit)),
        ("seeds", lambda: _seeds(make, limit)),
        ("independent copies", lambda: _independent(make, limit)),
        ("worker processes", lambda: _workers(opened)),
        ("speed", lambda: _speed(make)),
    ]
    for title, check in checks:
        try:
            found = check()
        except _FailedError as failed:
            yield Finding(title, False, str(failed))
        except Exception as fault:
            yield Finding(title, False, f"The environment raised an exception.\n{own_traceback(fault)}")
        else:
            yield Finding(title, True, found or "as it has to be")
            continue
        if title == "steps":  # nothing else can be checked in an environment that can't be stepped
            return


class _FailedError(Exception):
    """A check failed; the message is the sentence for the user."""


def _opened(name: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any], HostEnvironment]:
    """Return the id, the arguments of the constructor, and the environment as fedrl has it."""
    own = is_reference(name)
    table = {"name": name, **settings} if own else {"name": "gymnasium", "id": name}
    if not own:
        limit = settings.pop("max_steps", None)
        table |= {"options": settings} | ({} if limit is None else {"max_steps": limit})
    table = expanded(table, {})
    opened = catalogue.build("environment", table, "environment")
    if not isinstance(opened, HostEnvironment) or opened.gymnasium_spaces is None:
        raise ConfigError(f"{name} is no environment of Gymnasium, and fedrl check-env checks those only.")
    limit = {"max_episode_steps": table["max_steps"]} if "max_steps" in table else {}
    return str(table["id"]), {**table.get("settings", {}), **table.get("options", {}), **limit}, opened


def _steps(make: Callable[[], gym.Env], limit: int) -> str:
    """Play without the wrappers of Gymnasium, which rely on the form of what is returned."""
    environment = make()
    count = len(list(_stepping(environment.unwrapped, SEED, min(limit, STEPS))))
    environment.close()
    return f"reset and {count - 1} steps returned values of the right form"


def _contract(make: Callable[[], gym.Env]) -> str | None:
    from gymnasium.utils.env_checker import check_env

    environment = make()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_env(environment.unwrapped, skip_render_check=True)
    except AssertionError as fault:
        raise _FailedError(f"{fault}".strip().rstrip(".") + ".") from None
    finally:
        environment.close()
    texts = [_plain(str(each.message)) for each in said if issubclass(each.category, UserWarning)]
    advice = dict.fromkeys(text for text in texts if "infinity" not in text)  # usual, and no harm
    return "as it has to be" + "".join(f". Gymnasium advises: {text}" for text in advice)


def _plain(text: str) -> str:
    """Return a warning of Gymnasium without its colours and its first word."""
    return text.replace("\x1b[33m", "").replace("\x1b[0m", "").removeprefix("WARN: ").strip().rstrip(".")


def _values(make: Callable[[], gym.Env], limit: int) -> str:
    environment = make()
    played = _played(environment, SEED, min(limit, STEPS))
    space = environment.observation_space
    for i, seen in enumerate(played.observations):
        if not space.contains(seen):
            raise _FailedError(
                f"Observation {i} is {_short(seen)}, which is not in {space}. Widen the space, or clip it."
            )
    for i, reward in enumerate(played.rewards):
        if isinstance(reward, bool) or not np.isscalar(reward) or not np.isfinite(np.asarray(reward, np.float64)):
            raise _FailedError(f"The reward of step {i + 1} is {_short(reward)}. It needs to be one finite number.")
    for i, pair in enumerate(played.ends):
        for word, value in zip(("terminated", "truncated"), pair, strict=True):
            if not isinstance(value, bool | np.bool_):
                raise _FailedError(f"{word} of step {i + 1} is {_short(value)}. It needs to be True or False.")
    environment.close()
    return f"{len(played.rewards)} steps: observations in the space, finite rewards, ends true or false"


def _seeds(make: Callable[[], gym.Env], limit: int) -> str:
    first, second = make(), make()
    one = _played(first, SEED, min(limit, STEPS))
    _compare(one, _played(second, SEED, min(limit, STEPS)), "Two copies with the same seed and actions differ")
    _compare(one, _played(first, SEED, min(limit, STEPS)), "An episode with the same seed differs from the first one")
    other = _played(second, SEED + 1, min(limit, STEPS))
    first.close()
    second.close()
    if _first_difference(one, other) is None:
        return f"the same seed gives {EXACT}. So do other seeds: the environment is deterministic"
    return f"the same seed gives {EXACT}, another seed gives others"


def _independent(make: Callable[[], gym.Env], limit: int) -> str:
    alone = _played(make(), SEED, min(limit, STEPS))
    first, second = make(), make()
    beside = _stepping(second, SEED + 1, min(limit, STEPS))
    rows = []
    for row in _stepping(first, SEED, min(limit, STEPS)):
        rows.append((np.array(row[0]), *row[1:]))
        next(beside, None)
    together = _episode(rows)
    first.close()
    second.close()
    _compare(alone, together, "A copy behaves differently beside another one: they share state")
    return "a copy behaves alike alone and beside another one"


def _workers(opened: HostEnvironment) -> str:
    """Compare two copies in two worker processes with two in this process."""
    params = type(opened.params)(*(np.repeat(np.asarray(leaf)[None], 2, axis=0) for leaf in opened.params))
    found = []
    rng = np.random.default_rng(SEED)
    actions = _random(rng, opened.spaces.action)
    for workers in (1, 2):
        try:
            instances = opened.open(params, workers)
        except FedrlError as fault:
            raise _FailedError(f"It can't be opened in a worker process: {fault}") from None
        seen = [np.array(instances.reset([SEED, SEED + 1]))]
        seen += [np.array(instances.step(each).observation) for each in actions]
        instances.close()
        found.append(np.stack(seen))
    if not np.array_equal(found[0], found[1], equal_nan=True):
        raise _FailedError(
            "Two copies behave differently in worker processes. Derive all random numbers from the seed."
        )
    return "copies in worker processes behave like those in one process"


def _random(rng: np.random.Generator, space: ActionSpace) -> np.ndarray:
    """Return random actions of two copies, `[time, 2, *action]`."""
    if isinstance(space, Product):
        parts = [_random(rng, part).reshape(STEPS // 4, 2, -1) for part in space.parts]
        return np.concatenate(parts, axis=-1).astype(space.dtype)
    shape = (STEPS // 4, 2, *space.shape)
    return rng.integers(0, space.n, shape) if isinstance(space, Discrete) else rng.uniform(-1, 1, shape)


def _speed(make: Callable[[], gym.Env]) -> str:
    environment = make()
    environment.action_space.seed(SEED)
    environment.reset(seed=SEED)
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SPEED_S:
        *_, terminated, truncated, _ = environment.step(environment.action_space.sample())
        if terminated or truncated:
            environment.reset()
        steps += 1
    elapsed = time.perf_counter() - begun
    environment.close()
    return (
        f"{steps / elapsed:,.0f} steps per second in one process; a million steps take {1e6 * elapsed / steps:,.0f} s"
    )


def _stepping(environment: gym.Env, seed: int, steps: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Play one episode of random actions, a step at a time; first yield what `reset` returned."""
    actions = copy.deepcopy(environment.action_space)  # copies of an environment may share one space
    actions.seed(seed)
    opening: Any = environment.reset(seed=seed)
    if not isinstance(opening, tuple) or len(opening) != 2:
        raise _FailedError(f"reset returned {_short(opening)}. It needs to return two values: observation, info.")
    yield opening[0], None, False, False
    for i in range(steps):
        result: Any = environment.step(actions.sample())
        if not isinstance(result, tuple) or len(result) != 5:
            count = len(result) if isinstance(result, tuple) else 1
            raise _FailedError(
                f"Step {i + 1} returned {count} values. It needs to return five: observation, reward, terminated, "
                "truncated, info."
            )
        yield result[:4]
        if result[2] or result[3]:
            return


def _played(environment: gym.Env, seed: int, steps: int) -> Recording:
    return _episode(_stepping(environment, seed, steps))


def _episode(steps: Iterable[tuple[Any, Any, Any, Any]]) -> Recording:
    # Copied at once: an environment may return the same array again.
    rows = [(np.array(row[0]) if isinstance(row[0], np.ndarray) else row[0], *row[1:]) for row in steps]
    return Recording([row[0] for row in rows], [row[1] for row in rows[1:]], [(row[2], row[3]) for row in rows[1:]])


def _compare(one: Recording, other: Recording, fact: str) -> None:
    step = _first_difference(one, other)
    if step is not None:
        raise _FailedError(
            f"{fact}, from step {step} on. Call super().reset(seed=seed), draw all random numbers from self.np_random, "
            "and set all state in reset."
        )


def _first_difference(one: Recording, other: Recording) -> int | None:
    """Return the first step at which two episodes differ; 0 is the reset; None if they are alike."""
    for i, (a, b) in enumerate(zip(one.observations, other.observations, strict=False)):
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            return i
    for i, (a, b) in enumerate(zip(zip(*one[1:], strict=True), zip(*other[1:], strict=True), strict=False), 1):
        if a != b:
            return i
    return None if len(one.rewards) == len(other.rewards) else min(len(one.rewards), len(other.rewards)) + 1


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
