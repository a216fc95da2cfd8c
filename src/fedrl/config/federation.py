"""The section `[federation]`: aggregation, communication and number of agents."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optax

from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import Distribution
from fedrl.config.catalogue import Table
from fedrl.config.privacy import PrivacyConfig
from fedrl.core.aggregator import Aggregator
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, check_ranges, ranges_of
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation
from fedrl.engines.topologies.choices import gossip
from fedrl.federation.federate import federate
from fedrl.federation.trust_models import NOBODY, TRUSTED, TrustModel
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget
from fedrl.server.schedules import Schedule
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.trees import Tree

# Defaults are read from the signatures of `federate` and `gossip`, so that each is written in one place.
_FEDERATE, _GOSSIP = (
    {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for function in (federate, gossip)
)


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """The configuration of a federation. Components are given as tables, names or objects.

    Attributes:
        agents: Number of agents.
        local_steps: Local iterations between two exchanges: one number for all, one per agent, or a schedule such as
            `{name = "linear", first = 8, last = 1, rounds = 50}`.
        selection: Client selection: which agents work in a round; all of them by default.
        upload_budget: Which updates are sent, under a budget of bytes per merge; all of them by default.
        aggregator: The rule that aggregates updates.
        stages: Stages of an update on its way to the server, in the order of encoding.
        summation: How updates are added where a rule needs their sum only, such as `{name = "ring_sum", largest = 1}`;
            exactly, in integers of several digits, by default.
        trust: Whom agents trust. A "trusted_coordinator", the default, may read each update; an
            "honest_but_curious_coordinator" must not be able to: a sum hides its terms, or agents add noise; with
            "no_coordinator" neighbours exchange parameters without a server, the default with a `topology`.
        privacy: A budget of differential privacy, and the mechanism that keeps it; by default there is no budget.
        down_stages: Stages of the server's broadcasts, in order, applied to the difference to the copy that agents
            have; by default the parameters are sent uncompressed.
        server_optimizer: Optimiser that applies the aggregated update to the server's parameters; FedAvg by default.
        global_optimizer: In a hierarchy with periods, optimiser of the servers above the edges for the aggregated
            change of the servers below; by default they adopt the whole change.
        parts: By name, parts of the parameters with their own `aggregator`, `server_optimizer` or period (`every`),
            such as `{critic = {aggregator = "median"}, actor = {every = 5}}`.
        payload: "delta" or "gradient".
        schedule: When agents are dispatched and servers merge; synchronous rounds by default.
        clock: The agents' devices, in simulated seconds; without it all updates arrive at once.
        delay_rounds: Age of the broadcast that an agent receives, in versions: one number for all, one per agent, or a
            distribution such as `{name = "uniform_between", low = 0, high = 3}`, which is rounded.
        hierarchy: A tree of servers instead of a single one.
        topology: The graph of agents that exchange parameters with their neighbours, without a server.
        mixing: Weights of the neighbours' parameters; the default follows from `gossip`.
        gossip: The rule by which neighbours combine their parameters; averaging by default.
        consensus_steps: Consensus steps per round, with a message over every edge each.
        block: Agents per compiled block; by default a divisor of their number with few empty places. Results are
            bit-identical for any number of devices, and equal within float tolerance for other block sizes.
        gamma: Step size towards neighbours' copies, where stages compress their messages; the default follows from the
            stages and the spectrum of the mixing matrix.
    """

    agents: Count
    local_steps: Count | tuple[Count, ...] | Table | LocalSteps = _FEDERATE["local_steps"]
    selection: Table | str | Selection | None = None
    upload_budget: Table | str | UploadBudget | None = None
    aggregator: Table | str | Aggregator = "mean"
    stages: Sequence[Table | str | Stage] = ()
    summation: Table | str | Summation | None = _FEDERATE["summation"]
    trust: TrustModel | None = None
    privacy: PrivacyConfig | None = None
    down_stages: Sequence[Table | str | Stage] = _FEDERATE["down_stages"]
    server_optimizer: Table | str | optax.GradientTransformation | None = _FEDERATE["server_optimizer"]
    global_optimizer: Table | str | optax.GradientTransformation | None = None
    parts: Table = field(default_factory=dict)
    payload: str = _FEDERATE["payload"]
    schedule: Table | str | Schedule | None = None
    clock: Table | str | Clock | None = None
    delay_rounds: int | tuple[int, ...] | Table | Distribution = 0
    hierarchy: Table | str | Tree | None = None
    topology: Table | str | Graph | None = None
    mixing: Table | str | MixingMatrix | None = None
    gossip: Table | str | Rule | None = None
    consensus_steps: Count = _GOSSIP["consensus_steps"]
    gamma: float | None = _GOSSIP["gamma"]
    block: Count | None = None

    def __post_init__(self) -> None:
        check_ranges(ranges_of(FederationConfig), vars(self), "federation")
        self._check_who_coordinates()
        self._check_one_trust_model()
        if isinstance(self.local_steps, tuple | list) and len(self.local_steps) != self.agents:
            raise ConfigError(
                f"federation.local_steps is {list(self.local_steps)}. It needs one number per agent ({self.agents})."
            )

    @property
    def trust_model(self) -> TrustModel:
        """The trust model that is given, here or with the budget; else the one in which all parts are allowed."""
        given = self.trust or (None if self.privacy is None else self.privacy.trust)
        return given or (TRUSTED if self.topology is None else NOBODY)

    def _check_one_trust_model(self) -> None:
        """Refuse two trust models: one for the budget, another one for the rest."""
        with_budget = None if self.privacy is None else self.privacy.trust
        if None not in (self.trust, with_budget) and self.trust != with_budget:
            raise ConfigError(
                f"federation.trust is {self.trust!r}, and federation.privacy.trust is {with_budget!r}. The same agents "
                "can't trust a coordinator with their updates and not trust it. Leave out federation.privacy.trust."
            )

    def _check_who_coordinates(self) -> None:
        """Refuse keys that exclude each other: those of a server without a server, those of neighbours with one."""
        # Earlier versions had the schedule inside the clock.
        if isinstance(self.clock, Mapping) and "schedule" in self.clock:
            raise ConfigError(
                f"federation.clock.schedule is {self.clock['schedule']!r}. A clock describes devices, not when servers "
                "merge. Write it as federation.schedule."
            )
        if self.topology is not None and self.hierarchy is not None:
            raise ConfigError(
                "federation.topology and federation.hierarchy are both given. A topology is a graph without servers. "
                "Leave one of them out."
            )
        if self.global_optimizer is not None and self.hierarchy is None:
            raise ConfigError(
                f"federation.global_optimizer is {self.global_optimizer!r}. It is for servers above other servers, and "
                "there are none. Leave it out, use federation.server_optimizer, or give federation.hierarchy."
            )
        if self.topology is None:
            misplaced, lacking = (
                ["mixing", "gossip", "consensus_steps", "gamma"],
                "is for neighbours without a server, and there is a server",
            )
            cure = "Leave it out, or give a graph, such as federation.topology = 'ring'."
        else:
            misplaced, lacking = (
                [
                    "server_optimizer",
                    "down_stages",
                    "parts",
                    "payload",
                    "selection",
                    "upload_budget",
                    "delay_rounds",
                    "summation",
                ],
                "needs a server, and there is none",
            )
            cure = "Leave it out, or leave federation.topology out."
        # A key that equals its default may be left from a resolved config.toml, so only changed values are refused.
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in misplaced and value and value != entry.default:
                raise ConfigError(f"federation.{entry.name} is {value!r}. It {lacking}. {cure}")
