"""What is told of a run when it is over: `summary.json` and its parts."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from fedrl.records.rounds import Returned


class Range(TypedDict):
    """An estimate and its interval over seeds."""

    mean: float | None
    low: float | None
    high: float | None


class AgentResult(Returned):
    """The final greedy return of one agent in its own environment, over seeds.

    Attributes:
        id: Of the agent, from 0.
        return: Over seeds.
        env_params: What is particular about its environment, by name. Left out for baselines.
    """

    id: int
    env_params: NotRequired[dict[str, Any]]


class Consensus(TypedDict):
    """How well agents without a server agreed.

    Attributes:
        spectral_gap: Of the weights; None for a graph that never repeats or is very large.
        contraction: The factor by which a step of consensus shrinks disagreement in the long run, by the spectrum: 1
            less the gap, or with stages that of a step by gamma, if copies lost nothing.
        measured_contraction: The factor a step was measured to have, the geometric mean over rounds. With symmetric
            weights it is at most `contraction`: what training adds anew lies in all modes, and most fade sooner than
            the slowest one.
        messages: All that agents sent to each other in one seed.
        distance: Root mean square distance of the agents from their mean in the end.
    """

    spectral_gap: float | None
    contraction: float | None
    measured_contraction: float | None
    messages: int
    distance: float | None


class Level(TypedDict):
    """The links between a level of a tree and the one above, over all rounds of one seed.

    Attributes:
        nodes: How many send up.
        period: Rounds between two merges of those above.
        bytes_up: Sent up.
        bytes_down: Sent down.
    """

    nodes: int
    period: int
    bytes_up: int
    bytes_down: int


class HierarchyCost(TypedDict):
    """What a tree of servers cost.

    Attributes:
        levels: From the agents on.
        latency_s: How long the messages of a round take, mean over rounds.
        longest_latency_s: The same of the longest round.
    """

    levels: list[Level]
    latency_s: float
    longest_latency_s: float


class VirtualTime(TypedDict):
    """What the virtual clock showed, of one seed, mean over seeds.

    Attributes:
        time_s: Seconds from the beginning to the end of training.
        arrived: Updates that arrived.
        dropped: Turns that came to nothing.
        cancelled: Agents that were called back.
        staleness: Versions that updates were behind, on average; None if none arrived.
        hung: Turns that hung; left out, as the next three, if there were none.
        restarted: Turns in which an agent's process restarted; they are among the lost.
        duplicates: Updates that arrived once more, and were ignored.
        malformed: Messages that could not be read; they are among the refused.
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
    """How different agents are.

    Attributes:
        dispersion: Of updates, mean ||delta_k - delta||^2 / ||delta||^2; the median over measured rounds and seeds.
        cosine: Between two agents' updates, the mean over pairs, rounds and seeds.
        transition: Of finite environments, the mean total variation from the mean environment.
        reward: The mean distance of their rewards from the mean.
        value: The mean over agents of the largest |Q* - Q* of the mean environment|.
    """

    dispersion: float | None
    cosine: float | None
    transition: NotRequired[float | None]
    reward: NotRequired[float | None]
    value: NotRequired[float | None]


class NegativeTransfer(TypedDict):
    """An agent that does better alone: its mean returns, and by how much it does so at least."""

    id: int
    federated: float
    independent: float
    at_least: float


class RunWarning(TypedDict):
    """Something about the outcome that needs attention, see `fedrl.runs.warnings`.

    Attributes:
        kind: "federation_hurts".
        agents: Which.
        everybody: Whether it holds for the mean of all agents.
        message: A sentence.
        remedies: What may help.
    """

    kind: str
    agents: list[NegativeTransfer]
    everybody: bool
    message: str
    remedies: list[str]


class RejectedAgent(TypedDict):
    """An agent whose updates were refused by one method, over all seeds.

    Attributes:
        id: Of the agent; 0 is the only learner of the centralised method.
        updates: How many of its updates.
        rounds: In how many rounds.
        reason: Of the last refusal.
    """

    id: int
    updates: int
    rounds: int
    reason: str


class RejectedUpdates(TypedDict):
    """What one method refused, over all seeds.

    Attributes:
        updates: How many, of all agents.
        rounds: How many rounds there were.
        agents: Whose they were.
        skipped: Rounds in which the server did not commit what it had made of the updates.
        skipped_because: Why, the last time.
        unmerged: Seeds in which nothing was ever merged.
    """

    updates: int
    rounds: int
    agents: list[RejectedAgent]
    skipped: int
    skipped_because: str | None
    unmerged: list[int]


