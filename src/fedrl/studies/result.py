"""Compute the results of a setting from its run folder alone.

records.jsonl, summary.json, config.toml --result_of--> Result --> study.json

The cost model is C = K S: in a round, each of K agents sends a model of S bytes, uncompressed. T rounds cost T K S
bytes up. Results contain measured bytes beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedrl.config import Config
from fedrl.records.folder import RunFolder
from fedrl.records.formatting import number
from fedrl.records.measured import RETURN
from fedrl.records.notices import notices_of
from fedrl.records.statistics import seed_means, shared_by_all
from fedrl.studies.folder import StudyFolder
from fedrl.studies.plan import StudySetting
from fedrl.studies.quantity import quantity_named, value_on_the_way
from fedrl.studies.records import Median, Quantity, Reached, Result, Study

COSTS = ("rounds", "environment_steps", "bytes_up", "seconds", "time_s")


def result_of(
    setting: StudySetting,
    config: Config,
    place: RunFolder,
    target: float | None,
    programs: Mapping[str, int] | None = None,
    reason: str | None = None,
    quantity: str = RETURN,
) -> Result:
    """Return the results of a setting.

    Args:
        setting: The setting.
        config: Its configuration.
        place: Its run folder, which may be incomplete or missing.
        target: The value of `quantity` at which it is timed; None for no timing.
        programs: How often each program was compiled for it.
        reason: The error of its last run, if it failed.
        quantity: The measure that is timed.
    """
    summary = place.summary()
    reason = summary.get("failure") if reason is None else reason
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
    # From the records, since the summary has only the mean over seeds.
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
        **({"epsilon": summary["privacy"]["together"]} if "privacy" in summary else {}),
    }
    measures = summary.get("measures") or {}
    ends = {name: each["methods"]["federated"] for name, each in measures.items() if "federated" in each["methods"]}
    if ends:
        result["measures"] = ends
    if summary.get("ended"):
        result["ended"] = [each["seed"] for each in summary["ended"]]
    ours = (summary.get("rejections") or {}).get("federated") or {}
    result["rejected"] = ours.get("updates", 0)
    notices = notices_of(summary)
    if notices:
        result["notices"] = notices
    if ours.get("unmerged"):
        result["unmerged"] = ours["unmerged"]
    if "virtual_time" in summary:
        result["virtual_s"] = summary["virtual_time"]["time_s"]
    if target is not None:
        what = quantity_named(quantity, [measures])
        # Without evaluations during training, only the training returns show when the target was reached.
        greedy_on_the_way = config.evaluation.every > 0 and what["source"] == "greedy"
        result["target"] = reached_by(seeds, target, greedy=greedy_on_the_way, quantity=what)
    if programs is not None:
        result["programs"] = dict(programs)
    return result


def reached_by(
    seeds: Sequence[Sequence[Mapping[str, Any]]], target: float, *, greedy: bool, quantity: Quantity | None = None
) -> Reached:
    """Return the costs until each seed first reached the target.

    Greedy returns are means over the agents that no seed leaves out at its end: see `shared_by_all`.

    Args:
        seeds: The records of each seed, in the order of rounds.
        target: The value to reach.
        greedy: Whether to use greedy episodes instead of training episodes.
        quantity: The measure that is timed; the return by default.
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
    """Return the last greedy returns of each seed that has any."""
    # Only rounds with an evaluation have greedy returns.
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
    """Return the greedy return of a round, the mean over these agents; NaN if one of them has none."""
    if not record.get("greedy") or not agents.any():
        return math.nan
    return float(np.mean([number(record["greedy"][k]) for k in np.flatnonzero(agents)]))


def _median(values: Sequence[float]) -> Median:
    """Return the median of costs, with infinity for seeds that missed the target; of two in the middle, the larger."""
    # Without interpolation: between a number and infinity it would give NaN.
    spread = np.quantile(values, (0.5, 0.0, 1.0), method="higher") if values else (math.inf,) * 3
    median, low, high = (float(x) if math.isfinite(x) else None for x in spread)
    return {"median": median, "low": low, "high": high}


def _per_seed(seeds: Sequence[Sequence[Mapping[str, Any]]], key: str) -> float:
    return sum(record[key] for rows in seeds for record in rows) / max(len(seeds), 1)


def study_in(place: StudyFolder) -> Study:
    """Return the results of a study so far, from its run folders.

    Compilations and errors are read from `study.json`, since run folders do not contain them.
    """
    plan, before = place.plan, place.read()
    told = {r["folder"]: r for r in before["settings"]} if before else {}
    settings: list[Result] = []
    for setting in plan.settings:
        earlier = told.get(setting.folder)
        programs, reason = (None, None) if earlier is None else (earlier.get("programs"), earlier.get("reason"))
        place_of_run = place.run_folder(setting)
        given = (setting, plan.config(setting), place_of_run, plan.target, programs, reason, plan.quantity)
        settings.append(result_of(*given))
    done = all(result["state"] == "finished" for result in settings)
    what = quantity_named(plan.quantity, _summarised(place))
    return Study(name=plan.name, grid=plan.grid, quantity=what, target=plan.target, complete=done, settings=settings)


def _summarised(place: StudyFolder) -> Iterator[Mapping[str, Any]]:
    """Yield the measures in the summaries of settings."""
    for setting in place.plan.settings:
        yield place.run_folder(setting).summary().get("measures") or {}


MOST_NOTICES = 8


def study_notices(study: Study) -> list[str]:
    """Return what the study costs in privacy, and the first notice of each setting that has any."""
    found = [(i, result["notices"]) for i, result in enumerate(study["settings"], 1) if result.get("notices")]
    lines = [f"setting {i}: {said[0]}" for i, said in found[:MOST_NOTICES]]
    more = len(found) - MOST_NOTICES
    return [
        *_spent_together(study),
        *lines,
        *([f"and {more:,} more settings with notices, see study.json"] if more > 0 else []),
    ]


def _spent_together(study: Study) -> list[str]:
    """Return a sentence about the privacy budgets of several settings; none for one alone."""
    each = [result["epsilon"] for result in study["settings"] if "epsilon" in result]
    if len(each) < 2:
        return []
    return [
        f"Each setting has a privacy budget of its own: {len(each)} have spent up to epsilon = {max(each):.4g} each. "
        f"If their agents are the same, they add up, to {sum(each):.4g} at most and as many times delta, also where "
        "only the best setting is used."
    ]
