"""Every option of a simulation with every other: what is refused and why, and what each option is seen by.

    make combinations      trains all that stands, and writes docs/combinations.md; without a page to write, this file
                           trains few in which every triple of choices occurs, and prints what it found

An option that an engine ignores leaves no trace. So each option has a function that looks for its trace in what was
recorded, and returns what is missing.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.errors import REASONS, ConfigError, UnsoundError
from fedrl.engines.executors.placement import Placement
from fedrl.engines.simulate import simulate
from fedrl.engines.state import RoundResult, Simulation
from fedrl.engines.topologies.choices import gossip, hierarchy, isolated, server
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.learners import a2c, mlp, sgd
from fedrl.server import greedy, linear, uniform
from fedrl.server.decisions import requested_reports
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, top_k
from fedrl.topologies import metropolis, ring, tree
from tests.support.quadratic import Valley, quadratic

AGENTS, SIZE, COHORT, BUFFER, BUDGET, STEPS, DEADLINE = 6, 12, 3, 2, 130, 3, 3.5

OPTIONS: dict[str, tuple[str, ...]] = {
    "environment": ("compiled", "gymnasium"),
    "topology": ("server", "tree", "gossip", "isolated"),
    "schedule": ("synchronous", "deadline", "fed_buff", "fed_async", "bounded"),
    "clock": ("none", "even", "drop-outs"),
    "selection": ("all", "uniform"),
    "local steps": ("constant", "linear"),
    "budget": ("none", "greedy"),
    "compression": ("none", "top_k"),
    "rule": ("mean", "median"),
    "payload": ("delta", "gradient"),
}
SCHEDULES = {
    "synchronous": synchronous(),
    "deadline": synchronous(deadline_s=DEADLINE, quorum=1),
    "fed_buff": fed_buff(BUFFER),
    "fed_async": fed_async(0.5),
    "bounded": bounded_staleness(1),
}
TOPOLOGIES = {
    "server": server(),
    "tree": hierarchy(tree([2], [1, 2])),
    "gossip": gossip(ring(), metropolis()),
    "isolated": isolated(),
}
SPEEDS = [1.0, 1.25, 1.5, 1.75, 2.0, 6.0]
"""Seconds of each agent's local step: the last one meets no deadline."""
DEVICES = {
    "none": None,
    "even": clock(step_s=SPEEDS),
    "drop-outs": clock(step_s=SPEEDS, drop_out=0.3, hang=0.1, hang_s=1.0, restart=0.1),
}
Combination = dict[str, str]


class Seen(NamedTuple):
    """What was recorded of a simulation: its rounds, and what agents held before and after each."""

    rounds: list[RoundResult]
    held: list[np.ndarray]
    adopted: list[np.ndarray]
    server: list[np.ndarray]


def every() -> list[Combination]:
    """All combinations."""
    return [dict(zip(OPTIONS, chosen, strict=True)) for chosen in itertools.product(*OPTIONS.values())]


@functools.cache
def learner_and_fleet(environment: str) -> tuple[Any, Any]:
    """Six agents, in closed form or in Gymnasium."""
    if environment == "compiled":
        draws = np.random.default_rng(0)
        shape = (AGENTS, SIZE)
        curvature, minimum = draws.uniform(0.2, 2.0, shape), draws.normal(size=shape)
        return quadratic(sgd(0.1), size=SIZE), Valley(curvature.astype(np.float32), minimum.astype(np.float32))
    walk = gymnasium("tests.support.walks:Walk-v0")
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (AGENTS, *jnp.shape(leaf))), walk.params)
    return a2c(walk, num_envs=1, num_steps=4, network=mlp([2])), fleet


@functools.cache
def federation_of(
    environment: str, compression: str, rule: str, payload: str, steps: int, told: tuple[str, ...]
) -> Federation:
    """The same object for the same options, so that programs are shared."""
    stages = {"none": [], "top_k": [error_feedback(top_k(0.2))], "difference": [top_k(0.2)]}[compression]
    rules = {"mean": mean(), "median": median()}
    learner = learner_and_fleet(environment)[0]
    return federate(learner, rules[rule], *stages, local_steps=steps, payload=payload, reports=told)


def made(chosen: Combination, executor: Placement | None = None) -> Simulation:
    """The simulation of a combination, or an error with its reason; with workers if such an executor is given."""
    asked_for = 1 if chosen["topology"] == "tree" else COHORT  # by each server
    parts = {
        "selection": uniform(asked_for) if chosen["selection"] == "uniform" else None,
        "local_steps": linear(STEPS, 1, 2) if chosen["local steps"] == "linear" else None,
        "upload_budget": greedy(BUDGET) if chosen["budget"] == "greedy" else None,
    }
    steps = STEPS if chosen["local steps"] == "linear" else 1
    compression = chosen["compression"]
    if compression == "top_k" and chosen["topology"] == "gossip":
        compression = "difference"  # which takes the place of error feedback
    federation = federation_of(
        chosen["environment"],
        compression,
        chosen["rule"],
        chosen["payload"],
        steps,
        requested_reports(parts["upload_budget"]),
    )
    options = {"workers": 0} if chosen["environment"] == "gymnasium" else {}
    return simulate(
        federation,
        learner_and_fleet(chosen["environment"])[1],
        topology=TOPOLOGIES[chosen["topology"]],
        scheduler=Scheduler(SCHEDULES[chosen["schedule"]], **parts),
        clock=DEVICES[chosen["clock"]],
        merges=1,
        executor=executor,
        **options,
    )


