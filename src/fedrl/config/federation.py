"""The section `[federation]`: how agents learn together."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optax

from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import Distribution
from fedrl.config.catalogue import Table
from fedrl.config.coerce import at_least
from fedrl.core.aggregator import Aggregator
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.engines.topologies.choices import gossip
from fedrl.federation.federate import federate
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget
from fedrl.server.schedules import Schedule
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.trees import Tree

_FEDERATE, _GOSSIP = (
    {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for function in (federate, gossip)
)


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """How agents learn together.

    Attributes:
        agents: How many.
        local_steps: Local iterations between two exchanges: one number for all, one per agent, or a schedule such as
            `{name = "linear", first = 8, last = 1, rounds = 50}`.
        selection: Who is asked in a round; everybody by default.
        upload_budget: Whose updates are sent, under a budget of bytes a round; all of them by default.
        aggregator: The rule that merges updates.
        stages: What an update passes on its way, in order.
        down_stages: What the difference to the copy that agents hold passes on its way down, in order; by default they
            are sent the parameters as they are.
        server_optimizer: What the server does with the merged update; FedAvg by default.
        global_optimizer: In a hierarchy with periods, what servers above servers do with the merged change of those
            below; they adopt all of it by default.
        parts: By name, parts of the parameters with an `aggregator`, a `server_optimizer` or a period (`every`) of
            their own, such as `{critic = {aggregator = "median"}, actor = {every = 5}}`.
        payload: "delta" or "gradient".
        schedule: Who works when, and when servers merge; all together and in rounds by default.
        clock: The devices behind agents, for simulated seconds.
        delay_rounds: How many versions ago what an agent hears was made: one number for all, one per agent, or a spread
            such as `{name = "between", low = 0, high = 3}`, which is rounded.
        hierarchy: A tree of servers instead of a single one.
        topology: Who hears whom; agents then meet their neighbours only, and there is no server.
        mixing: How much weight an agent gives to what it hears; by default what suits the rule.
        gossip: The rule by which neighbours meet; averaging by default.
        consensus_steps: Messages over every edge in a round.
        block: Agents per compiled block; by default what divides them with few empty seats. Results agree bit by bit
            for any number of devices, and to float tolerance between sizes of blocks.
        gamma: How far neighbours go towards copies of each other, where stages compress what they send; by default as
            far as is safe.
    """

    agents: int
    local_steps: int | tuple[int, ...] | Table | LocalSteps = _FEDERATE["local_steps"]
    selection: Table | str | Selection | None = None
    upload_budget: Table | str | UploadBudget | None = None
    aggregator: Table | str | Aggregator = "mean"
    stages: Sequence[Table | str | Stage] = ()
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
    consensus_steps: int = _GOSSIP["consensus_steps"]
    gamma: float | None = _GOSSIP["gamma"]
    block: int | None = None

    def __post_init__(self) -> None:
        at_least(1, "federation.agents", self.agents)
        at_least(1, "federation.consensus_steps", self.consensus_steps)
        if self.block is not None:
            at_least(1, "federation.block", self.block)
        self._check_who_coordinates()
        if isinstance(self.local_steps, int):
            at_least(1, "federation.local_steps", self.local_steps)
        elif isinstance(self.local_steps, tuple | list) and (
            len(self.local_steps) != self.agents or min(self.local_steps) < 1
        ):
            raise ConfigError(
                f"federation.local_steps is {list(self.local_steps)}. It needs one number per agent "
                f"({self.agents}), each at least 1."
            )

    def _check_who_coordinates(self) -> None:
        """Refuse keys that have no meaning beside each other: a server's without a server, neighbours' with one."""
        if isinstance(self.clock, Mapping) and "schedule" in self.clock:
            raise ConfigError(
                f"federation.clock.schedule is {self.clock['schedule']!r}. A clock says what devices are like, and not "
                "when servers merge. Write it as federation.schedule."
            )
        if self.topology is not None and self.hierarchy is not None:
            raise ConfigError(
                "federation.topology and federation.hierarchy are both given. Neighbours have no servers. Leave one of "
                "them out."
            )
        if self.global_optimizer is not None and self.hierarchy is None:
            raise ConfigError(
                f"federation.global_optimizer is {self.global_optimizer!r}. It is of servers above servers, and there "
                "are none. Leave it out, use federation.server_optimizer, or give federation.hierarchy."
            )
        if self.topology is None:
            misplaced, lacking = (
                ["mixing", "gossip", "consensus_steps", "gamma"],
                "is about neighbours, and there are none",
            )
            cure = "Leave it out, or say who hears whom: federation.topology = 'ring'."
        else:
            misplaced, lacking = (
                ["server_optimizer", "down_stages", "parts", "payload", "selection", "upload_budget", "delay_rounds"],
                "needs a server, and there is none",
            )
            cure = "Leave it out, or leave federation.topology out."
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in misplaced and value and value != entry.default:
                raise ConfigError(f"federation.{entry.name} is {value!r}. It {lacking}. {cure}")
