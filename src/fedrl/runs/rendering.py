"""Film one greedy episode of a policy, in a compiled environment or in one of Gymnasium.

environment with a picture     --states, then Environment.picture--> shots --> GIF or MP4
environment of Gymnasium       --step, then render()---------------> shots --> GIF or MP4
world on the host              --step, then render()---------------> shots --> GIF or MP4

The episode is the first one of `policy.evaluate` with the same seed and environment.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import AnyEnvironment, Environment, HostEnvironment, Picture
from fedrl.core.errors import ConfigError, FedrlError, RunError
from fedrl.core.host_players import Living
from fedrl.core.keys import Stream, keys_of, stream_key
from fedrl.core.learner import Learner, moved
from fedrl.core.players import Seen, dealt, rows
from fedrl.core.types import Key, Params, PyTree
from fedrl.engines.executors.host_evaluation import acting_greedily
from fedrl.engines.executors.host_rollout import instance_seeds
from fedrl.engines.program_cache import Template, numbered_programs
from fedrl.environments.adapters.gymnasium import RENDER_MODE, check_render_mode
from fedrl.environments.adapters.observations import flat_observations
from fedrl.environments.pictures import pillow
from fedrl.records.files import write_atomically
from fedrl.runs.acting import cpu
from fedrl.runs.evaluate import turns
from fedrl.runs.film import AnyFilm, Film, form_of
from fedrl.runs.spaces import GymSpaces, check_alike

CHUNK = 100
"""Steps of one call of the compiled program; the episode may end in any of them."""
USUAL_FPS = 30


class Actor(NamedTuple):
    """What acts in a film.

    Attributes:
        learner: The learner whose `act` chooses actions in a compiled environment.
        params: The acting parameters.
        predict: The greedy action for one observation, in the form of Gymnasium, for other environments.
        spaces: The Gymnasium spaces of observations and actions.
    """

    learner: Learner
    params: Params
    predict: Callable[[Any], Any]
    spaces: GymSpaces


class Shot(NamedTuple):
    """A state of an episode.

    Attributes:
        draw: Draws it, as uint8 `[height, width, 3]`; valid until the next shot.
        reward: The reward of the step that led to it; 0 for the first one.
        over: Whether the episode ended in it.
    """

    draw: Callable[[], np.ndarray]
    reward: float
    over: bool


class Episode(NamedTuple):
    """The shots of an episode, and the milliseconds between two of them."""

    shots: Iterator[Shot]
    pause_ms: float


def render(actor: Actor, environment: AnyEnvironment | gym.Env, env_params: PyTree, seed: int, target: Path) -> Film:
    """Film one greedy episode, and write the film to a file.

    Args:
        actor: What acts.
        environment: An environment of fedrl, or an open one of Gymnasium.
        env_params: The parameters of the environment, if it is one of fedrl.
        seed: The seed of the first state and of all other random numbers of the environment.
        target: The path of the file, which ends with .gif or .mp4.

    Raises:
        ConfigError: The suffix is another one, the environment can't be drawn, or a package is missing.
        RunError: Drawing fails, or the file can't be written.
    """
    kind = form_of(target)
    with episode_of(actor, environment, env_params, seed) as episode:
        film: AnyFilm = kind(episode.pause_ms)
        try:
            returned, steps = shoot(episode, film)
            # Complete in memory first, so that an error leaves no broken file.
            write_atomically(target, film.content(), "Name another file.")
        finally:
            film.close()
    return Film(target, returned, steps)


def shoot(episode: Episode, film: AnyFilm) -> tuple[float, int]:
    """Add the pictures of an episode to a film, and return the undiscounted return and the number of steps."""
    returned, step = 0.0, 0
    for step, shot in enumerate(episode.shots):
        returned += shot.reward
        if shot.over or film.wants(step):
            film.add(step, shot.draw())
    return returned, step


@contextmanager
def episode_of(actor: Actor, environment: AnyEnvironment | gym.Env, env_params: PyTree, seed: int) -> Iterator[Episode]:
    """Play an episode; an environment that is opened for it is closed.

    Raises:
        ConfigError: The environment can't be drawn.
    """
    if isinstance(environment, HostEnvironment) and environment.common is not None:
        environment = environment.common.world
    if isinstance(environment, Environment):
        yield _compiled_episode(actor, environment, env_params, seed)
        return
    if isinstance(environment, gym.Env):
        yield _gymnasium_episode(actor, environment, str(environment), seed)
        return
    if environment.players is not None:
        environment = _host_world(actor, environment)
    if environment.open_rendered is None:
        raise _no_picture(environment, "It has no open_rendered, which opens a copy that draws itself.")
    with warnings.catch_warnings(), _without_screen():
        warnings.simplefilter("ignore")  # of the packages with which environments draw
        opened = environment.open_rendered(jax.tree.map(np.asarray, env_params))
        try:
            (first,) = instance_seeds(keys_of(seed).run.tobytes(), Stream.EVALUATION, range(1), 1)
            if environment.players is None:
                yield _gymnasium_episode(actor, opened, repr(environment), first)
            else:
                yield _world_episode(actor, opened, environment, first)
        finally:
            opened.close()


def _host_world(actor: Actor, environment: HostEnvironment) -> HostEnvironment:
    """Return a world on the host that keeps the memory of who acts in it."""
    world = moved(actor.learner, environment).environment
    assert isinstance(world, HostEnvironment)
    return world


@contextmanager
def _without_screen() -> Iterator[None]:
    """Let pygame start without a screen and a loudspeaker, which it would miss aloud, and without its greeting."""
    wanted = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def together(actor: Actor, world: Environment) -> Actor:
    """Return the policies of all players of a world as one; the parameters of the actor have a leading agent axis."""
    learner, players = actor.learner, world.players

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool) -> jax.Array:
        def one(number: jax.Array, own: Params, seen: jax.Array) -> jax.Array:
            return learner.act(jax.random.fold_in(key, number), own, seen, greedy)

        shown = jnp.moveaxis(dealt(observation, players), -2, 0)
        return rows(jnp.moveaxis(jax.vmap(one)(jnp.arange(len(shown)), params, shown), 0, -2), players)

    return actor._replace(learner=replace(moved(learner, world), act=act))


def _compiled_episode(actor: Actor, environment: Environment, env_params: PyTree, seed: int) -> Episode:
    if environment.picture is None:
        raise _no_picture(environment, "An environment has to declare how it is drawn, in Environment.picture.")
    pillow()
    return Episode(_states(actor, environment, environment.picture, env_params, seed), environment.picture.pause_ms)


def _states(actor: Actor, environment: Environment, picture: Picture, env_params: PyTree, seed: int) -> Iterator[Shot]:
    learner = actor.learner if actor.learner.environment is environment else moved(actor.learner, environment)
    begin, walk = _programs(learner)
    if learner.memory:  # the picture is of a state with a memory beside it
        assert isinstance(learner.environment, Environment)
        assert learner.environment.picture is not None
        environment, picture = learner.environment, learner.environment.picture
    key = jax.random.fold_in(stream_key(keys_of(seed), Stream.EVALUATION), 0)  # the first agent of an evaluation
    setting = jax.tree.map(np.asarray, env_params)

    def shot(number: int, state: PyTree, reward: float, over: bool) -> Shot:
        return Shot(lambda: _drawn(environment, picture, number, state, setting), reward, over)

    with jax.default_device(cpu()):
        seen, state = begin(key, setting)
        yield shot(0, _first_copy(jax.device_get(state)), 0.0, False)
        for start in range(0, environment.max_steps, CHUNK):
            state, seen, played = walk(key, setting, actor.params, np.int32(start), state, seen)
            states, rewards, ends = jax.device_get(played)
            for i in range(min(CHUNK, environment.max_steps - start)):
                over, number = bool(ends[i, 0]) or start + i + 1 == environment.max_steps, start + i + 1
                yield shot(number, _first_copy(states, i), float(rewards[i, 0]), over)
                if over:
                    return


class EpisodePrograms(NamedTuple):
    """The programs of the first state, and of the next `CHUNK` states, of one episode."""

    begin: Callable[..., Any]
    walk: Callable[..., Any]


@numbered_programs
def _programs(template: Template[Learner]) -> EpisodePrograms:
    """Return the programs of one episode, compiled at their first calls."""

    def begin(learner: Learner, key: Any, env_params: PyTree) -> tuple[Seen, PyTree]:
        return turns(learner, 1).begin(key, env_params)

    def walk(
        learner: Learner,
        key: Any,
        env_params: PyTree,
        params: Params,
        time: jax.Array,
        state: PyTree,
        seen: Seen,
    ) -> tuple[PyTree, Seen, tuple[PyTree, jax.Array, jax.Array]]:
        def one(carry: tuple[Seen, PyTree], now: jax.Array) -> tuple[tuple[Seen, PyTree], Any]:
            seen, reward, done, state, _ = turns(learner, 1).step(key, env_params, params, now, carry[1], carry[0])
            return (seen, state), (state, reward, done)

        (seen, state), played = jax.lax.scan(one, (seen, state), time + jnp.arange(CHUNK))
        return state, seen, played

    return EpisodePrograms(template.jit(begin), template.jit(walk))


def _first_copy(states: PyTree, *step: int) -> PyTree:
    """Return the state of the only environment copy, on the last axis; of one step, if there are several."""
    return jax.tree.map(lambda leaf: leaf[(*step, ..., 0)], states)


def _drawn(environment: Environment, picture: Picture, step: int, state: PyTree, env_params: PyTree) -> np.ndarray:
    for leaf in jax.tree.leaves(state):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            raise RunError(f"The state of {environment!r} after step {step} is not finite, so it can't be drawn.")
    try:
        image = picture.frame(state, env_params)
        return np.asarray(image.convert("RGB") if hasattr(image, "convert") else image, np.uint8)
    except FedrlError:
        raise
    except Exception as fault:
        raise RunError(
            f"The picture of {environment!r} failed after step {step}: {type(fault).__name__}: {fault}. Correct "
            "its Environment.picture."
        ) from fault


def _gymnasium_episode(actor: Actor, environment: gym.Env, name: str, seed: int) -> Episode:
    environment = flat_observations(environment)
    check_alike(actor.spaces, GymSpaces(environment.observation_space, environment.action_space), name)  # type: ignore[arg-type]
    if environment.render_mode != RENDER_MODE:
        check_render_mode(name, environment.metadata)
        raise ConfigError(
            f"{name} was opened with render_mode {environment.render_mode!r}, and a film needs {RENDER_MODE!r}. "
            f'Open it with gymnasium.make(..., render_mode="{RENDER_MODE}").'
        )
    rate = environment.metadata.get("render_fps") or USUAL_FPS
    return Episode(_steps(actor, environment, name, seed), 1000.0 / float(rate))


def _steps(actor: Actor, environment: gym.Env, name: str, seed: int) -> Iterator[Shot]:
    space = environment.action_space

    def draw() -> np.ndarray:
        return _array(environment, name)

    with _blaming(name, "its reset"):
        observation, _ = environment.reset(seed=seed)
    yield Shot(draw, 0.0, False)
    over, step = False, 0
    while not over:
        action = actor.predict(observation)
        if isinstance(space, gym.spaces.Box):
            action = np.clip(action, space.low, space.high).astype(space.dtype)
        step += 1
        with _blaming(name, f"step {step}"):
            observation, reward, terminated, truncated, _ = environment.step(action)
            over, reward = bool(terminated or truncated), float(reward)
        yield Shot(draw, reward, over)


def _world_episode(actor: Actor, opened: Any, environment: HostEnvironment, seed: int) -> Episode:
    rate = opened.metadata.get("render_fps") or USUAL_FPS
    return Episode(_world_steps(actor, opened, environment, seed), 1000.0 / float(rate))


def _world_steps(actor: Actor, opened: Any, environment: HostEnvironment, seed: int) -> Iterator[Shot]:
    """Step a world with one copy; a shot's reward is the mean over its players."""
    name, living, going = repr(environment), Living(environment.players, 1), np.ones(1, bool)
    learner = replace(actor.learner, environment=environment)

    def draw() -> np.ndarray:
        return _array(opened, name)

    with _blaming(name, "its reset"):
        observation = opened.reset(seed)
    yield Shot(draw, 0.0, False)
    over, step = False, 0
    while not over:
        with jax.default_device(cpu()):
            action = np.asarray(acting_greedily(learner, 1, False)(actor.params, observation))
        step += 1
        with _blaming(name, f"step {step}"):
            after, earned = living.after(opened.step(action), going)
        observation, over = after.next_observation, bool(after.terminated[0] or after.truncated[0])
        yield Shot(draw, float(earned[0]), over)


