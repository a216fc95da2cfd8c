"""What is done with the events of a run while it goes on: a display, a table, TensorBoard events, your own function.

A sink is a function of one event; `fedrl.records` has the events. `fedrl.run`, `resume`, `sweep` and `resume_sweep`
take any number of them, and call them by one thread at a time.

    fedrl.run("experiment.toml", sinks=[csv_file("rounds.csv"), on_round(print)])
"""

from typing import TYPE_CHECKING, Any

from fedrl.sinks.csv_file import csv_file
from fedrl.sinks.rounds import on_round
from fedrl.sinks.tensorboard import tensorboard

if TYPE_CHECKING:
    from fedrl.sinks.display import progress

__all__ = [
    "csv_file",
    "on_round",
    "progress",
    "tensorboard",
]


# Importing rich takes a tenth of a second, which a silent run does not need.
def __getattr__(name: str) -> Any:
    if name != "progress":
        raise AttributeError(f"module 'fedrl.sinks' has no attribute {name!r}")
    from fedrl.sinks.display import progress

    return progress
