"""Curves of a method from its records: return, or another measure, against steps, bytes and time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedrl.records.formatting import number
from fedrl.records.measured import RETURN, value_in
from fedrl.records.statistics import Interval, interval
from fedrl.report.run import Run

LONGEST = 1_000


class Curve(NamedTuple):
    """The curve of one method of one run, over seeds.

    Attributes:
        method: Name of the method.
        seeds: Number of seeds with at least one round.
        rounds: Numbers of the rounds, `[points]`.
        steps: Environment steps of all agents together, `[points]`.
        sent: Bytes up and down since the start, of one seed, `[points]`.
        time_s: Seconds on the virtual clock since the start, `[points]`; NaN without a clock.
        returns: Mean training return of the agents, or another measure: an interval over seeds at each point.
        agents: Training return of each agent, mean over seeds, `[agents, points]`.
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
    """Align the rounds of all seeds and return their curve. Very long runs keep every n-th round, and the last.

    Args:
        run: The run.
        method: Name of the method.
        measure: Name of the measure, by default the return.
        longest: Largest number of points.
    """
    records = run.of(method)
    seeds = {seed: i for i, seed in enumerate(dict.fromkeys(record["seed"] for record in records))}
    every = sorted({int(record["round"]) for record in records})
    stride = -(-len(every) // longest)
    kept = every[::-1][::stride][::-1]  # counted from the end, so that the last round is always among them
    columns = {number: i for i, number in enumerate(kept)}
    shape = (len(seeds), len(kept))
    steps, sent, time_s, returns = (np.full(shape, np.nan) for _ in range(4))
    agents = np.full((*shape, run.agents), np.nan)
    total = np.zeros(len(seeds))
    for record in records:  # in order of rounds within a seed
        row = seeds[record["seed"]]
        # Bytes are cumulative, so rounds without a point of their own count, too.
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
        # Fewer resamples than for final returns, since a curve has up to a thousand intervals.
        returns=interval(returns, resamples=2_000),
        agents=_mean(agents).T,
    )


def _sent(record: dict[str, Any]) -> float:
    both = [number(record.get(name)) for name in ("bytes_up", "bytes_down")]
    return float(np.nansum(both))


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the seeds that have a value."""
    known = np.isfinite(values)
    there = known.sum(0)
    return np.where(there > 0, np.where(known, values, 0.0).sum(0) / np.maximum(there, 1), np.nan)
