"""The record of a round: a line of `records.jsonl`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from fedrl.records.privacy import PrivacyOfRound

Returned = TypedDict("Returned", {"return": float | None})  # `return` is a keyword, so a class can't declare it


class Communication(TypedDict, total=False):
    """Communication of a round: without a server, with a tree of servers, on a budget, or on a virtual clock.

    Attributes:
        messages: Without a server, number of messages that agents sent to their neighbours.
        drift: Without a server, root mean square distance of the agents from their mean before averaging.
        consensus_distance: The same after averaging.
        whole_copies: With down stages, or with stages and without a server, number of messages with the whole copy, to
            agents that had missed differences.
        levels: In a tree, `[bytes up, bytes down]` over the links of each level, from the agents to the root.
        latency_s: In a tree, seconds that the messages of the round take.
        selected: On a budget of bytes, the agents whose updates were sent.
        time_s: Seconds on the virtual clock since the run began; real ones with agents at other sites.
        arrived: On a clock, number of updates that arrived in the round.
        dropped: On a clock, number of jobs without an update: their agents dropped out, left, restarted, or hung.
        cancelled: On a clock, number of jobs that the server cancelled because it merged without them.
        staleness: On a clock, or with delays, mean staleness of the merged updates, in versions.
        hung: On a clock, number of jobs that hang, counted at their start; absent, as the next three, if there are
            none.
        restarted: On a clock, number of jobs in which the agent restarted; they are among the dropped ones.
        duplicates: On a clock, number of duplicate updates, which were ignored.
        malformed: On a clock, number of messages that could not be decoded; they are among the rejected ones.
    """

    messages: int
    drift: float | None
    consensus_distance: float | None
    whole_copies: int
    levels: list[list[int]]
    latency_s: float
    selected: list[int]
    time_s: float
    arrived: int
    dropped: int
    cancelled: int
    staleness: float
    hung: int
    restarted: int
    duplicates: int
    malformed: int


class UpdateDissimilarity(TypedDict):
    """Dissimilarity of the agents' updates in a round, see `fedrl.engines.dissimilarity`."""

    dispersion: float
    cosine: float


class EnvironmentFailureRecord(TypedDict):
    """A failure of an agent's environment, outside compiled programs.

    Attributes:
        agent: Number of the agent.
        copy: Number of the environment copy among those of the agent.
        environment: Id of the environment.
        step: Number of the step in its episode.
        reason: What went wrong, and where.
        traceback: The traceback in the user's own code; empty if there is none.
        repeated: Whether the round of the agent was repeated afterwards; else the agent was left out.
    """

    agent: int
    copy: int
    environment: str
    step: int
    reason: str
    traceback: str
    repeated: bool


class RoundRecord(Returned, Communication):
    """One round of one method with one seed.

    Attributes:
        seed: Seed of the run.
        method: One of `METHODS`.
        round: Number of the round, from 1.
        environment_steps: Environment steps of all agents together, since this seed of this method began.
        return: Mean training return of the episodes that ended in this round, over all agents.
        agents: The same for each agent.
        episodes: Number of episodes that ended; absent where agents keep it to themselves.
        loss: Mean over agents and local steps, without agents whose updates were rejected.
        bytes_up: Bytes that all agents sent in this round.
        bytes_down: Bytes that all agents were sent in this round.
        messages_up: Number of uploads; an update that a stage withholds is not counted.
        messages_down: Number of messages to agents.
        rejected: Number of updates left out of a merge; for isolated agents, of rounds that were undone.
        rejections: Their agents by reason, one entry per update; absent if there are none.
        environment_failures: Failures of environments outside compiled programs; absent if there are none.
        merged: False if no update was merged; absent otherwise, and where agents do not communicate.
        skipped: Why the server did not commit the result of the round; absent if it did.
        seconds: Wall time of the round.
        greedy: Return of the greedy policy, for each agent in its own environment; in rounds that evaluate. None for
            an agent that has learned nothing yet, and where a return is not finite.
        greedy_measures: Measures of the environment over the greedy episodes of all agents that have a return.
        heterogeneity: Dissimilarity of the updates; in some rounds of the federated method.
        privacy: What the seed has spent of its privacy budget; absent without one.
        measures: Measures besides return and loss, by name, over all agents; None where undefined.
        sums: Sums from which return, loss and measures are computed, by name: add them over rounds before dividing.
            Absent for methods without rounds. Where agents take unequally many local steps, the loss over these sums
            weights every local step alike, `loss` every agent.
        setting: In an event of a study, the number of the setting; never in `records.jsonl`.
    """

    seed: int
    method: str
    round: int
    environment_steps: int
    agents: list[float | None]
    episodes: NotRequired[int]
    loss: float | None
    bytes_up: int
    bytes_down: int
    messages_up: int
    messages_down: int
    rejected: int
    rejections: NotRequired[dict[str, list[int]]]
    environment_failures: NotRequired[list[EnvironmentFailureRecord]]
    merged: NotRequired[bool]
    skipped: NotRequired[str]
    seconds: float
    greedy: NotRequired[list[float | None]]
    greedy_measures: NotRequired[dict[str, float | None]]
    heterogeneity: NotRequired[UpdateDissimilarity]
    privacy: NotRequired[PrivacyOfRound]
    measures: NotRequired[dict[str, float | None]]
    sums: NotRequired[dict[str, dict[str, float]]]
    setting: NotRequired[int]
