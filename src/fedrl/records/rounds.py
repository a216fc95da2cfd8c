"""What is told of a round: the lines of `records.jsonl`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

Returned = TypedDict("Returned", {"return": float | None})  # a keyword, hence not a class


class Communication(TypedDict, total=False):
    """How agents met in a round: without a server, with a tree of them, on a budget, or on a virtual clock.

    Attributes:
        messages: How many agents sent to their neighbours.
        drift: Root mean square distance of the agents from their mean before they met.
        consensus_distance: The same after they met.
        whole_copies: With down stages, or with stages and without a server, messages to agents that had missed some, of
            the whole copy.
        levels: Of a tree, `[bytes up, bytes down]` over the links of each level, from the agents on.
        latency_s: Of a tree, how long the messages of the round take.
        selected: On a budget of bytes, the agents whose updates were sent.
        time_s: Seconds on the virtual clock since the run began.
        arrived: On a clock, updates that arrived in the round.
        dropped: On a clock, turns that came to nothing: their agents dropped out, left, restarted, or hung.
        cancelled: On a clock, agents that were called back because the server had merged without them.
        staleness: On a clock, or with delays, versions that the merged updates were behind, on average.
        hung: On a clock, turns that hang, counted as they begin; left out, as the next three, if there are none.
        restarted: On a clock, turns in which an agent's process restarted; they are among the lost.
        duplicates: On a clock, updates that arrived once more, and were ignored.
        malformed: On a clock, messages that could not be read; they are among the refused.
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
    """How much the updates of a round differ from agent to agent, see `fedrl.engines.dissimilarity`."""

    dispersion: float
    cosine: float


class RoundRecord(Returned, Communication):
    """One round of one method with one seed.

    Attributes:
        seed: Of the run.
        method: One of `METHODS`.
        round: From 1.
        environment_steps: Of all agents together, since this seed of this method began.
        return: Mean training return of the episodes that ended in this round, over all agents.
        agents: The same for each agent.
        episodes: How many ended.
        loss: Mean over agents and local steps; agents whose updates were refused are left out.
        bytes_up: Sent by all agents in this round.
        bytes_down: Sent to all agents in this round.
        messages_up: In how many messages; what a stage holds back is none.
        messages_down: In how many messages.
        rejected: Updates that were left out of a merge; of agents that merge nothing, training that was undone.
        rejections: Whose they were by the reason, an agent once for each; left out if there were none.
        merged: False where nothing was merged; left out otherwise, and where nothing is exchanged.
        skipped: Why the server did not commit what it had made of the round; left out if it did.
        seconds: Wall time of the round.
        greedy: Return of the greedy policy, for each agent in its own environment; in rounds that evaluate. None for
            who has learned nothing yet, and where a return is not finite.
        greedy_measures: What the environment measures, over the greedy episodes of all agents that have a return.
        heterogeneity: How much updates differ; in some rounds of the federated method.
        measures: What is measured besides return and loss, by name, over all agents; None where it is no number.
        sums: What return, loss and measures are made of, by name: add them up over rounds before dividing. Left out by
            methods that take no rounds. Where agents take unequally many local steps, the loss over these sums weighs
            every local step alike, `loss` every agent.
    """

    seed: int
    method: str
    round: int
    environment_steps: int
    agents: list[float | None]
    episodes: int
    loss: float | None
    bytes_up: int
    bytes_down: int
    messages_up: int
    messages_down: int
    rejected: int
    rejections: NotRequired[dict[str, list[int]]]
    merged: NotRequired[bool]
    skipped: NotRequired[str]
    seconds: float
    greedy: NotRequired[list[float | None]]
    greedy_measures: NotRequired[dict[str, float | None]]
    heterogeneity: NotRequired[UpdateDissimilarity]
    measures: NotRequired[dict[str, float | None]]
    sums: NotRequired[dict[str, dict[str, float]]]
