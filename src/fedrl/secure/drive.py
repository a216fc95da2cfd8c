"""A whole secure sum in one process: all agents, the coordinator, and who leaves when. For simulations and tests.

The machines are those of a network. Bytes are those of the encoded messages; seconds are of the processor.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import TooFewAgentsError
from fedrl.secure.agent import SumAgent
from fedrl.secure.coordinator import PHASES, SumCoordinator
from fedrl.secure.identity import Identity, new_identities
from fedrl.secure.messages import SumMessage, encoded_size
from fedrl.secure.plan import SumPlan

BLOCK = 32
"""Agents whose messages are there at once: few for memory, many as reading the processor's clock takes time."""


class PhaseCost(NamedTuple):
    """What one phase costs, of all agents together.

    Attributes:
        up_bytes: Bytes from agents, to the coordinator, to aggregators or to each other.
        down_bytes: Bytes to agents.
        agents_s: Seconds of the processor, of all agents together.
        coordinator_s: Those of the coordinator, or of whoever else adds.
    """

    up_bytes: int = 0
    down_bytes: int = 0
    agents_s: float = 0.0
    coordinator_s: float = 0.0


class OpenedSum(NamedTuple):
    """A sum that was opened.

    Attributes:
        total: uint32 `[size]`, modulo 2^32.
        included: The agents whose vectors are in it.
        costs: What each phase cost, by its name.
    """

    total: np.ndarray
    included: tuple[int, ...]
    costs: dict[str, PhaseCost]


@dataclass
class CostMeter:
    """Adds up what phases cost.

    Attributes:
        costs: The cost of each phase that began, by its name.
        sent: Bytes that each agent has sent.
        messages: Number of messages that each agent has sent.
        heard: Number of messages to agents.
    """

    costs: dict[str, PhaseCost] = field(default_factory=dict)
    sent: Counter[int] = field(default_factory=Counter)
    messages: Counter[int] = field(default_factory=Counter)
    heard: int = 0

    def came(self, phase: str, agent: int, size: int) -> None:
        """Count a message of an agent."""
        self.add(phase, up_bytes=size)
        self.sent[agent] += size
        self.messages[agent] += 1

    def add(self, phase: str, **amounts: float) -> None:
        """Add to the cost of a phase."""
        cost = self.costs.get(phase, PhaseCost())
        self.costs[phase] = cost._replace(**{name: getattr(cost, name) + each for name, each in amounts.items()})

    @contextlib.contextmanager
    def timed(self, phase: str, whose: str) -> Iterator[None]:
        """Add the processor time of the block, as `agents_s` or `coordinator_s`."""
        begun = time.process_time()
        yield
        self.add(phase, **{whose: time.process_time() - begun})


def check_rows(values: np.ndarray, members: tuple[int, ...]) -> None:
    """Refuse a matrix that has not one row for each member.

    Raises:
        ValueError: It has another number of rows.
    """
    if values.ndim != 2 or len(values) != len(members):
        raise ValueError(f"Values are {list(values.shape)}, and the sum is one of {len(members)} agents, a row each.")


def secure_sum(
    values: np.ndarray,
    plan: SumPlan,
    leaves: Mapping[int, str] | None = None,
    identities: Mapping[int, Identity] | None = None,
    threads: int = 1,
    meter: CostMeter | None = None,
) -> OpenedSum:
    """Add the rows of a matrix by the protocol of `SumAgent` and `SumCoordinator`.

    Args:
        values: int32 or uint32 `[agents, size]`, a row for each member of the plan.
        plan: The plan of the sum.
        leaves: The phase, one of `fedrl.secure.coordinator.PHASES`, before whose message an agent leaves for good.
        identities: Keys of the agents; new ones if None.
        threads: Threads that compute masks.
        meter: Where costs are added up, also those of a sum that is given up.

    Raises:
        TooFewAgentsError: Too few agents were left to complete the sum.
        SecureSumError: An agent deviated from the protocol, and the sum can't be opened.

    >>> plan = SumPlan(b"example", members=(0, 1, 2), size=2, degree=2, threshold=2, minimum=2)
    >>> opened = secure_sum(np.array([[1, 2], [30, 40], [500, 600]], np.int32), plan, leaves={2: "masked"})
    >>> opened.total.tolist(), opened.included
    ([31, 42], (0, 1))
    """
    check_rows(values, plan.members)
    identities = new_identities(plan.members) if identities is None else identities
    rows = dict(zip(plan.members, values, strict=True))
    agents = {agent: SumAgent(identities[agent], plan, threads) for agent in plan.members}
    coordinator = SumCoordinator(plan)
    meter = CostMeter() if meter is None else meter
    phases = [phase for phase in PHASES if phase != "tags" or plan.verified]
    left = {agent: phases.index(phase) for agent, phase in (leaves or {}).items() if phase in phases}
    steps: dict[str, Callable[[SumAgent, Any], SumMessage]] = {
        "adverts": lambda agent, _: agent.advert(),
        "shares": SumAgent.share,
        "masked": lambda agent, delivery: agent.mask(delivery, rows[agent.agent]),
        "tags": SumAgent.agree,
        "opening": SumAgent.open,
    }
    inbox: dict[int, Any] = dict.fromkeys(plan.members)
    for number, phase in enumerate(phases):
        shown = [message for message in inbox.values() if message is not None]
        meter.add(phase, down_bytes=sum(encoded_size(message, plan) for message in shown))
        meter.heard += len(shown)
        here = [agents[agent] for agent in inbox if left.get(agent, len(phases)) > number]
        for start in range(0, len(here), BLOCK):
            _block(here[start : start + BLOCK], steps[phase], inbox, coordinator, meter)
        with meter.timed(phase, "coordinator_s"):
            if phase != "opening":
                inbox = dict(coordinator.close())
    with meter.timed("opening", "coordinator_s"):
        total = coordinator.total(threads)
    return OpenedSum(total, coordinator.included, meter.costs)


def _block(
    agents: list[SumAgent],
    step: Callable[[SumAgent, Any], SumMessage],
    inbox: Mapping[int, Any],
    coordinator: SumCoordinator,
    meter: CostMeter,
) -> None:
    """Let agents take a step, and give their messages to the coordinator; one with too few neighbours leaves."""
    phase, plan, messages = coordinator.phase, coordinator.plan, {}
    with meter.timed(phase, "agents_s"):
        for agent in agents:
            with contextlib.suppress(TooFewAgentsError):
                messages[agent.agent] = step(agent, inbox[agent.agent])
    for sender, message in messages.items():
        meter.came(phase, sender, encoded_size(message, plan))
    with meter.timed(phase, "coordinator_s"):
        for sender, message in messages.items():
            coordinator.receive(sender, message)
