"""State of the engine in a simulation, beside that of the server and the agents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.types import PyTree
from fedrl.engines.executors.records import Team
from fedrl.server.board import Board


class EngineState(NamedTuple):
    """State of the engine, beside the server and the resident blocks.

    Attributes:
        topology: State of the topology, such as servers between agents and the root.
        team: State of the executor about agents.
        board: State of the scheduler.
        clock: State of the clock.
        iterations: Local steps of all agents since the run began, `[1]`.
        past: Broadcasts of earlier versions, if agents receive them late; else ().
        copies: `[agents]`, number of the copy that each agent has of its server's parameters; empty without down
            stages.
    """

    topology: PyTree
    team: Team
    board: Board
    clock: PyTree
    iterations: np.ndarray
    past: PyTree = ()
    copies: np.ndarray = NOBODY
