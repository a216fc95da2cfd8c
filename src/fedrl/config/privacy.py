"""The section `[federation.privacy]`: a budget of differential privacy, and the mechanism that keeps it.

[federation.privacy]
epsilon = 8.0
delta = 1e-3
mechanism = { name = "central_gaussian", clip = 0.5 }     # z follows from epsilon, delta, rounds and selection
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fedrl.config.catalogue import Table
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, NonNegative, Positive, check_ranges, ranges_of
from fedrl.federation.trust_models import TrustModel


@dataclass(frozen=True, kw_only=True)
class AgentPrivacyConfig:
    """The budget of one agent.

    Attributes:
        epsilon: Its epsilon, below that of the federation.
    """

    epsilon: Positive

    def __post_init__(self) -> None:
        check_ranges(ranges_of(AgentPrivacyConfig), vars(self), "federation.privacy.agents")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """A budget of differential privacy for each seed of the federated method.

    Attributes:
        epsilon: The largest privacy loss of an agent in the whole run.
        delta: The probability with which it may be exceeded, far below one over the number of agents; 0 only for
            Laplace noise.
        unit: What is protected: all data of an "agent", or one "trajectory" (an episode) of it.
        mechanism: The stage that clips and adds noise, such as `{name = "central_gaussian", clip = 0.5}`. Its
            `noise_multiplier` is calibrated for all rounds, and `expected` follows from the selection; with a
            `noise_multiplier` of one's own, nothing is calibrated. Without this key, the noise of `federation.stages`
            is priced, or that of the learner. "steps" is the noise of the learner's local steps, such as of `reinforce`
            with a `trajectory_clip`; it is calibrated likewise.
        trust: The trust model; that of the federation by default (`federation.trust`). A "trusted_coordinator" may add
            the noise; under another one agents have to.
        episodes_per_person: With the unit "trajectory", the largest number of episodes of one person.
        reproducible: Whether the noise follows from the seed, for tests. Such a run protects nobody, and is marked "not
            certified".
        agents: By number, agents that ask for a smaller epsilon, such as `{3 = {epsilon = 2.0}}`.
        stronger_by: How these agents get it: by a "smaller_clip", with which they take part in all rounds, or by
            "fewer_rounds", after which they drop out.
    """

    epsilon: Positive
    delta: NonNegative = 0.0
    unit: Literal["agent", "trajectory"] = "agent"
    mechanism: Table | str | None = None
    trust: TrustModel | None = None
    episodes_per_person: Count = 1
    reproducible: bool = False
    agents: dict[str, AgentPrivacyConfig] = field(default_factory=dict)
    stronger_by: Literal["smaller_clip", "fewer_rounds"] = "smaller_clip"

    def __post_init__(self) -> None:
        check_ranges(ranges_of(PrivacyConfig), vars(self), "federation.privacy")
        if not self.delta < 1.0:
            raise ConfigError(
                f"federation.privacy.delta is {self.delta:g}. It is a probability, and with 1 or more nothing is "
                "protected. Set it far below one over the number of agents, such as 1e-5."
            )
        if self.unit == "agent" and self.episodes_per_person != 1:
            raise ConfigError(
                f"federation.privacy.episodes_per_person is {self.episodes_per_person}, and with unit = 'agent' all "
                "episodes of an agent are protected together. Leave it out, or use unit = 'trajectory'."
            )
        for name, own in self.agents.items():
            where = f"federation.privacy.agents.{name}"
            if not name.isdecimal():
                raise ConfigError(
                    f"{where} names no agent. Agents have numbers from 0, such as {where[: -len(name)]}0."
                )
            if own.epsilon >= self.epsilon:
                raise ConfigError(
                    f"{where}.epsilon is {own.epsilon:g}, and that of the federation is {self.epsilon:g}. An agent "
                    "may ask for less only. Lower it, or leave it out."
                )
        if self.agents and self.unit == "trajectory":
            raise ConfigError(
                "federation.privacy.agents is given, and with unit = 'trajectory' all learners clip episodes alike, "
                "and rounds do not add up, so that a stronger guarantee of single agents is not there. Leave it out, "
                "or use unit = 'agent'."
            )

    @property
    def own(self) -> dict[int, float]:
        """The epsilon of each agent that asks for a smaller one."""
        return {int(name): each.epsilon for name, each in self.agents.items()}
