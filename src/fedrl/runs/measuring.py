"""From what components declare to numbers: of a round, of greedy episodes, and of a whole run.

    Round --sums_in--> sums in its record --value_of--> its measures                                  curves, progress
                       sums of the last rounds, or of greedy episodes --summary_of--> summary.json    tables, studies

The files hold sums beside values, so that whoever reads them can add up what belongs together before a number is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrl.config.measures import COUNTED, Declared, _parts
from fedrl.core.learner import Learner
from fedrl.core.measures import Measure, added, value_of
from fedrl.engines.state import RoundResult
from fedrl.records import MeasureResult
from fedrl.records.measured import RETURN
from fedrl.records.statistics import interval, shared_by_all
from fedrl.runs.evaluate import evaluated

if TYPE_CHECKING:
    from fedrl.runs.seed_result import SeedResult

LAST = 0.1
"""The share of a seed's rounds, the last ones, over which a summary adds up what is measured in training."""

Sums = dict[str, dict[str, float]]


def sums_in(measures: Declared, learner: Learner, seen: RoundResult, steps: np.ndarray) -> Sums:
    """The sums behind each measure in a round, over its agents.

    An agent with a number that is not finite is left out of that measure, and one whose update was refused of all that
    are per local iteration or per round.

    Args:
        measures: What is declared.
        learner: Whose metrics they are, for messages.
        seen: The round; its metrics have an entry for every agent.
        steps: Local steps of every agent.
    """
    trained = np.array(steps, float)
    trained[[rejection.agent for rejection in seen.rejected]] = 0.0
    turns = trained > 0 if seen.turns is None else np.where(trained > 0, seen.turns, 0)
    columns = dict.fromkeys(COUNTED, np.zeros(len(trained)))
    columns |= {"iterations": trained, "rounds": turns.astype(float), **seen.metrics}
    once = {"rounds": 1.0, "iterations": float(trained.sum()), **seen.sums}
    found: Sums = {}
    for name, measure in measures.agents.items():
        parts = _parts(name, measure, columns, learner)
        own = measure.count in seen.metrics
        table = np.stack([np.asarray(columns[part], np.float64) for part in parts])
        here = np.isfinite(table).all(0) & (table[parts.index(measure.count)] > 0) & (own | (trained > 0))
        found[name] = {part: float(row[here].sum()) for part, row in zip(parts, table, strict=True)}
    for name, measure in measures.engine.items():
        found[name] = {part: float(once[part]) for part in _parts(name, measure, once, "The engine")}
    return found


def values_in(measures: Mapping[str, Measure], sums: Sums) -> dict[str, float | None]:
    """What each measure comes to; None where it is not a finite number."""
    return {name: known(value_of(name, measures[name], found)) for name, found in sums.items()}


def greedy_values(learner: Learner, sums: Mapping[str, np.ndarray], agents: np.ndarray) -> dict[str, float | None]:
    """What the measures of an environment come to over the greedy episodes of some agents.

    Args:
        learner: Whose environment it is.
        sums: As in `Played`.
        agents: Which, `[agents]` bool.
    """
    return {
        name: known(value_of(name, measure, {part: x[agents].sum() for part, x in sums.items()}))
        for name, measure in evaluated(learner).items()
        if sums
    }


def agent_values(learner: Learner, sums: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The same of each agent by itself."""
    agents = len(next(iter(sums.values()), ()))
    each = [greedy_values(learner, sums, np.arange(agents) == k) for k in range(agents)]
    return {name: [values[name] for values in each] for name in evaluated(learner) if each}


def summary_of(
    learner: Learner,
    measures: Mapping[str, Declared],
    records: Sequence[Mapping[str, Any]],
    seed_results: Mapping[str, Sequence[SeedResult]],
) -> dict[str, MeasureResult]:
    """What each measure came to in the end, by each method, with an interval over seeds.

    What greedy episodes have is that of the last evaluation. All else, except the return, is that of training: the sums
    of the last tenth of each seed's rounds.

    Args:
        learner: Of the experiment.
        measures: Of each method that trained.
        records: Of all rounds.
        seed_results: Where each seed of each method ended.
    """
    found: dict[str, MeasureResult] = {}
    for name, measure in evaluated(learner).items():
        result = _described(measure, "greedy")
        result["agents"] = {}
        for method, ended in seed_results.items():
            if any(seed_result.sums for seed_result in ended):
                seeds, agents = _greedy(name, measure, ended)
                result["methods"][method] = {**interval(seeds).as_range(), "seeds": seeds}
                result["agents"][method] = agents
        found[name] = result
    for method, here in measures.items():
        rows = [record for record in records if record["method"] == method and "sums" in record]
        last = [_last([r["sums"] for r in rows if r["seed"] == each.seed]) for each in seed_results.get(method, ())]
        for name, measure in here.all.items():
            if name == RETURN or name in evaluated(learner):
                continue
            sums = [added([each[name] for each in kept if name in each]) for kept in last]
            seeds = [known(value_of(name, measure, each)) if each else None for each in sums]
            result = found.setdefault(name, _described(measure, "training"))
            result["methods"][method] = {**interval(seeds).as_range(), "seeds": seeds}
    return {name: result for name, result in found.items() if result["methods"]}


def known(value: float | np.floating) -> float | None:
    """A number for a file; one that is not finite is none."""
    return float(value) if math.isfinite(value) else None


def _described(measure: Measure, source: Any) -> MeasureResult:
    return {"per": measure.per, "unit": measure.unit, "better": measure.better, "source": source, "methods": {}}


def _greedy(name: str, measure: Measure, ended: Sequence[SeedResult]) -> tuple[list[float | None], list[float | None]]:
    """The value of each seed over the agents that no seed leaves out, and of each of those over the seeds."""
    seeds, agents = shared_by_all([seed_result.greedy for seed_result in ended])
    each = [seed_result.sums if there else None for seed_result, there in zip(ended, seeds, strict=True)]

    def value(rows: Sequence[Mapping[str, np.ndarray]], who: Any) -> float | None:
        return known(value_of(name, measure, {part: sum(float(x[part][who].sum()) for x in rows) for part in rows[0]}))

    of_seeds = [value([sums], agents) if sums and agents.any() else None for sums in each]
    rows = [sums for sums in each if sums]
    return of_seeds, [value(rows, k) if there and rows else None for k, there in enumerate(agents)]


def _last(rounds: Sequence[Sums]) -> Sequence[Sums]:
    return rounds[len(rounds) - max(1, math.ceil(LAST * len(rounds))) :] if rounds else ()
