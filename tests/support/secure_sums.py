"""Secure sums for tests: which ones have to complete, and machines stopped in the middle of one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import TooFewAgentsError
from fedrl.secure import SumAgent, SumCoordinator, SumPlan, secure_sum
from fedrl.secure.coordinator import PHASES
from fedrl.secure.identity import Identity, new_identities


def phases_of(plan: SumPlan) -> tuple[str, ...]:
    return PHASES if plan.verified else tuple(phase for phase in PHASES if phase != "tags")


def has_to_complete(plan: SumPlan, leaves: Mapping[int, str]) -> bool:
    """Whether enough agents are left in every phase: of all, and of the holders of each secret that is needed.

    It is computed from the graph alone. An agent with too few holders left goes too, as it can't be helped later.
    """
    phases = phases_of(plan)
    near = {agent: {agent, *others} for agent, others in plan.neighbours.items()}
    there: list[set[int]] = [set(plan.members)]
    for phase in phases:
        gone = {agent for agent, when in leaves.items() if phases.index(when) <= phases.index(phase)}
        enough = {agent for agent in there[-1] if len(near[agent] & there[-1]) >= plan.threshold}
        there.append(enough - gone)
        if phase != "opening" and len(there[-1]) < (
            plan.threshold if phase == "tags" else max(plan.threshold, plan.minimum)
        ):
            return False
    sent, included, opening = there[2], there[3], there[-1]
    needed = included | {agent for agent in sent - included if (near[agent] - {agent}) & included}
    return all(len(near[agent] & opening) >= plan.threshold for agent in needed)


class Tally(NamedTuple):
    """How many sums were completed, and how many were given up."""

    completed: int
    aborted: int


def outcome(
    values: np.ndarray, plan: SumPlan, leaves: Mapping[int, str], identities: Mapping[int, Identity]
) -> np.ndarray | None:
    """The sum, compared with that of the vectors which were sent; None if it was given up."""
    try:
        opened = secure_sum(values, plan, leaves, identities)
    except TooFewAgentsError:
        return None
    rows = [plan.members.index(agent) for agent in opened.included]
    sent = {agent for agent in plan.members if leaves.get(agent) not in ("adverts", "shares", "masked")}
    if plan.degree == len(plan.members) - 1:  # in a sparse graph, an agent with too few neighbours sends none either
        assert set(opened.included) == sent
    assert set(opened.included) <= sent
    np.testing.assert_array_equal(opened.total, values[rows].sum(axis=0, dtype=np.uint32))
    return opened.total


class Halted(NamedTuple):
    """A sum in the middle: agents, coordinator, and what each agent is to be shown next."""

    agents: dict[int, SumAgent]
    coordinator: SumCoordinator
    inbox: dict[int, Any]
    values: np.ndarray

    def step(self, agent: int, shown: Any = None) -> Any:
        """The agent's next message, for what the coordinator shows it or for something else."""
        shown, machine = shown or self.inbox[agent], self.agents[agent]
        steps: dict[str, Callable[[], Any]] = {
            "adverts": machine.advert,
            "shares": lambda: machine.share(shown),
            "masked": lambda: machine.mask(shown, self.values[list(self.agents).index(agent)]),
            "tags": lambda: machine.agree(shown),
            "opening": lambda: machine.open(shown),
        }
        return steps[self.coordinator.phase]()

    def finish(self) -> "Halted":
        """Take the step of this phase with all agents, and close the phase."""
        for agent in self.inbox:
            self.coordinator.receive(agent, self.step(agent))
        return self._replace(inbox=self.coordinator.close())


def halted(phase: str, plan: SumPlan, identities: Mapping[int, Identity] | None = None) -> Halted:
    """A sum whose phase has just begun; all agents are there."""
    identities = identities or new_identities(plan.members)
    rng = np.random.default_rng(7)
    values = rng.integers(0, 2**32, (len(plan.members), plan.size), dtype=np.uint32)
    agents = {agent: SumAgent(identities[agent], plan) for agent in plan.members}
    coordinator = SumCoordinator(plan)
    there = Halted(agents, coordinator, dict.fromkeys(plan.members), values)
    while there.coordinator.phase != phase:
        there = there.finish()
    return there
