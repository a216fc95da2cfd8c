"""What a seed means: an experiment, and a schedule of faults counted in versions and frames.

seed --> Plan(tables, patience, gather, faults)     fault: after so many versions and then so many frames, what to whom
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

AGENTS = 4
ROUNDS_PER_FAULT = 1.5
REAL_EVERY = 10
"""One seed of so many has real processes, the last of them."""
CALM = 6
"""Versions after the last fault."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "all": {"name": "synchronous"},
    "deadline": {"name": "synchronous", "deadline_s": 0.4},
    "quorum": {"name": "synchronous", "deadline_s": 0.1, "quorum": 2},
    "late": {"name": "synchronous", "buffer_size": 3, "stragglers": "keep"},
    "FedAsync": {"name": "fed_async"},
    "FedBuff": {"name": "fed_buff", "buffer_size": 2},
    "bounded": {"name": "bounded_staleness", "bound": 2},
}
FEW = {"name": "error_feedback", "stages": [{"name": "top_k", "fraction": 0.3}]}
RULES: dict[str, dict[str, Any]] = {
    "mean": {"aggregator": "mean"},
    "FedAdam": {"aggregator": "mean", "server_optimizer": {"name": "fedadam", "learning_rate": 0.05}},
    "SCAFFOLD": {"aggregator": "mean", "stages": [{"name": "scaffold", "learning_rate": 0.1}]},
    "median": {"aggregator": "median"},
    "median of few": {"aggregator": "median", "stages": [FEW]},
    "8 bits": {"aggregator": "mean", "stages": [{"name": "quantize", "bits": 8}]},
}
TOGETHER = ("all", "deadline", "quorum")
"""Schedules in which every job has a version of its own, as the log of a rule that draws numbers needs."""
ALONE = {
    "8 bits": TOGETHER,
    "median": (*TOGETHER, "late", "FedBuff"),
    "median of few": (*TOGETHER, "late"),
    "SCAFFOLD": (*TOGETHER, "late"),
}
"""Rules that do not go with every schedule."""

COORDINATOR = {"kill at disk": 5, "kill": 4, "stop": 3, "disk full": 3, "clock": 4}
SITE = {"kill at disk": 4, "kill": 4, "disk full": 3, "clock": 2}
LINK = {"cut": 8, "duplicate": 8, "reorder": 6, "corrupt": 6, "repeat": 6, "stall": 4}
"""Kinds of faults with their weights, by where they happen."""


class Fault(NamedTuple):
    """A fault.

    Attributes:
        version: It comes when this version is on the disk of the coordinator, or a later one.
        frames: And when the coordinator has received so many frames since then.
        kind: What happens.
        target: Number of a site, or -1 for the coordinator.
        direction: Of a link's fault, "up" or "down"; else "".
        amount: Operations of the disk, or seconds.
    """

    version: int
    frames: int
    kind: str
    target: int
    direction: str
    amount: float


class Plan(NamedTuple):
    """Everything that a seed decides.

    Attributes:
        seed: The seed.
        name: Schedule and rule.
        tables: The experiment.
        patience_s: Seconds for which an agent without a connection keeps its job.
        gather: Number of agents that have to be there when a coordinator begins.
        faults: The faults, in order.
    """

    seed: int
    name: str
    tables: dict[str, Any]
    patience_s: float
    gather: int
    faults: tuple[Fault, ...]


def plan_of(seed: int, faults: int) -> Plan:
    """Return the plan of a seed.

    >>> plan_of(3, 10) == plan_of(3, 10), plan_of(3, 10) == plan_of(4, 10), len(plan_of(3, 10).faults)
    (True, False, 10)
    """
    draw = random.Random(f"chaos {seed}")
    pairs = [(rule, schedule) for rule in RULES for schedule in ALONE.get(rule, tuple(SCHEDULES))]
    # The pairs follow each other, so that as many seeds as there are pairs have each of them.
    place = seed - seed // REAL_EVERY
    rule, schedule = random.Random("pairs").sample(pairs, len(pairs))[place % len(pairs)]
    rounds = int(faults * ROUNDS_PER_FAULT) + CALM
    federation = {"agents": AGENTS, "clock": {}, "local_steps": 2, "schedule": SCHEDULES[schedule], **RULES[rule]}
    tables = {
        "name": f"chaos-{seed}",
        "environment": {"name": "tests.chaos.learner:bowl"},
        "learner": {"name": "tests.chaos.learner:descent", "corrected": rule == "SCAFFOLD"},
        "federation": federation,
        "fleet": {
            "curvature": [round(draw.uniform(0.2, 2.0), 3) for _ in range(AGENTS)],
            "minimum": [round(draw.uniform(-1.0, 1.0), 3) for _ in range(AGENTS)],
        },
        "rounds": rounds,
        "seeds": [seed],
        "baselines": {},
        "evaluation": {"episodes": 1},
    }
    patience_s, gather = draw.choice((0.3, 1.0, 5.0)), draw.choice((1, AGENTS - 1, AGENTS))
    versions = sorted(draw.randrange(0, rounds - CALM) for _ in range(faults))
    return Plan(
        seed, f"{rule}, {schedule}", tables, patience_s, gather, tuple(_fault(draw, version) for version in versions)
    )


def _fault(draw: random.Random, version: int) -> Fault:
    kinds = [(-1, kind, weight) for kind, weight in COORDINATOR.items()]
    kinds += [(0, kind, weight) for kind, weight in (SITE | LINK).items() if kind not in SITE or kind not in LINK]
    where, kind, _ = draw.choices(kinds, [weight for *_, weight in kinds])[0]
    target = where if where < 0 else draw.randrange(AGENTS)
    direction, amount = "", 0.0
    if kind in LINK:
        direction, amount = draw.choice(("up", "down")), draw.uniform(0.02, 0.5)
    elif kind in ("kill at disk", "disk full"):
        amount = draw.randrange(0, 40) if kind == "kill at disk" else draw.randrange(1, 6)
    elif kind == "stop":
        amount = draw.uniform(0.05, 0.6)
    elif kind == "clock":
        amount = draw.choice((1.0, 60.0, 86400.0)) if where < 0 else draw.choice((-86400.0, -1.0, 1.0, 86400.0))
    return Fault(version, draw.randrange(0, 3 * AGENTS), kind, target, direction, amount)
