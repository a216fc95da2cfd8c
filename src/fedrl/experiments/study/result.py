"""What came of a setting, in numbers that can be compared: read from its run folder and nothing else.

records.jsonl, summary.json, config.toml --result_of--> Result --> study.json

The cost model is C = K S: in a round, each of K agents sends a model of S bytes, uncompressed. Over T rounds that is
T K S bytes up. What was measured stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from fedrl.experiments.config import Config
from fedrl.experiments.events import Range, Seeded
from fedrl.experiments.folder import RunFolder
from fedrl.experiments.measured import RETURN
from fedrl.experiments.notices import notices_of
from fedrl.experiments.quantities import number
from fedrl.experiments.statistics import seed_means, shared_by_all
from fedrl.experiments.study.plan import Setting
from fedrl.experiments.study.quantity import Quantity, quantity_named, value_on_the_way

COSTS = ("rounds", "environment_steps", "bytes_up", "seconds", "time_s")


class Median(TypedDict):
    """Over seeds: the median, the smallest and the largest; None is never."""

    median: float | None
    low: float | None
    high: float | None


class Reached(TypedDict):
    """What it took to reach the target: the first round in which the return, the mean over agents, is at least as high.

    By another measure, it is the first round in which that is as good.

    Attributes:
        measure: "greedy" if the run evaluates it along the way, else "training": what it is while learning.
        seeds: How many seeds there are.
        reached: How many got there.
        rounds: How many.
        environment_steps: Of all agents.
        bytes_up: Of all agents.
        seconds: The rounds times the median time of a round; compilation and evaluation are left out.
        time_s: Seconds on the virtual clock; left out without one.
    """

    measure: Literal["greedy", "training"]
    seeds: int
    reached: int
    rounds: Median
    environment_steps: Median
    bytes_up: Median
    seconds: Median
    time_s: NotRequired[Median]


class Result(TypedDict):
    """A setting and what came of it; of one that never got through a round there is only its state, and the reason.

    Attributes:
        values: Of each key of the grid.
        label: The same in words.
        folder: The run folder, inside the study's.
        state: Whether it has run.
        reason: Of a setting that failed: the error.
        agents: K.
        rounds: Of the seed that got furthest.
        seed_returns: Final greedy return of each seed, the mean over agents.
        final_return: The interquartile mean of those with its interval.
        measures: What else the federation measured, as in `summary.json`.
        bytes_up: Sent by all agents, the mean over seeds.
        bytes_down: Sent to all agents, the mean over seeds.
        model_bytes: S, the size of the parameters that a round exchanges, uncompressed.
        cost_bytes: T K S.
        target: What it took to get to the study's target.
        steps_per_second: Of the environment, all agents.
        spent_s: The rounds of a seed times the median time of a round.
        virtual_s: Seconds on the virtual clock, if there is one, the mean over seeds.
        compile_s: Time spent compiling.
        wall_s: Time it took.
        programs: How often each program was compiled for it, one for each device.
        refused: Updates of the federated method that were refused, over all seeds.
        notices: What the run had to say beside its numbers, a sentence each; left out if it had nothing.
        unmerged: Seeds in which nothing was ever merged; left out if there are none.
    """

    values: dict[str, Any]
    label: str
    folder: str
    state: Literal["waiting", "interrupted", "failed", "finished"]
    reason: NotRequired[str]
    agents: NotRequired[int]
    rounds: NotRequired[int]
    seed_returns: NotRequired[list[float]]
    final_return: NotRequired[Range]
    measures: NotRequired[dict[str, Seeded]]
    bytes_up: NotRequired[float]
    bytes_down: NotRequired[float]
    model_bytes: NotRequired[int | None]
    cost_bytes: NotRequired[int | None]
    target: NotRequired[Reached]
    steps_per_second: NotRequired[float | None]
    spent_s: NotRequired[float]
    virtual_s: NotRequired[float]
    compile_s: NotRequired[float | None]
    wall_s: NotRequired[float | None]
    programs: NotRequired[dict[str, int]]
    refused: NotRequired[int]
    notices: NotRequired[list[str]]
    unmerged: NotRequired[list[int]]


class Study(TypedDict):
    """What `study.json` holds.

    Attributes:
        name: Of the experiment.
        grid: The values of each key that is varied.
        quantity: By which settings are compared; left out by earlier versions, which compared returns.
        target: What it has to come to for a setting to be timed, or None.
        complete: Whether every setting has run.
        settings: In the order of the product.
    """

    name: str
    grid: dict[str, list[Any]]
    quantity: NotRequired[Quantity]
    target: float | None
    complete: bool
    settings: list[Result]


def result_of(
    setting: Setting,
    config: Config,
    place: RunFolder,
    target: float | None,
    programs: Mapping[str, int] | None = None,
    reason: str | None = None,
    quantity: str = RETURN,
) -> Result:
    """Read what came of a setting.

    Args:
        setting: Which.
        config: Its configuration.
        place: Its run folder, whatever state that is in.
        target: The return at which it is timed.
        programs: How often each program was compiled for it.
        reason: Why it failed when it was last run, if it did.
        quantity: The measure that is timed.
    """
    summary = place.summary()
    result = Result(values=setting.values, label=setting.label, folder=setting.folder, state="interrupted")
    if place.complete and summary:
        result["state"] = "finished"
    elif reason is not None:
        result |= {"state": "failed", "reason": reason}
    elif not (place.path / "config.toml").exists():
        result["state"] = "waiting"
    if not summary:
        return result
    records = [record for record in place.records() if record["method"] == "federated"]
    seeds = [[r for r in records if r["seed"] == seed] for seed in summary["seeds"]]
    seeds = [sorted(rows, key=lambda record: record["round"]) for rows in seeds if rows]
    rounds = max((rows[-1]["round"] for rows in seeds), default=0)
    model = summary.get("model_bytes")
    last = _last_greedy(seeds)
    greedy = seed_means(last) if last else np.empty(0)
    result |= {
        "agents": config.federation.agents,
        "rounds": rounds,
        "seed_returns": [float(value) for value in greedy if math.isfinite(value)],
        "final_return": summary["final_return"],
        "bytes_up": _per_seed(seeds, "bytes_up"),
        "bytes_down": _per_seed(seeds, "bytes_down"),
        "model_bytes": model,
        "cost_bytes": None if model is None else rounds * config.federation.agents * model,
        "steps_per_second": summary.get("steps_per_second"),
        "spent_s": rounds * _round_s([record for rows in seeds for record in rows]),
        "compile_s": summary.get("compile_s"),
        "wall_s": summary.get("wall_s"),
    }
    measures = summary.get("measures") or {}
    ends = {name: each["methods"]["federated"] for name, each in measures.items() if "federated" in each["methods"]}
    if ends:
        result["measures"] = ends
    ours = (summary.get("refusals") or {}).get("federated") or {}
    result["refused"] = ours.get("updates", 0)
    notices = notices_of(summary)
    if notices:
        result["notices"] = notices
    if ours.get("unmerged"):
        result["unmerged"] = ours["unmerged"]
    if "virtual_time" in summary:
        result["virtual_s"] = summary["virtual_time"]["time_s"]
    if target is not None:
        what = quantity_named(quantity, [measures])
        greedy_on_the_way = config.evaluation.every > 0 and what["source"] == "greedy"
        result["target"] = reached_by(seeds, target, greedy=greedy_on_the_way, quantity=what)
    if programs is not None:
        result["programs"] = dict(programs)
    return result


def reached_by(
    seeds: Sequence[Sequence[Mapping[str, Any]]], target: float, *, greedy: bool, quantity: Quantity | None = None
) -> Reached:
    """When each seed first returned as much as the target, or got to it by another measure.

    Greedy returns are means over the agents that are left out in no seed in the end: see `shared_by_all`.

    Args:
        seeds: The records of each seed, in the order of rounds.
        target: The return to reach.
        greedy: Whether to look at greedy episodes rather than at those of training.
        quantity: What is timed; the return by default.
    """
    what = quantity_named(RETURN, ()) if quantity is None else quantity
    last = _last_greedy(seeds)
    agents = shared_by_all(last)[1] if last else np.zeros(0, bool)
    found = [_first(rows, target, agents if greedy else None, what) for rows in seeds]
    columns = {cost: _median([each[cost] for each in found]) for cost in COSTS}
    reached = Reached(
        measure="greedy" if greedy else "training",
        seeds=len(seeds),
        reached=sum(math.isfinite(each["rounds"]) for each in found),
        rounds=columns["rounds"],
        environment_steps=columns["environment_steps"],
        bytes_up=columns["bytes_up"],
        seconds=columns["seconds"],
    )
    if any("time_s" in record for rows in seeds for record in rows):
        reached["time_s"] = columns["time_s"]
    return reached


def _last_greedy(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[float]]:
    """The last greedy returns of each seed that has any."""
    found = [[r["greedy"] for r in rows if r.get("greedy")] for rows in seeds]
    return [[number(value) for value in each[-1]] for each in found if each]


def _first(
    rows: Sequence[Mapping[str, Any]], target: float, agents: np.ndarray | None, what: Quantity
) -> dict[str, float]:
    sent, sign = 0, -1.0 if what["better"] == "lower" else 1.0
    for record in rows:
        sent += record["bytes_up"]
        if what["name"] == RETURN and agents is not None:
            value = _mean(record, agents)
        else:
            value = value_on_the_way(what, record, agents is not None)
        if sign * value >= sign * target:
            seconds = record["round"] * _round_s(rows)
            time_s = record.get("time_s", math.inf)
            return dict(zip(COSTS, (record["round"], record["environment_steps"], sent, seconds, time_s), strict=True))
    return dict.fromkeys(COSTS, math.inf)


def _round_s(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.median([record["seconds"] for record in rows])) if rows else 0.0


def _mean(record: Mapping[str, Any], agents: np.ndarray) -> float:
    """The greedy return of a round, the mean over these agents; NaN if it was not measured, or not for all of them."""
    if not record.get("greedy") or not agents.any():
        return math.nan
    return float(np.mean([number(record["greedy"][k]) for k in np.flatnonzero(agents)]))


def _median(values: Sequence[float]) -> Median:
    """An infinite value is a seed that never got there, and counts as one; of two in the middle the larger is taken."""
    spread = np.quantile(values, (0.5, 0.0, 1.0), method="higher") if values else (math.inf,) * 3
    median, low, high = (float(x) if math.isfinite(x) else None for x in spread)
    return {"median": median, "low": low, "high": high}


def _per_seed(seeds: Sequence[Sequence[Mapping[str, Any]]], key: str) -> float:
    return sum(record[key] for rows in seeds for record in rows) / max(len(seeds), 1)
