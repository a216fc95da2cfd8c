"""What records and the summary of a run say about its privacy budget."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class PrivacyOfRound(TypedDict):
    """What a seed has spent of its privacy budget, after a round.

    Attributes:
        epsilon: The largest epsilon that an agent has spent, an upper bound that is the tightest at the end.
        remaining: What is left of the federation's epsilon.
        charges: Number of charges in `privacy.jsonl`; more than rounds, if some were run again.
        without_budget: Number of agents that have no budget for another round; absent if all have.
    """

    epsilon: float
    remaining: float
    charges: int
    without_budget: NotRequired[int]


class AgentEpsilon(TypedDict):
    """What an agent has spent of its privacy budget, and the budget."""

    id: int
    epsilon: float
    budget: float


class PrivacyResult(TypedDict):
    """The privacy of a run with a budget.

    Attributes:
        claim: The guarantee of the policy of one seed, in a sentence.
        unit: What is protected, as a phrase.
        mechanism: Name of the stage that adds the noise.
        noise_multiplier: z, the standard deviation of the noise in units of the clip.
        clip: The largest contribution; the clip of each agent if they differ.
        trust: The trust model, such as "trusted_coordinator".
        budget: The largest epsilon that a seed may spend.
        delta: The probability with which epsilon may be exceeded.
        epsilon: What was spent in the seed that spent most.
        seeds: What was spent in each seed, by its number.
        together: Epsilon of the results of all seeds together.
        agents: What each agent has spent in the seed in which it spent most, and its budget; absent if all are alike.
        charges: Number of charges in each seed, by its number.
        repeated: Number of them for rounds that were run again.
        without_budget: Number of agents that ended without budget for another round, in the last seed.
        assumptions: What the guarantee assumes, a sentence each.
        certified: Whether it holds for this run.
        not_certified: Why it does not; absent if it does.
    """

    claim: str
    unit: str
    mechanism: str
    noise_multiplier: float | None
    clip: float | list[float]
    trust: str
    budget: float
    delta: float
    epsilon: float
    seeds: dict[str, float]
    together: float
    agents: NotRequired[list[AgentEpsilon]]
    charges: dict[str, int]
    repeated: int
    without_budget: int
    assumptions: list[str]
    certified: bool
    not_certified: NotRequired[str]
