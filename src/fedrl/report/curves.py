"""From the records of a method to its curves: return, or whatever was measured, against steps, bytes and time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedrl.records.formatting import number
from fedrl.records.measured import RETURN, value_in
from fedrl.records.statistics import Interval, interval
from fedrl.report.run import Run

LONGEST = 1_000


class Curve(NamedTuple):
    """How one method of one run went, over seeds.

    Attributes:
        method: Which.
        seeds: How many seeds have at least one round.
        rounds: `[points]`.
        steps: `[points]`, environment steps of all agents together.
        sent: `[points]`, bytes up and down since the start, of one seed.
        time_s: `[points]`, seconds on the virtual clock since the start; NaN without one.
        returns: Mean training return of the agents, or another measure: an interval over seeds at each point.
        agents: `[agents, points]`, the training return of each agent, mean over seeds.
    """

    method: str
    seeds: int
    rounds: np.ndarray
    steps: np.ndarray
    sent: np.ndarray
    time_s: np.ndarray
    returns: Interval
    agents: np.ndarray


def curve(run: Run, method: str, measure: str = RETURN, longest: int = LONGEST) -> Curve:
    """Line up the rounds of all seeds. Of very long runs every n-th round is kept, and the last.

    Args:
        run: Which.
        method: Of the run.
        measure: What is read from the records.
        longest: Points at most.
    """
    records = run.of(method)
    seeds = {seed: i for i, seed in enumerate(dict.fromkeys(record["seed"] for record in records))}
    every = sorted({int(record["round"]) for record in records})
    stride = -(-len(every) // longest)
    kept = every[::-1][::stride][::-1]
    columns = {number: i for i, number in enumerate(kept)}
    shape = (len(seeds), len(kept))
    steps, sent, time_s, returns = (np.full(shape, np.nan) for _ in range(4))
    agents = np.full((*shape, run.agents), np.nan)
    total = np.zeros(len(seeds))
    for record in records:  # in order of rounds within a seed
        row = seeds[record["seed"]]
        total[row] += _sent(record)
        column = columns.get(int(record["round"]))
        if column is not None:
            steps[row, column] = number(record.get("environment_steps"))
            sent[row, column] = total[row]
            time_s[row, column] = number(record.get("time_s"))
            returns[row, column] = number(value_in(record, measure))
            each = [number(value) for value in record.get("agents") or ()]
            agents[row, column, : len(each)] = each
    return Curve(
        method=method,
        seeds=len(seeds),
        rounds=np.array(kept),
        steps=_mean(steps),
        sent=_mean(sent),
        time_s=_mean(time_s),
        returns=interval(returns, resamples=2_000),
        agents=_mean(agents).T,
    )


def _sent(record: dict[str, Any]) -> float:
    both = [number(record.get(name)) for name in ("bytes_up", "bytes_down")]
    return float(np.nansum(both))


def _mean(values: np.ndarray) -> np.ndarray:
    """Over seeds, those that got there."""
    known = np.isfinite(values)
    there = known.sum(0)
    return np.where(there > 0, np.where(known, values, 0.0).sum(0) / np.maximum(there, 1), np.nan)
