"""Communication in records and summary: with a clock, with a tree of servers, or without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fedrl.config.objects import Experiment
from fedrl.engines.state import RoundResult
from fedrl.records import Communication, Consensus, HierarchyCost, VirtualTime
from fedrl.topologies.spectrum import long_run_contraction

FAULTS: tuple[Literal["hung", "restarted", "duplicates", "malformed"], ...] = (
    "hung",
    "restarted",
    "duplicates",
    "malformed",
)
"""Faults that a clock counts; a record contains only those that occurred."""


def communicated(seen: RoundResult) -> Communication:
    """Return the entries of a round's record about communication; none for a single server without a clock."""
    found: Communication = {}
    if "consensus_distance" in seen.metrics:
        found["messages"] = int(seen.metrics["messages"].sum())
        found["drift"] = _root_mean_square(seen.metrics["drift"])
        found["consensus_distance"] = _root_mean_square(seen.metrics["consensus_distance"])
    if "whole_copies" in seen.metrics:
        found["whole_copies"] = int(seen.metrics["whole_copies"].sum())
    if seen.levels:
        found["levels"] = [list(level) for level in seen.levels]
        found["latency_s"] = seen.latency_s
    if seen.clock_stats is not None:
        found["time_s"] = seen.clock_stats.time_s
        found["arrived"], found["dropped"], found["cancelled"] = (
            seen.clock_stats.arrived,
            seen.clock_stats.dropped,
            seen.clock_stats.cancelled,
        )
        found["staleness"] = seen.clock_stats.staleness_mean
        for name in FAULTS:
            if count := getattr(seen.clock_stats, name):
                found[name] = count
    elif seen.arrivals.staleness.any():
        found["staleness"] = float(seen.arrivals.staleness.mean())
    if seen.selected is not None:
        found["selected"] = seen.selected.tolist()
    return found


def consensus_of(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> Consensus | None:
    """Return how well agents without a server agree, from the records of the federated method; None with a server."""
    where = experiment.coordination.neighbours
    if where is None or not records:
        return None
    gamma = 1.0 if where.gamma is None else where.gamma
    whole, expected = (
        long_run_contraction(where.graph, where.mixing, experiment.config.federation.agents, step)
        for step in (1.0, gamma)
    )
    # Factors multiply over rounds, so their mean is geometric; a round has several consensus steps, hence the root.
    ratios = [r["consensus_distance"] / r["drift"] for r in records if r["drift"] and r["consensus_distance"]]
    measured = float(np.exp(np.log(ratios).mean() / where.consensus_steps)) if ratios else None
    last = max(record["round"] for record in records)
    final = [r["consensus_distance"] for r in records if r["round"] == last and r["consensus_distance"] is not None]
    return {
        "spectral_gap": None if whole is None else 1.0 - whole,
        "contraction": expected,
        "measured_contraction": measured,
        "messages": sum(r["messages"] for r in records if r["seed"] == records[0]["seed"]),
        "distance": float(np.mean(final)) if final else None,
    }


def timing_of(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> VirtualTime | None:
    """Return the totals of the virtual clock, from the records of the federated method; None without a clock."""
    if experiment.coordination.clock is None or not records:
        return None
    last = {record["seed"]: record["time_s"] for record in records}
    arrived, dropped, cancelled = (
        int(sum(record[name] for record in records)) for name in ("arrived", "dropped", "cancelled")
    )
    # A record has the mean staleness of its arrivals: weight it by their number.
    stale = sum(record["staleness"] * record["arrived"] for record in records)
    told: VirtualTime = {
        "time_s": float(np.mean(list(last.values()))),
        "arrived": arrived / len(last),
        "dropped": dropped / len(last),
        "cancelled": cancelled / len(last),
        "staleness": stale / arrived if arrived else None,
    }
    for name in FAULTS:
        if count := sum(record.get(name, 0) for record in records):
            told[name] = count / len(last)
    return told


def hierarchy_of(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> HierarchyCost | None:
    """Return the bytes of each level of a tree of servers and the latency of a round; None without a tree."""
    where = experiment.coordination.hierarchy
    if where is None or not records:
        return None
    tree = where.tree
    # All seeds have the same tree and periods, so the traffic of one is enough.
    one_seed = [record for record in records if record["seed"] == records[0]["seed"]]
    traffic = np.sum([record["levels"] for record in one_seed], axis=0)
    latencies = [record["latency_s"] for record in one_seed]
    parents = tree.parents(experiment.config.federation.agents)
    return {
        "levels": [
            {"nodes": len(nodes), "period": period, "bytes_up": int(up), "bytes_down": int(down)}
            for nodes, period, (up, down) in zip(parents, tree.periods, traffic, strict=True)
        ],
        "latency_s": float(np.mean(latencies)),
        "longest_latency_s": float(np.max(latencies)),
    }


def _root_mean_square(distances: np.ndarray) -> float | None:
    value = float(np.sqrt(np.square(distances).mean()))
    return value if np.isfinite(value) else None