@contextmanager
def _blaming(name: str, what: str) -> Iterator[None]:
    """Name the environment in errors of it.

    Raises:
        RunError: The environment failed.
    """
    try:
        yield
    except Exception as fault:
        raise RunError(
            f"{name} failed in {what} of the film: {type(fault).__name__}: {fault}. Correct the environment."
        ) from fault


def _array(environment: Any, name: str) -> np.ndarray:
    """Return what an environment of Gymnasium draws."""
    try:
        picture: Any = environment.render()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ConfigError(
            f"{name} can't be drawn: {error}. A package that it draws with is missing. Install it; the environments of "
            "Gymnasium itself draw with pip install 'fedrl[render]'."
        ) from error
    except Exception as fault:
        raise RunError(
            f"{name} failed to draw itself: {type(fault).__name__}: {fault}. Correct its render()."
        ) from fault
    if not isinstance(picture, np.ndarray) or picture.shape[2:] != (3,) or picture.dtype != np.uint8:
        found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ConfigError(
            f"render() of {name} returned {found}, and a film needs an array of uint8 [height, width, 3]. Correct its "
            "render()."
        )
    return picture


def _no_picture(environment: AnyEnvironment, why: str) -> ConfigError:
    return ConfigError(
        f"There is no picture of {environment!r}. {why} Film an environment of fedrl, such as cartpole(), or an "
        "environment of Gymnasium with render_mode 'rgb_array'."
    )
