"""The state of a wrapper that has to know who of a world's players is alive and present."""

from __future__ import annotations

from typing import NamedTuple

import jax

from fedrl.core.environment import State


class Tracked(NamedTuple):
    """The state of a world, and who of its players is there.

    Attributes:
        state: The state of the world.
        alive: `[players]`, the players that are alive; None if no player ever dies.
        present: `[players]`, the players that take part; None for all of them.
    """

    state: State
    alive: jax.Array | None
    present: jax.Array | None = None
