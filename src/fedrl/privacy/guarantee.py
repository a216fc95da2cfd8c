"""What a run promises about privacy: its budget, its price, and the sentences in which it says so.

budget, noise, selection --Guarantee--> ledger() of a seed      claim(), assumptions(), not_certified() for people
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fedrl.core.types import PyTree
from fedrl.federation.trust_models import NOBODY, TrustModel
from fedrl.privacy.composition import epsilon_of, most_releases
from fedrl.privacy.ledger import Budget, Ledger
from fedrl.privacy.pricing import Price

REPRODUCIBLE = "the noise follows from the seed of the run, so whoever knows the seed can subtract it"


class Guarantee(NamedTuple):
    """The privacy of a run.

    Attributes:
        budget: The budget of each agent, in one seed.
        price: The price of a round.
        mechanism: The stage that adds the noise, as it is written.
        stage: Its index among the stages of the federation.
        noise_multiplier: z, the standard deviation of the noise in units of the clip; None if it is not known.
        clip: The largest contribution; one per agent if they differ.
        at: "server" or "agent", whoever adds the noise.
        trust: The trust model.
        now: `server state of the stage -> event` of the next round, priced as those of `price`, for noise that the
            server adapts; else None.
        reproducible: Whether the noise follows from the seed.
        least: The fewest agents in a sum whose noise counts together; None where each agent, or the server, adds the
            whole noise.
    """

    budget: Budget
    price: Price
    mechanism: str
    stage: int
    noise_multiplier: float | None
    clip: float | tuple[float, ...]
    at: str
    trust: TrustModel
    now: Callable[[PyTree], Any] | None = None
    reproducible: bool = False
    least: int | None = None

    @property
    def agents(self) -> int:
        """Number of agents."""
        return len(self.price.events)

    def ledger(self) -> Ledger:
        """Return an empty account, of one seed."""
        return Ledger(self.budget, self.price, adaptive=self.now is not None)

    def next_events(self, stage_states: Sequence[PyTree]) -> tuple[Any, ...] | None:
        """Return the event of the next round for each agent; None if it is that of `price`.

        Args:
            stage_states: The server's state of each stage.
        """
        event = None if self.now is None else self.now(stage_states[self.stage])
        return None if event is None else (event,) * self.agents

    def epsilon(self, agent: int, rounds: int) -> float:
        """Return the epsilon of an agent that takes part in so many rounds, as far as its budget allows."""
        price, allowed = self.price, self.budget.of(agent)
        found = price.epsilon(agent, rounds, self.budget.delta, self.now is not None)
        if found <= allowed:
            return found
        most = most_releases(price.events[agent], allowed, self.budget.delta, price.relation, self.now is not None)
        return price.epsilon(agent, most * price.covers, self.budget.delta, self.now is not None) if most else 0.0

    def most_rounds(self) -> int:
        """Return in how many rounds the agent with most of them may take part; without limit if they do not add up."""
        price, delta = self.price, self.budget.delta
        each = {(event, self.budget.of(agent)) for agent, event in enumerate(price.events)}
        found = max(most_releases(event, allowed, delta, price.relation) for event, allowed in each)
        return 1 << 40 if price.parallel and found else found * price.covers

    def affords(self, rounds: int) -> bool:
        """Return whether an agent may take part in so many rounds; noise that is adapted is checked round by round."""
        price, delta = self.price, self.budget.delta
        count = min(rounds, 1) if self.now is not None else price.times(rounds)
        return any(
            epsilon_of({event: count}, delta, price.relation) <= allowed
            for event, allowed in {(event, self.budget.of(agent)) for agent, event in enumerate(price.events)}
        )

    def of_all(self, releases: Sequence[Mapping[Any, int]]) -> float:
        """Return the largest epsilon of an agent for the results of several seeds together.

        Args:
            releases: What was charged to each agent, in all seeds.
        """
        different = {tuple(each.items()): each for each in releases}.values()
        adaptive = self.now is not None
        delta, relation = self.budget.delta, self.price.relation
        return max((epsilon_of(each, delta, relation, adaptive) for each in different), default=0.0)

    def claim(self, epsilon: float) -> str:
        """Return the guarantee as a sentence."""
        delta = "" if self.budget.delta == 0.0 else f", delta = {self.budget.delta:g}"
        who = "neighbours receive" if self.trust == NOBODY else "the coordinator receives"
        sees = f"what {who}" if self.at == "agent" else "what the coordinator releases"
        but = "" if self.budget.delta == 0.0 else f", except with probability {self.budget.delta:g}"
        return (
            f"Differential privacy with epsilon = {epsilon:.4g}{delta}, of {self.price.protects()}: {sees} changes the "
            f"odds of either case by a factor of at most {_factor(epsilon)}{but}."
        )

    def assumptions(self) -> list[str]:
        """Return what the guarantee assumes, a sentence each."""
        found = []
        if self.at == "server":
            found.append(
                "The coordinator is trusted: it sees the update of every agent without noise, and adds the noise "
                "honestly."
            )
        elif self.least is not None:
            found.append("The coordinator keeps to the protocol of the secure sum, and reads nothing but sums.")
            found.append(
                f"In every sum, {self.least} agents or more, not counting any that attack, clip their updates, add "
                "their share of the noise, and tell nobody what they added."
            )
        else:
            found.append("Nobody but the agent itself is trusted: it clips its update and adds the noise.")
        price = self.price
        if price.unit == "trajectory":
            count = price.episodes_per_person
            episodes = "one episode" if count == 1 else f"at most {count} episodes"
            found.append(f"One person, {episodes}: a person contributes {episodes} to the whole run, to one agent.")
            found.append("Every episode is learned from in one round only.")
        else:
            found.append("Each person's data are with one agent, all of whose data are protected together.")
        if price.participants:
            found.append("Which agents take part in a round is known; an agent pays for the rounds in which it does.")
        elif any("Sampled" in type(event).__name__ for event in price.events):
            found.append("Which agents take part in a round stays a secret of the coordinator.")
        return found

    def not_certified(self) -> str:
        """Return why the guarantee does not hold for this run; "" if it does."""
        return REPRODUCIBLE if self.reproducible else ""


def _factor(epsilon: float) -> str:
    """Return e^epsilon for people."""
    return f"{math.exp(epsilon):,.3g}" if epsilon < math.log(100) else f"{math.exp(min(epsilon, 700.0)):,.0f}"