def rejection(chosen: Combination) -> str:
    """Why a combination is refused, a key of `REASONS`; empty if it stands."""
    try:
        made(chosen).close()
    except (ConfigError, UnsoundError) as fault:
        return getattr(fault, "reason", "") or f"{type(fault).__name__}: {fault}"
    return ""


def flat(params: Any, agents: bool = True) -> np.ndarray:
    """All parameters as rows of agents, or as one row."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    return np.concatenate([x.reshape(len(x) if agents else 1, -1) for x in leaves], axis=1)


def trained(chosen: Combination, rounds: int = 2, executor: Placement | None = None) -> Seen:
    """Some rounds of a combination."""
    seen, held, adopted, servers = [], [], [], []
    with made(chosen, executor) as simulation:
        run_state = simulation.init(1)
        for _ in range(rounds):
            adopted.append(flat(simulation.held(simulation.adopt(run_state))))
            servers.append(flat(run_state.server.params, chosen["topology"] == "gossip"))
            run_state, record = simulation.round(run_state)
            seen.append(record)
            held.append(flat(simulation.held(run_state)))
        servers.append(flat(run_state.server.params, chosen["topology"] == "gossip"))
    return Seen(seen, held, adopted, servers)


def missing(chosen: Combination, seen: Seen) -> list[str]:
    """Of which options there is no trace in what was recorded."""
    return [f"{name}: {chosen[name]}" for name, found in TRACES.items() if not found(chosen, seen)]


def _environment(chosen: Combination, seen: Seen) -> bool:
    return all(
        ("episodes" in r.metrics) == (chosen["environment"] == "gymnasium") for r in seen.rounds if r.steps.any()
    )


def _topology(chosen: Combination, seen: Seen) -> bool:
    where, rounds = chosen["topology"], seen.rounds
    merged = [r for r in rounds if r.weight > 0.0]
    apart = len(np.unique(seen.held[-1], axis=0)) > 1
    if where == "isolated":
        return apart and not any(r.messages_up or r.messages_down or r.weight for r in rounds)
    if where == "gossip":
        return all("consensus_distance" in r.metrics and not r.messages_down for r in merged)
    return all(bool(r.levels) == (where == "tree") for r in rounds)


def _schedule(chosen: Combination, seen: Seen) -> bool:
    schedule, rounds = chosen["schedule"], seen.rounds
    came = [int(r.turns.sum()) if r.turns is not None else int((r.steps > 0).sum()) for r in rounds]
    if schedule == "fed_buff":
        return all(count == BUFFER for count in came)
    if schedule in ("fed_async", "bounded"):
        scaled = [np.abs(after - before).max() for before, after in itertools.pairwise(seen.server)]
        return all(count == 1 for count in came) and (chosen["topology"] == "tree" or max(scaled) > 0.0)
    if schedule == "deadline":
        ends = [0.0, *(r.clock_stats.time_s for r in rounds)]
        return all(b - a <= DEADLINE or n <= 1 for (a, b), n in zip(itertools.pairwise(ends), came, strict=True))
    return all(r.clock_stats is None or r.clock_stats.cancelled == 0 for r in rounds)


def _clock(chosen: Combination, seen: Seen) -> bool:
    if chosen["clock"] == "none":
        return all(r.clock_stats is None for r in seen.rounds)
    lost = sum(r.clock_stats.dropped for r in seen.rounds if r.clock_stats is not None)
    timed = all(r.clock_stats is not None and r.clock_stats.time_s > 0.0 for r in seen.rounds)
    few = chosen["schedule"] != "synchronous"  # a loss may be noticed only after so few merges
    return timed and (lost > 0 or few if chosen["clock"] == "drop-outs" else lost == 0)


def _selection(chosen: Combination, seen: Seen) -> bool:
    working = [int((r.steps > 0).sum()) for r in seen.rounds]
    if chosen["selection"] == "uniform":
        asked_for = [r.messages_down for r in seen.rounds]
        return max(working) <= COHORT and (chosen["topology"] == "tree" or max(asked_for) <= 3 * COHORT)
    everybody = chosen["schedule"] == "synchronous" and chosen["clock"] != "drop-outs"
    return not everybody or min(working) == AGENTS


def _local_steps(chosen: Combination, seen: Seen) -> bool:
    first = seen.rounds[0]
    planned = STEPS if chosen["local steps"] == "linear" else 1
    turns = np.ones(AGENTS) if first.turns is None else first.turns
    return all(first.steps[k] == planned * turns[k] for k in np.flatnonzero(first.steps))


def _budget(chosen: Combination, seen: Seen) -> bool:
    if chosen["budget"] == "none":
        return all(r.selected is None for r in seen.rounds)
    within = [r for r in seen.rounds if chosen["topology"] == "server"]
    return all(r.selected is not None for r in seen.rounds) and all(r.bytes_up <= BUDGET for r in within)


def _compression(chosen: Combination, seen: Seen) -> bool:
    if chosen["topology"] == "isolated":
        return True  # refused there
    sent = [(r.uploads.size_bytes, r.uploads.messages) for r in seen.rounds]
    if chosen["topology"] == "gossip":  # where a copy may be sent whole
        least = [size[count > 0].sum() / count.sum() for size, count in sent if count.any()]
        dense = 4 * seen.server[0][0].size
        return not least or (min(least) < dense) == (chosen["compression"] == "top_k")
    sizes = np.concatenate([size[count == 1] for size, count in sent])
    dense = 4 * seen.server[0].size
    return bool(len(sizes) == 0 or (sizes.max() < dense) == (chosen["compression"] == "top_k"))


def _rule(chosen: Combination, seen: Seen) -> bool:
    del chosen, seen
    return True  # what it makes of updates is compared between the two rules in the test


def _payload(chosen: Combination, seen: Seen) -> bool:
    """Who sends gradients takes no step of its own."""
    if chosen["clock"] != "none" or chosen["topology"] == "isolated":
        return True  # what an agent heard is known of rounds in which all hear the same
    told = zip(seen.rounds, seen.adopted, seen.held, strict=True)
    moved = [np.abs(after - before).max(1)[r.steps > 0] for r, before, after in told]
    return all((x > 0.0).all() == (chosen["payload"] == "delta") for x in moved if len(x))


TRACES = {
    "environment": _environment,
    "topology": _topology,
    "schedule": _schedule,
    "clock": _clock,
    "selection": _selection,
    "local steps": _local_steps,
    "budget": _budget,
    "compression": _compression,
    "rule": _rule,
    "payload": _payload,
}


def covering(standing: list[Combination], strength: int = 3) -> list[Combination]:
    """Few of these combinations, in which every triple of choices that occurs in any of them occurs."""
    names = list(OPTIONS)
    places = list(itertools.combinations(range(len(names)), strength))
    codes = np.array([[OPTIONS[name].index(chosen[name]) for name in names] for chosen in standing])
    widths = [max(map(len, OPTIONS.values()))] * strength
    ids = np.stack([np.ravel_multi_index(codes[:, place].T, widths) for place in places], axis=1)
    ids = ids + np.arange(len(places)) * int(np.prod(widths))
    open_ = np.zeros(int(ids.max()) + 1, bool)
    open_[ids] = True
    found = []
    while open_.any():
        best = int(np.argmax(open_[ids].sum(1)))
        found.append(standing[best])
        open_[ids[best]] = False
    return found


def ordered(combinations: list[Combination]) -> list[Combination]:
    """So that those with one compiled program follow each other."""
    names = ("environment", "compression", "rule", "payload", "local steps", "budget", "schedule")
    return sorted(combinations, key=lambda chosen: [chosen[name] for name in names])


def page(reasons: Counter[str], standing: int) -> str:
    """What the documentation says of combinations."""
    lines = [
        "# What combines with what",
        "",
        "Written by `make combinations`, which builds every combination of the options below: of "
        f"{standing + reasons.total():,} combinations",
        f"{standing:,} are allowed, and the others are refused when they are built, each for a mathematical reason;",
        "none is missing because it is not implemented. The command then trains all allowed combinations for two",
        "rounds, and checks that each option has left its trace in the records; the tests do the same for a small",
        "subset that contains every triple of choices.",
        "",
        "| option | choices |",
        "|---|---|",
        *(f"| {name} | {', '.join(choices)} |" for name, choices in OPTIONS.items()),
        "",
        "| reason | why | combinations |",
        "|---|---|---|",
        *(f"| {reason} | {REASONS[reason]} | {count:,} |" for reason, count in reasons.most_common()),
        "",
        "A combination with several reasons is counted under the first that is found.",
        "",
    ]
    return "\n".join(lines)


def checked(chosen: Combination) -> str:
    """What is wrong with a combination that stands; empty if it trains and no option is ignored."""
    gone = missing(chosen, trained(chosen))
    return f"no trace of {gone} in {chosen}" if gone else ""


def main(out: Path | None) -> None:
    """Build everything; train all that stands and write the page, or a covering array and print what was found."""
    import fedrl

    fedrl.configure_jax()
    found = [(chosen, rejection(chosen)) for chosen in ordered(every())]
    standing = [chosen for chosen, reason in found if not reason]
    reasons = Counter(reason for _, reason in found if reason)
    rows = ordered(covering(standing)) if out is None else standing
    faults = []
    if out is not None:
        out.write_text(page(reasons, len(standing)))
    for i, chosen in enumerate(rows):
        faults += filter(None, [checked(chosen)])
        if out is not None and i % 100 == 0:
            print(f"{i:,} of {len(rows):,} combinations, {len(faults)} faults", flush=True)
    if out is None:
        stands = {name: sorted({chosen[name] for chosen in standing}) for name in OPTIONS}
        print(json.dumps({"reasons": reasons, "standing": len(standing), "stands": stands, "faults": faults}))
        return
    raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