class LeftOut(TypedDict):
    """What a method goes without, in some seeds.

    Attributes:
        what: "return": it has none of these agents. "policy": it was made without theirs. "everything": it has no
            result.
        agents: Which; none if it is everything. Of held-out environments, their numbers.
        seeds: In which.
        reason: Why.
    """

    what: Literal["return", "policy", "everything"]
    agents: list[int]
    seeds: list[int]
    reason: str


class Compared(TypedDict):
    """A baseline beside the federation over the agents of which both have a return.

    Attributes:
        agents: How many those are.
        federated: The final return of the federation over them.
        baseline: That of the baseline.
    """

    agents: int
    federated: Range
    baseline: Range


class Seeded(Range):
    """An estimate, its interval, and the value of each seed that it is made of."""

    seeds: list[float | None]


class MeasureResult(TypedDict):
    """What a declared measure came to, see `fedrl.core.measures`.

    Attributes:
        per: "step", "iteration", "episode" or "round".
        unit: Empty for a pure number.
        better: "lower" or "higher"; None if neither is.
        source: "greedy" if it is that of the last evaluation, "training" if it is that of the last tenth of the rounds.
        methods: Of each method, over the agents of which it has a return.
        agents: Of each method, each agent's over all seeds; of greedy episodes.
    """

    per: str
    unit: str
    better: str | None
    source: Literal["greedy", "training"]
    methods: dict[str, Seeded]
    agents: NotRequired[dict[str, list[float | None]]]


class Summary(TypedDict):
    """The outcome of a run, as far as it got.

    Attributes:
        name: Of the experiment.
        final_return: Greedy return of the federated agents: mean over agents, interval over seeds. Seeds without any
            return are left out, and so are agents that lack one in any other seed.
        agents: Of the federated method, one per agent, in the order of their ids.
        baselines: The same as `final_return` for each baseline that ran.
        baseline_agents: The same as `agents` for each baseline that ran.
        held_out: As `final_return`, in environments that no agent trained in.
        rounds: Rounds planned in each seed of each method; a run with fewer records was interrupted.
        seeds: The seeds themselves.
        environment_steps: Of all agents, seeds and methods together.
        steps_per_second: `environment_steps` over the time of the rounds, without compilation.
        compile_s: Time spent compiling.
        wall_s: Time from start to end.
        bytes_up: Of the federated method, over all rounds of one seed.
        bytes_down: Of the federated method, over all rounds of one seed.
        messages_up: In how many messages.
        messages_down: In how many messages.
        model_bytes: Of the parameters that a round exchanges, uncompressed.
        epsilon: Privacy loss of the run, None without privacy.
        versions: Of Python and of the packages that compute, by name.
        revision: Of the source code.
        citations: A line for the source of every component used.
        consensus: How well agents agreed, if there was no server.
        hierarchy: What each level cost, if there was a tree of servers.
        virtual_time: What the clock showed, if there was one.
        heterogeneity: How different the agents are.
        measures: What was measured besides the return, by name.
        warnings: What needs attention; left out if there were no independent agents to compare with.
        rejections: Of each method, whose updates were refused; a method in which none were is left out.
        left_out: Of each method, and of "held_out", which agents have no part in it; left out where all have.
        compared: Of each baseline that has a return of other agents than the federation, both over the same agents.
        notes: What is wrong with the records these numbers come from, a sentence each; left out if nothing is.
        failure: The error that ended the run before its last round; left out if none did.
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
    versions: dict[str, str]
    revision: str | None
    citations: list[str]
    consensus: NotRequired[Consensus]
    hierarchy: NotRequired[HierarchyCost]
    virtual_time: NotRequired[VirtualTime]
    heterogeneity: NotRequired[Heterogeneity]
    measures: NotRequired[dict[str, MeasureResult]]
    warnings: NotRequired[list[RunWarning]]
    rejections: NotRequired[dict[str, RejectedUpdates]]
    left_out: NotRequired[dict[str, list[LeftOut]]]
    compared: NotRequired[dict[str, Compared]]
    notes: NotRequired[list[str]]
    failure: NotRequired[str]
