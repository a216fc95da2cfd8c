"""Compute the summary of a run: `summary.json`."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fedrl.config.measures import Declared
from fedrl.config.objects import Experiment
from fedrl.core.component import cite
from fedrl.core.versions import versions
from fedrl.records import WITHOUT_ROUNDS, AgentResult, Compared, Ended, LeftOut, Range, Summary
from fedrl.records.rejections import rejections_of
from fedrl.records.statistics import interval, seed_means, shared_by_all
from fedrl.runs.communication import consensus_of, hierarchy_of, timing_of
from fedrl.runs.explain import reading
from fedrl.runs.heterogeneity import heterogeneity_of
from fedrl.runs.measuring import summary_of
from fedrl.runs.session import Timing
from fedrl.runs.warnings import warnings_of

if TYPE_CHECKING:
    from fedrl.runs.seed_result import SeedResult

PACKAGES = ("fedrl", "jax", "jaxlib", "numpy", "optax")


def summarise(
    experiment: Experiment,
    records: Sequence[Mapping[str, Any]],
    seed_results: Mapping[str, Sequence[SeedResult]],
    timing: Timing,
    measures: Mapping[str, Declared],
) -> Summary:
    """Return the summary of all seeds and methods.

    Args:
        experiment: The experiment.
        records: Records of all rounds.
        seed_results: Final results of each seed, by method.
        timing: Time spent compiling and training.
        measures: Declared measures, by method.
    """
    federated = seed_results.get("federated", [])
    settings = _settings(experiment)
    baselines = [name for name in seed_results if name != "federated" and seed_results[name]]
    ours = [record for record in records if record["method"] == "federated"]
    sent = [record for record in ours if record["seed"] == experiment.config.seed_list[0]]
    # Environment steps of records are cumulative, so the last record of a seed has its total.
    last: dict[tuple[str, int], int] = {}
    for record in records:
        if record["method"] not in WITHOUT_ROUNDS:
            last[record["method"], record["seed"]] = record["environment_steps"]
    summary: Summary = {
        "name": experiment.config.name,
        "final_return": over_seeds([seed_result.greedy for seed_result in federated]),
        "agents": [
            {"id": result["id"], "return": result["return"], "env_params": settings[result["id"]]}
            for result in _agents(federated)
        ],
        "baselines": {
            name: over_seeds([seed_result.greedy for seed_result in seed_results[name]]) for name in baselines
        },
        "baseline_agents": {name: _agents(seed_results[name]) for name in baselines},
        "held_out": over_seeds([o.held_out for o in federated]) if experiment.held_out is not None else None,
        "rounds": experiment.config.rounds,
        "seeds": experiment.config.seed_list,
        "environment_steps": sum(last.values()) + len(seed_results.get("fine_tuned", ())) * experiment.tuning_steps,
        "steps_per_second": timing.steps / timing.training_s if timing.training_s > 0 and timing.steps else None,
        # The first round of agents at other sites is mostly their coming.
        "compile_s": None if experiment.in_real_time else timing.compile_s,
        "wall_s": time.perf_counter() - timing.started,
        "bytes_up": sum(record["bytes_up"] for record in sent),
        "bytes_down": sum(record["bytes_down"] for record in sent),
        "messages_up": sum(record.get("messages_up", 0) for record in sent),
        "messages_down": sum(record.get("messages_down", 0) for record in sent),
        "model_bytes": _model_bytes(experiment),
        "epsilon": None,
        "trust": experiment.config.federation.trust_model,
        "reads": reading(experiment),
        "versions": versions(PACKAGES),
        "revision": revision(),
        "citations": list(dict.fromkeys(line for part in _parts(experiment) for line in cite(part))),
    }
    summary["heterogeneity"] = heterogeneity_of(experiment, ours)
    measured = summary_of(experiment.learner, measures, records, seed_results)
    if measured:
        summary["measures"] = measured
    if "independent" in baselines:
        ended, alone = (
            [seed_result.greedy for seed_result in seed_results[name]] for name in ("federated", "independent")
        )
        summary["warnings"] = warnings_of(experiment.learner, ended, alone, "fine_tuned" in baselines)
    summary["rejections"] = rejections_of(records)
    early: list[Ended] = [
        {"seed": each.seed, "round": each.round, "reason": each.ended} for each in federated if each.ended
    ]
    if early:
        summary["ended"] = early
    summary["left_out"] = _left_out(seed_results)
    summary["compared"] = _compared(seed_results)
    consensus, hierarchy = consensus_of(experiment, ours), hierarchy_of(experiment, ours)
    if consensus is not None:
        summary["consensus"] = consensus
    if hierarchy is not None:
        summary["hierarchy"] = hierarchy
    timing_seen = timing_of(experiment, ours)
    if timing_seen is not None:
        summary["virtual_time"] = timing_seen
    if experiment.in_real_time:
        summary["real_time"] = True
    return _finite(summary)


def _finite(value: Any) -> Any:
    """Return the value with None for numbers that are not finite, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _model_bytes(experiment: Experiment) -> int:
    params = jax.eval_shape(experiment.federation.init_server, jax.random.key(0)).params
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def _parts(experiment: Experiment) -> list[Any]:
    """Return the components that may have a reference."""
    where = experiment.coordination
    return [experiment.federation, experiment.selection, experiment.local_steps, *where.parts]


