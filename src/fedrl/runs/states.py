"""Save and load the states of simulations whose agents may be in other processes, and tell of those that ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrl.core.stage import forgotten
from fedrl.core.types import PyTree
from fedrl.engines.state import RoundResult, Simulation, SimulationState
from fedrl.records import Notice, checkpoint
from fedrl.records.measured import readable


def save_state(
    path: Path,
    simulation: Simulation,
    run_state: SimulationState,
    round_number: int,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Write a checkpoint without secrets; `before` is called when it is on the disk, and the file not replaced yet."""
    checkpoint.save(path, forgotten(simulation.whole(run_state)), round_number, before)


def load_state(path: Path, simulation: Simulation, like: PyTree) -> Any:
    """Read the state of a checkpoint, in the form of an initial state of the simulation.

    Raises:
        RunError: The file is damaged, or contains another state.
    """
    return simulation.placed(checkpoint.load(path, simulation.whole(like)))


def deaths_in(seen: RoundResult, method: str, seed: int, number: int) -> list[Notice]:
    """Return an event for each worker process that ended in a round."""
    return [
        Notice(
            event="notice",
            text=f"{readable(method)}, seed {seed}, round {number}: worker {each.worker} on {each.host} ended "
            f"({each.reason}). It was started again, and its {each.agents:,} agent{'' if each.agents == 1 else 's'} "
            "continued from the last merge.",
        )
        for each in seen.deaths
    ]
