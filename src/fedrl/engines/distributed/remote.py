"""What stands in the state of a simulation for agents whose states are in worker processes.

    state of a round --blocks--> RemoteAgents --run--> RemoteRun: number of the run in the workers, what is ahead, ...

Workers have the states of a run as they are now, and none of before. So each change makes new `RemoteAgents`, and those
from before can't be used any more: a state would go on silently with agents that are rounds ahead of it.
"""

from __future__ import annotations

import weakref
from typing import Any

import jax
import numpy as np

from fedrl.core.errors import RunError
from fedrl.engines.executors.records import Agents, Elsewhere, Team


class RemoteRun:
    """A run whose agents workers hold.

    Attributes:
        number: Number of the run.
        calls: Number of calls of `train` so far.
        ahead: `[agents]` bool, the agents that have trained before they were due.
        forgotten: Calls whose stage memory is not needed any more.
        sent: The last broadcasts that were sent to several workers, and what stands for them.
        now: Number of changes of the agents so far, by training and restarts.
    """

    def __init__(self, number: int, agents: int) -> None:
        self.number, self.calls, self.now = number, 0, 0
        self.ahead = np.zeros(agents, bool)
        self.forgotten: list[int] = []
        self.sent: tuple[Any, Any] = (None, None)


class RemoteAgents(Elsewhere):
    """Stands for the agents of a run as they are after a change.

    Attributes:
        run: The run.
        owner: The executor whose workers have them.
        number: Number of the change, from 0 for the agents at first.
    """

    def __init__(self, run: RemoteRun, owner: Any) -> None:
        self.run, self.owner, self.number = run, owner, run.now

    def rows(self, agents: Agents) -> np.ndarray:
        """Return the states of all agents as rows of words."""
        rows: np.ndarray = self.owner.rows(agents)
        return rows


# Without leaves: functions of whole states leave it alone, and a checkpoint needs `whole`.
jax.tree_util.register_pytree_node(RemoteAgents, lambda held: ((), held), lambda held, _: held)


class Undo:
    """Stands for the stage memory of agents from before a call of `train`; workers forget it when this is gone."""

    def __init__(self, run: RemoteRun, call: int) -> None:
        self.ordinal = call
        weakref.finalize(self, run.forgotten.append, call).atexit = False


def standing_for(run: RemoteRun, team: Team, owner: Any) -> Agents:
    """Return what stands for the agents of a run as they are now."""
    blocks: Any = (RemoteAgents(run, owner),)
    return Agents(blocks, team)


def run_of(agents: Agents) -> RemoteRun:
    """Return the run of agents.

    Raises:
        RunError: They have trained since, also in a round that has failed.
    """
    held: Any = agents.blocks[0]
    assert isinstance(held, RemoteAgents)
    if held.number != held.run.now:
        raise RunError(
            "This state of the simulation is from before a later or a failed round, and worker processes have the "
            "agents of after it alone. Use the state that the last round returned, one that `whole` returned earlier "
            "and `placed` puts back, or begin with `init`."
        )
    return held.run
