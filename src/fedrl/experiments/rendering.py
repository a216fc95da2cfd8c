"""Films of a policy: one greedy episode of a CartPole or a gridworld, frame by frame (extra `render`)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fedrl.core.component import call_of
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.learner import Learner
from fedrl.core.types import Key, Params, PyTree
from fedrl.environments.cartpole import TRACK
from fedrl.environments.gridworld import LAYOUTS, WALL
from fedrl.experiments.files import write_atomically

PAPER, INK, ACCENT, SOFT = (255, 255, 255), (40, 44, 52), (214, 90, 49), (205, 210, 216)
SCALE = 2  # drawn twice as large and scaled down, for smooth edges
WIDTH, HEIGHT = 480, 240
TILE = 40

Draw = Callable[[Any, PyTree], Any]
"""`(state, env_params) -> image`."""


def render(learner: Learner, env_params: PyTree, params: Params, key: Key, target: Path) -> float:
    """Film one greedy episode as an animated GIF and return what it earned.

    Raises:
        ConfigError: There is no picture of this environment, or Pillow is missing.
        RunError: The file can't be written.
    """
    draw, pause_ms = _artist(learner.environment)
    states, returned = episode(learner, env_params, params, key)
    stride = max(1, len(states) // 250)
    frames = [draw(state, env_params) for state in states[::stride]]
    film = io.BytesIO()
    frames[0].save(film, format="GIF", save_all=True, append_images=frames[1:], duration=pause_ms * stride, loop=0)
    write_atomically(target, film.getvalue(), "Name another file.")
    return returned


def episode(learner: Learner, env_params: PyTree, params: Params, key: Key) -> tuple[list[Any], float]:
    """The states of one greedy episode, on the host, and its return."""
    environment = learner.environment
    step = jax.jit(
        lambda k, policy, state, seen: environment.step(
            jax.tree.map(lambda x: x[..., 0], environment.draw_step(k, (1,))),
            state,
            learner.act(k, policy, seen[..., None], True)[..., 0],
            env_params,
        )
    )
    noise = jax.tree.map(lambda x: x[..., 0], environment.draw_reset(key, (1,)))
    state, timestep = jax.jit(environment.reset)(noise, env_params)
    states, returned = [jax.device_get(state)], 0.0
    for time in range(environment.max_steps):
        state, timestep = step(jax.random.fold_in(key, time), params, state, timestep.observation)
        states.append(jax.device_get(state))
        returned += float(timestep.reward)
        if timestep.terminated or timestep.truncated:
            break
    return states, returned


def _artist(environment: Environment) -> tuple[Draw, int]:
    """How to draw the environment, and the milliseconds between frames."""
    call = call_of(environment)
    name = "" if call is None else call.component.name
    if name == "cartpole":
        return _cartpole, 20
    if name == "gridworld":
        assert call is not None
        return _gridworld(call.arguments["layout"]), 300
    raise ConfigError(f"There is no picture of the environment {name!r}. {nearest(name, ('cartpole', 'gridworld'))}")


def _canvas(width: int, height: int) -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ConfigError("A film needs Pillow, which is not installed. Run pip install 'fedrl[render]'.") from None
    image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    return image, ImageDraw.Draw(image)


def _finished(image: Any) -> Any:
    return image.resize((image.width // SCALE, image.height // SCALE))


def _cartpole(timed: Any, env_params: Any) -> Any:
    state = timed.state
    image, pen = _canvas(WIDTH, HEIGHT)
    metre, floor = image.width / (2.4 * TRACK), int(0.82 * image.height)
    x, top = image.width / 2 + float(state.x) * metre, floor - 0.16 * metre
    for edge in (-TRACK, TRACK):
        at = image.width / 2 + edge * metre
        pen.line([(at, floor - 8 * SCALE), (at, floor + 8 * SCALE)], fill=SOFT, width=2 * SCALE)
    pen.line([(0, floor), (image.width, floor)], fill=SOFT, width=SCALE)
    pen.rectangle([x - 0.25 * metre, top, x + 0.25 * metre, floor], fill=INK)
    length = 2.0 * float(env_params.length) * metre
    tip = (x + length * math.sin(float(state.theta)), top - length * math.cos(float(state.theta)))
    pen.line([(x, top), tip], fill=ACCENT, width=int(0.08 * metre))
    return _finished(image)


def _gridworld(layout: str) -> Draw:
    rows = [line.strip() for line in LAYOUTS.get(layout, layout).strip().splitlines()]
    cells = [(y, x) for y, row in enumerate(rows) for x, tile in enumerate(row) if tile != WALL]
    colours = {WALL: INK, "G": (120, 170, 110), "O": (70, 110, 160)}

    def draw(timed: Any, env_params: PyTree) -> Any:
        del env_params
        image, pen = _canvas(TILE * len(rows[0]), TILE * len(rows))
        size = TILE * SCALE
        for y, row in enumerate(rows):
            for x, tile in enumerate(row):
                box = [x * size, y * size, (x + 1) * size, (y + 1) * size]
                pen.rectangle(box, fill=colours.get(tile, PAPER), outline=SOFT)
        y, x = cells[int(timed.state.cell)]
        pen.ellipse([(x + 0.2) * size, (y + 0.2) * size, (x + 0.8) * size, (y + 0.8) * size], fill=ACCENT)
        return _finished(image)

    return draw
