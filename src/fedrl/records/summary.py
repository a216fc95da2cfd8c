"""The results of a run: `summary.json` and its parts."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from fedrl.records.privacy import PrivacyResult
from fedrl.records.rounds import Returned


class Range(TypedDict):
    """An estimate and its interval over seeds."""

    mean: float | None
    low: float | None
    high: float | None


class AgentResult(Returned):
    """The final greedy return of one agent in its own environment, over seeds.

    Attributes:
        id: Number of the agent, from 0.
        return: Interquartile mean over seeds.
        env_params: Parameters of its environment, by name. Absent for baselines.
    """

    id: int
    env_params: NotRequired[dict[str, Any]]


class Consensus(TypedDict):
    """Consensus of agents without a server.

    Attributes:
        spectral_gap: Spectral gap of the mixing matrix; None for a graph that never repeats or is very large.
        contraction: The factor by which a consensus step shrinks disagreement in the long run, from the spectrum: 1
            minus the gap, or with stages that of a step of size gamma with exact copies.
        measured_contraction: The measured factor of a step, the geometric mean over rounds. With symmetric weights it
            is at most `contraction`: training adds disagreement in all modes, and most modes decay faster than the
            slowest one.
        messages: Number of messages between agents in one seed.
        distance: Root mean square distance of the agents from their mean at the end.
    """

    spectral_gap: float | None
    contraction: float | None
    measured_contraction: float | None
    messages: int
    distance: float | None


class Level(TypedDict):
    """The links between a level of a tree and the one above, over all rounds of one seed.

    Attributes:
        nodes: Number of nodes that send to the level above.
        period: Rounds between two merges of the level above.
        bytes_up: Bytes sent to the level above.
        bytes_down: Bytes sent from the level above.
    """

    nodes: int
    period: int
    bytes_up: int
    bytes_down: int


class HierarchyCost(TypedDict):
    """Communication cost of a tree of servers.

    Attributes:
        levels: The levels, from the agents to the root.
        latency_s: Seconds that the messages of a round take, mean over rounds.
        longest_latency_s: The same for the longest round.
    """

    levels: list[Level]
    latency_s: float
    longest_latency_s: float


class VirtualTime(TypedDict):
    """Totals of the clock in one seed, mean over seeds: of a virtual one, or of real time with agents at other sites.

    Attributes:
        time_s: Seconds of training on this clock. Real ones are those of all processes of the coordinator together.
        arrived: Number of updates that arrived.
        dropped: Number of jobs whose update never arrived.
        cancelled: Number of jobs that the server cancelled.
        staleness: Mean staleness of updates in versions; None if none arrived.
        hung: Number of jobs that hung; absent, as the next three, if there were none.
        restarted: Number of jobs in which the agent restarted; they are among the dropped ones.
        duplicates: Number of duplicate updates, which were ignored.
        malformed: Number of messages that could not be decoded; they are among the rejected ones.
    """

    time_s: float
    arrived: float
    dropped: float
    cancelled: float
    staleness: float | None
    hung: NotRequired[float]
    restarted: NotRequired[float]
    duplicates: NotRequired[float]
    malformed: NotRequired[float]


class Heterogeneity(TypedDict):
    """Heterogeneity of the agents.

    Attributes:
        dispersion: Dispersion of updates, mean ||delta_k - delta||^2 / ||delta||^2; the median over measured rounds and
            seeds.
        cosine: Cosine between two agents' updates, the mean over pairs, rounds and seeds.
        transition: For finite environments, the mean total variation distance from the mean environment.
        reward: The mean distance of their rewards from the mean.
        value: The mean over agents of the largest |Q* - Q* of the mean environment|.
    """

    dispersion: float | None
    cosine: float | None
    transition: NotRequired[float | None]
    reward: NotRequired[float | None]
    value: NotRequired[float | None]


class NegativeTransfer(TypedDict):
    """An agent that does better alone: its mean returns, and the lower end of the interval of their difference."""

    id: int
    federated: float
    independent: float
    at_least: float


class RunWarning(TypedDict):
    """A warning about the results, see `fedrl.runs.warnings`.

    Attributes:
        kind: "federation_hurts".
        agents: The affected agents.
        everybody: Whether it also applies to the mean of all agents.
        message: The warning in a sentence.
        remedies: Possible remedies, a sentence each.
    """

    kind: str
    agents: list[NegativeTransfer]
    everybody: bool
    message: str
    remedies: list[str]


class RejectedAgent(TypedDict):
    """An agent whose updates were rejected in one method, over all seeds.

    Attributes:
        id: Number of the agent; 0 is the only learner of the centralised method.
        updates: Number of its rejected updates.
        rounds: Number of rounds in which they were rejected.
        reason: Reason of the last rejection.
    """

    id: int
    updates: int
    rounds: int
    reason: str


class RejectedUpdates(TypedDict):
    """Rejected updates of one method, over all seeds.

    Attributes:
        updates: Number of rejected updates of all agents.
        rounds: Number of rounds.
        agents: The agents with rejected updates.
        skipped: Number of rounds in which the server did not commit its result.
        skipped_because: Reason of the last one.
        unmerged: Seeds in which no update was ever merged.
        repeated: How often the round of an agent was repeated after its environment failed; absent if never.
        repeated_because: The agent and the reason of the last time.
    """

    updates: int
    rounds: int
    agents: list[RejectedAgent]
    skipped: int
    skipped_because: str | None
    unmerged: list[int]
    repeated: NotRequired[int]
    repeated_because: NotRequired[str]


class LeftOut(TypedDict):
    """Agents that a method leaves out in some seeds.

    Attributes:
        what: "return": these agents have no return. "policy": the method was computed without their policies.
            "everything": it has no result.
        agents: The agents; none if the method has no result. For held-out environments, their numbers.
        seeds: The seeds.
        reason: The reason.
    """

    what: Literal["return", "policy", "everything"]
    agents: list[int]
    seeds: list[int]
    reason: str


class Ended(TypedDict):
    """A seed of the federation that ended before its last round: no update, or no privacy budget, was left.

    Attributes:
        seed: The seed.
        round: Its last round; 0 if it had none.
        reason: The reason.
    """

    seed: int
    round: int
    reason: str


class Compared(TypedDict):
    """A baseline beside the federation, over the agents for which both have a return.

    Attributes:
        agents: Number of these agents.
        federated: Final return of the federation over them.
        baseline: Final return of the baseline over them.
    """

    agents: int
    federated: Range
    baseline: Range


class Seeded(Range):
    """An estimate, its interval, and the value of each seed."""

    seeds: list[float | None]


class MeasureResult(TypedDict):
    """The result of a declared measure, see `fedrl.core.measures`.

    Attributes:
        per: "step", "iteration", "episode" or "round".
        unit: Unit; empty for a pure number.
        better: "lower" or "higher"; None if neither is.
        source: "greedy" for the last evaluation, "training" for the last tenth of the rounds.
        methods: Value of each method, over the agents for which it has a return.
        agents: For greedy episodes, by method, the value of each agent over all seeds.
    """

    per: str
    unit: str
    better: str | None
    source: Literal["greedy", "training"]
    methods: dict[str, Seeded]
    agents: NotRequired[dict[str, list[float | None]]]


FilmResult = TypedDict(  # `return` is a keyword, so a class can't declare it
    "FilmResult", {"seed": int, "agent": int, "return": float | None, "steps": int, "skipped": str}, total=False
)
"""The film of a run: the seed whose policy is filmed, the agent in whose environment it is (and whose policy, where
agents have their own), the return of the episode (None if it is not finite) and the number of its steps. Or only
`skipped`: why there is no film."""


class Summary(TypedDict):
    """The results of a run, up to the last round that it reached.

    Attributes:
        name: Name of the experiment.
        final_return: Greedy return of the federated agents: mean over agents, interval over seeds. Seeds without any
            return are left out, and so are agents that lack one in any other seed.
        agents: Results of the federated agents, in the order of their ids.
        baselines: The same as `final_return` for each baseline that ran.
        baseline_agents: The same as `agents` for each baseline that ran.
        held_out: As `final_return`, in environments in which no agent trained.
        rounds: Rounds planned in each seed of each method; a run with fewer records was interrupted.
        seeds: The seeds themselves.
        environment_steps: Environment steps of all agents, seeds and methods together.
        steps_per_second: `environment_steps` over the time of the rounds, without compilation.
        compile_s: Seconds spent compiling.
        wall_s: Seconds from start to end.
        bytes_up: Bytes sent by the federated agents, over all rounds of one seed.
        bytes_down: Bytes sent to the federated agents, over all rounds of one seed.
        messages_up: Number of messages for `bytes_up`.
        messages_down: Number of messages for `bytes_down`.
        model_bytes: Bytes of the exchanged parameters, uncompressed.
        epsilon: Privacy loss of an agent in the seed that spent most; None without a budget.
        privacy: What a run with a privacy budget promises, and what it spent; absent without one.
        trust: The trust model; absent in summaries of earlier versions.
        reads: What a coordinator, or neighbours, read under it, as a sentence.
        versions: Versions of Python and of the packages that compute, by name.
        revision: Revision of the source code.
        citations: A line for the source of every component used.
        consensus: Consensus of the agents, if there was no server.
        hierarchy: Cost of each level, if there was a tree of servers.
        virtual_time: Totals of the clock, if there was one.
        real_time: True if the agents were at other sites, so that the clock was a real one; else absent.
        heterogeneity: Heterogeneity of the agents.
        measures: Results of the measures besides the return, by name.
        warnings: Warnings about the results; absent without the baseline of independent agents.
        rejections: Rejected updates of each method; absent for a method without any.
        left_out: For each method, and for "held_out", the agents that are left out; absent if there are none.
        ended: Seeds of the federation that ended before their last round, since on the virtual clock no update would
            have arrived any more, or since no agent had any privacy budget left; absent if there are none.
        compared: For each baseline with returns of other agents than the federation, both over the same agents.
        notes: Defects of the records from which the numbers were computed, a sentence each; absent if there are none.
        failure: The error that ended the run before its last round; absent if there was none.
        film: The film of the run; absent if none was wanted, or before the last round.
    """

    name: str
    final_return: Range
    agents: list[AgentResult]
    baselines: dict[str, Range]
    baseline_agents: NotRequired[dict[str, list[AgentResult]]]
    held_out: NotRequired[Range | None]
    rounds: int
    seeds: list[int]
    environment_steps: int
    steps_per_second: float | None
    compile_s: float | None
    wall_s: float
    bytes_up: int
    bytes_down: int
    messages_up: NotRequired[int]
    messages_down: NotRequired[int]
    model_bytes: NotRequired[int]
    epsilon: float | None
    privacy: NotRequired[PrivacyResult]
    trust: NotRequired[str]
    reads: NotRequired[str]
    versions: dict[str, str]
    revision: str | None
    citations: list[str]
    consensus: NotRequired[Consensus]
    hierarchy: NotRequired[HierarchyCost]
    virtual_time: NotRequired[VirtualTime]
    real_time: NotRequired[bool]
    heterogeneity: NotRequired[Heterogeneity]
    measures: NotRequired[dict[str, MeasureResult]]
    warnings: NotRequired[list[RunWarning]]
    rejections: NotRequired[dict[str, RejectedUpdates]]
    left_out: NotRequired[dict[str, list[LeftOut]]]
    ended: NotRequired[list[Ended]]
    compared: NotRequired[dict[str, Compared]]
    notes: NotRequired[list[str]]
    failure: NotRequired[str]
    film: NotRequired[FilmResult]