def over_seeds(returns: Sequence[Sequence[float | None]]) -> Range:
    """Return the interquartile mean over seeds, with its interval, of the mean over agents of each seed.

    A seed without any return is left out, and so is, in all seeds, an agent that lacks one in any other seed. All
    numbers are None if none remain.
    """
    if not returns:
        return {"mean": None, "low": None, "high": None}
    return interval(seed_means(returns)).as_range()


def revision() -> str | None:
    """Return the commit of fedrl's source code, with "+" if files were changed; None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _agents(seed_results: Sequence[SeedResult]) -> list[AgentResult]:
    """Return the mean over seeds of each agent's greedy return."""
    if not seed_results:
        return []
    table = np.asarray([seed_result.greedy for seed_result in seed_results], float)
    seeds, agents = shared_by_all(table)
    means = table[seeds].mean(0) if seeds.any() else np.full(table.shape[1], np.nan)
    return [{"id": i, "return": float(means[i]) if known else None} for i, known in enumerate(agents)]


def _left_out(seed_results: Mapping[str, Sequence[SeedResult]]) -> dict[str, list[LeftOut]]:
    """Return the agents that each method leaves out, with equal omissions of several seeds in one entry."""
    found: dict[str, list[LeftOut]] = {}
    parts = [
        (name, seed_result.seed, seed_result.left_out) for name, ended in seed_results.items() for seed_result in ended
    ]
    parts += [
        ("held_out", seed_result.seed, seed_result.held_out_left_out)
        for seed_result in seed_results.get("federated", ())
    ]
    for name, seed, omissions in parts:
        for what, agents, reason in omissions:
            listed = found.setdefault(name, [])
            same = [x for x in listed if (x["what"], x["agents"], x["reason"]) == (what, list(agents), reason)]
            if same:
                same[0]["seeds"].append(seed)
            else:
                listed.append({"what": what, "agents": list(agents), "seeds": [seed], "reason": reason})
    return found


def _compared(seed_results: Mapping[str, Sequence[SeedResult]]) -> dict[str, Compared]:
    """Return each baseline with returns of other agents than the federation, and both over their common agents."""
    tables = {name: np.asarray([o.greedy for o in ended], float) for name, ended in seed_results.items() if ended}
    found: dict[str, Compared] = {}
    ours = tables.pop("federated", np.empty((0, 0)))
    for name, theirs in tables.items() if len(ours) else ():
        both = shared_by_all(ours)[1] & shared_by_all(theirs)[1]
        if both.any() and not all(shared_by_all(table)[1][~both].sum() == 0 for table in (ours, theirs)):
            federated, baseline = (interval(seed_means(table[:, both])).as_range() for table in (ours, theirs))
            found[name] = {"agents": int(both.sum()), "federated": federated, "baseline": baseline}
    return found


def _settings(experiment: Experiment) -> list[dict[str, Any]]:
    """Return the parameters of each agent's environment that the fleet sets."""
    agents = experiment.config.federation.agents
    columns: dict[str, list[Any]] = {}
    given = experiment.config.fleet
    assert isinstance(given, Mapping)  # `build` has turned the other forms into this one
    for name, setting in given.items():
        if name in getattr(experiment.environment, "choices", ()):
            columns[name] = list(setting) if isinstance(setting, list | tuple) else [setting] * agents
        elif hasattr(experiment.fleet, name):
            columns[name] = np.asarray(getattr(experiment.fleet, name)).tolist()
        elif not isinstance(
            setting, Mapping
        ):  # a number from which the environment computes its tables, so no leaf has its name
            columns[name] = list(setting) if isinstance(setting, list | tuple) else [setting] * agents
    return [{name: column[i] for name, column in columns.items()} for i in range(agents)]
