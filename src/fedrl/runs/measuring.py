"""Compute declared measures of a round, of greedy episodes, and of a whole run.

    RoundResult --sums_in--> sums in its record --value_of--> its measures                            curves, progress
                       sums of the last rounds, or of greedy episodes --summary_of--> summary.json    tables, studies

Files contain sums beside values: a measure over several rounds is computed from added sums, not from averaged values.
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
"""Fraction of a seed's rounds, the last ones, over which a summary adds the sums of training."""

Sums = dict[str, dict[str, float]]


def sums_in(measures: Declared, learner: Learner, seen: RoundResult, steps: np.ndarray) -> Sums:
    """Return the sums of each measure in a round, over its agents.

    An agent with a number that is not finite is left out of that measure, and an agent whose update was rejected is
    left out of all measures per local iteration or per round.

    Args:
        measures: The declared measures.
        learner: The learner that declares them, for messages.
        seen: The round; its metrics have an entry for every agent.
        steps: Local steps of every agent, `[agents]`.
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
        # A measure that counts for itself (episodes, steps of the environment) is valid even if the update is rejected.
        own = measure.count in seen.metrics
        table = np.stack([np.asarray(columns[part], np.float64) for part in parts])
        here = np.isfinite(table).all(0) & (table[parts.index(measure.count)] > 0) & (own | (trained > 0))
        found[name] = {part: float(row[here].sum()) for part, row in zip(parts, table, strict=True)}
    for name, measure in measures.engine.items():
        found[name] = {part: float(once[part]) for part in _parts(name, measure, once, "The engine")}
    return found


def values_in(measures: Mapping[str, Measure], sums: Sums) -> dict[str, float | None]:
    """Return the value of each measure; None where it is not finite."""
    return {name: known(value_of(name, measures[name], found)) for name, found in sums.items()}


def greedy_values(learner: Learner, sums: Mapping[str, np.ndarray], agents: np.ndarray) -> dict[str, float | None]:
    """Return the values of an environment's measures over the greedy episodes of some agents.

    Args:
        learner: The learner with the environment.
        sums: As in `Played`.
        agents: Mask of the agents, `[agents]` bool.
    """
    return {
        name: known(value_of(name, measure, {part: x[agents].sum() for part, x in sums.items()}))
        for name, measure in evaluated(learner).items()
        if sums
    }


def agent_values(learner: Learner, sums: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Return the values of an environment's measures for each agent separately."""
    agents = len(next(iter(sums.values()), ()))
    each = [greedy_values(learner, sums, np.arange(agents) == k) for k in range(agents)]
    return {name: [values[name] for values in each] for name in evaluated(learner) if each}


def summary_of(
    learner: Learner,
    measures: Mapping[str, Declared],
    records: Sequence[Mapping[str, Any]],
    seed_results: Mapping[str, Sequence[SeedResult]],
) -> dict[str, MeasureResult]:
    """Return the final value of each measure, by method, with an interval over seeds.

    Measures of greedy episodes are those of the last evaluation. All others, except the return, are computed from the
    sums of the last tenth of each seed's rounds.

    Args:
        learner: Learner of the experiment.
        measures: Declared measures of each method that trained.
        records: Records of all rounds.
        seed_results: Final results of each seed of each method.
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
            # A measure of greedy episodes has its value already, and the return is `final_return`.
            if name == RETURN or name in evaluated(learner):
                continue
            sums = [added([each[name] for each in kept if name in each]) for kept in last]
            seeds = [known(value_of(name, measure, each)) if each else None for each in sums]
            result = found.setdefault(name, _described(measure, "training"))
            result["methods"][method] = {**interval(seeds).as_range(), "seeds": seeds}
    return {name: result for name, result in found.items() if result["methods"]}


def known(value: float | np.floating) -> float | None:
    """Return a number for a file; None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def _described(measure: Measure, source: Any) -> MeasureResult:
    return {"per": measure.per, "unit": measure.unit, "better": measure.better, "source": source, "methods": {}}


def _greedy(name: str, measure: Measure, ended: Sequence[SeedResult]) -> tuple[list[float | None], list[float | None]]:
    """Return the value of each seed over the agents that no seed leaves out, and that of each agent over the seeds."""
    seeds, agents = shared_by_all([seed_result.greedy for seed_result in ended])
    each = [seed_result.sums if there else None for seed_result, there in zip(ended, seeds, strict=True)]

    def value(rows: Sequence[Mapping[str, np.ndarray]], who: Any) -> float | None:
        return known(value_of(name, measure, {part: sum(float(x[part][who].sum()) for x in rows) for part in rows[0]}))

    of_seeds = [value([sums], agents) if sums and agents.any() else None for sums in each]
    rows = [sums for sums in each if sums]
    return of_seeds, [value(rows, k) if there and rows else None for k, there in enumerate(agents)]


def _last(rounds: Sequence[Sums]) -> Sequence[Sums]:
    return rounds[len(rounds) - max(1, math.ceil(LAST * len(rounds))) :] if rounds else ()
