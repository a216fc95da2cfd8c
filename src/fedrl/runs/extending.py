"""Continue a run for more rounds than it was started with.

    complete run --extended--> config.toml with more rounds, its last states as checkpoints --resume--> more records

The records of the earlier rounds become those of a run with so many rounds from the start: what only a last round has
is dropped. The order of the steps lets a crash between any two of them leave a folder that can be resumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fedrl.config import as_dict, dump
from fedrl.config.build import build
from fedrl.config.objects import Experiment
from fedrl.core.errors import ConfigError
from fedrl.records import WITHOUT_ROUNDS, checkpoint
from fedrl.records.folder import FINAL, RunFolder
from fedrl.runs.heterogeneity import is_measured
from fedrl.runs.spending import METHOD, Spending

EVALUATED = ("greedy", "greedy_measures")
LENGTHS = {
    "decay_steps": "after {} steps the step size is 0",
    "rounds": "after round {} local steps stay as they are",
}
"""Parameters that are the length of a schedule, and what follows after it."""


def total_rounds(rounds: int | str, before: int) -> int:
    """Return the number of rounds that was asked for: in all, or with a plus sign beside those before.

    Raises:
        ConfigError: It is no number, or below one.

    >>> total_rounds("+50", 100), total_rounds("500", 100), total_rounds(500, 100)
    (150, 500, 500)
    """
    text = str(rounds).strip()
    if isinstance(rounds, bool) or not re.fullmatch(r"\+?[0-9]+", text) or int(text) < 1:
        raise ConfigError(
            f"rounds is {rounds!r}. It needs to be a whole number of rounds in all, such as 500, or of further ones, "
            "such as +50."
        )
    return before + int(text) if text.startswith("+") else int(text)


def extended(
    place: RunFolder, experiment: Experiment, rounds: int | str, spending: Spending | None = None
) -> tuple[Experiment, list[str]]:
    """Write another number of rounds into a run folder, and make a complete run one that can be resumed.

    Returns:
        The experiment with that number, and sentences about it.

    Raises:
        ConfigError: `rounds` is no number, or fewer than the run has done, or more than its privacy budget allows.
        RunError: The run is complete and has no checkpoints.
    """
    config = experiment.config
    total = total_rounds(rounds, config.rounds)
    done = max((int(record["round"]) for record in place.records()), default=0)
    if total < done or (place.complete and total == done):
        raise ConfigError(
            f"rounds is {total}, and the run in {place.path} has done {done}. It can only be continued for more, such "
            "as --rounds +50."
        )
    if spending is not None:
        spending.check_longer(total, _done(place, experiment))
    longer = build(replace(config, rounds=total))
    if place.complete:
        place.reopen_checkpoints()
    place.write_config(dump(longer.config))
    return longer, list(_schedules(as_dict(longer.config)))


def _done(place: RunFolder, experiment: Experiment) -> dict[int, int]:
    """Return the number of rounds in the last state of each seed of the federation."""
    saved = {seed: place.checkpoint(METHOD, seed) for seed in experiment.config.seed_list}
    return {
        seed: max(checkpoint.round_of(path), checkpoint.round_of(place.path / FINAL / path.name))
        for seed, path in saved.items()
    }


def revision(place: RunFolder, experiment: Experiment) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Return the function that revises the records of a run before it is continued; None drops a record.

    Records after a seed's last checkpoint are dropped: their rounds are run again, to the same bits.
    """
    config = experiment.config
    saved = {
        (method.name, seed): checkpoint.round_of(place.checkpoint(method.name, seed))
        for method in experiment.methods
        for seed in config.seed_list
    }

    def revised(record: dict[str, Any]) -> dict[str, Any] | None:
        number = record["round"]
        if record["method"] in WITHOUT_ROUNDS or number > saved.get((record["method"], record["seed"]), 0):
            return None
        gone = set() if is_measured(number, config.rounds) else {"heterogeneity"}
        if number != config.rounds and not (config.evaluation.every and number % config.evaluation.every == 0):
            gone.update(EVALUATED)
        return {name: value for name, value in record.items() if name not in gone}

    return revised


def _schedules(table: Any, where: str = "") -> Iterator[str]:
    """Yield a sentence for each schedule with a length of its own, which further rounds do not stretch."""
    for key, value in table.items() if isinstance(table, Mapping) else enumerate(table):
        path = f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping | list):
            yield from _schedules(value, path)
        elif where and key in LENGTHS and value:
            yield (
                f"{path} is {value}, and further rounds do not stretch it: {LENGTHS[key].format(value)}, as in a run "
                "with as many rounds and this setting from the start."
            )
