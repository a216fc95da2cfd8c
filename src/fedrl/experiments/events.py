"""What a run tells whoever listens: a stream of events, and what is written down of it.

    Start, then for each method and seed: Compile?, RoundRecord, RoundRecord, ...; at last: End

A study tells a `SettingStart` before each of its runs, and in the end `StudyEnd`.

A listener is a `Sink`, a function of one event. A `RoundRecord` has no `event` key: it is also a line of
`records.jsonl`. A `Summary` is `summary.json`. Numbers that do not exist, such as the return of a round in which no
episode ended, are None (null in the files).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict

METHODS: Final = ("federated", "independent", "centralised", "average_once")
"""The methods of a run: the federation itself, then its baselines."""


class Range(TypedDict):
    """An estimate and its interval over seeds."""

    mean: float | None
    low: float | None
    high: float | None


class Start(TypedDict):
    """A run begins.

    Attributes:
        name: Of the experiment.
        rounds: In each seed of each method.
        seeds: The seeds themselves.
        methods: In the order in which they run, each one of `METHODS`.
        agents: How many.
        environment_steps_per_round: Of all agents together.
    """

    event: Literal["start"]
    name: str
    rounds: int
    seeds: list[int]
    methods: list[str]
    agents: int
    environment_steps_per_round: int


class Compile(TypedDict):
    """The program of a method is about to be compiled, so its next round takes longer."""

    event: Literal["compile"]
    method: str


Returned = TypedDict("Returned", {"return": float | None})  # a keyword, hence not a class


class Exchange(TypedDict, total=False):
    """How agents met in a round, where there is no server or a tree of them.

    Attributes:
        messages: How many agents sent to their neighbours.
        drift: Root mean square distance of the agents from their mean before they met.
        consensus_distance: The same after they met.
        levels: Of a tree, `[bytes up, bytes down]` over the links of each level, from the agents on.
        latency_s: Of a tree, how long the messages of the round take.
    """

    messages: int
    drift: float | None
    consensus_distance: float | None
    levels: list[list[int]]
    latency_s: float


class UpdateSpread(TypedDict):
    """How much the updates of a round differ from agent to agent, see `fedrl.engines.spread`."""

    dispersion: float
    cosine: float


class RoundRecord(Returned, Exchange):
    """One round of one method with one seed.

    Attributes:
        seed: Of the run.
        method: One of `METHODS`.
        round: From 1.
        environment_steps: Of all agents together, since this seed of this method began.
        return: Mean training return of the episodes that ended in this round, over all agents.
        agents: The same for each agent.
        episodes: How many ended.
        loss: Mean over agents and local steps.
        bytes_up: Sent by all agents in this round.
        bytes_down: Sent to all agents in this round.
        refused: Updates the server left out.
        seconds: Wall time of the round.
        greedy: Return of the greedy policy, for each agent in its own environment; in rounds that evaluate.
        heterogeneity: How much updates differ; in some rounds of the federated method.
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
    refused: int
    seconds: float
    greedy: NotRequired[list[float | None]]
    heterogeneity: NotRequired[UpdateSpread]


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
        spectral_gap: 1 less `contraction`; None for a graph that never repeats or is very large.
        contraction: The factor by which a step of consensus shrinks disagreement in the long run, by the spectrum.
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


class Hierarchy(TypedDict):
    """What a tree of servers cost.

    Attributes:
        levels: From the agents on.
        latency_s: How long the messages of a round take, mean over rounds.
        longest_latency_s: The same of the longest round.
    """

    levels: list[Level]
    latency_s: float
    longest_latency_s: float


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
    transition: NotRequired[float]
    reward: NotRequired[float]
    value: NotRequired[float]


class Hurt(TypedDict):
    """An agent that does better alone: its mean returns, and by how much it does so at least."""

    id: int
    federated: float
    independent: float
    at_least: float


class Alarm(TypedDict):
    """Something about the outcome that needs attention, see `fedrl.experiments.alarms`.

    Attributes:
        kind: "federation_hurts".
        agents: Which.
        everybody: Whether it holds for the mean of all agents.
        message: A sentence.
        cures: What may help.
    """

    kind: str
    agents: list[Hurt]
    everybody: bool
    message: str
    cures: list[str]


class Summary(TypedDict):
    """The outcome of a run, as far as it got.

    Attributes:
        name: Of the experiment.
        final_return: Greedy return of the federated agents: mean over agents, interval over seeds.
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
        model_bytes: Of the parameters that a round exchanges, uncompressed.
        epsilon: Privacy loss of the run, None without privacy.
        versions: Of Python and of the packages that compute, by name.
        revision: Of the source code.
        citations: A line for the source of every component used.
        consensus: How well agents agreed, if there was no server.
        hierarchy: What each level cost, if there was a tree of servers.
        heterogeneity: How different the agents are.
        alarms: What needs attention; left out if there were no independent agents to compare with.
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
    model_bytes: NotRequired[int]
    epsilon: float | None
    versions: dict[str, str]
    revision: str | None
    citations: list[str]
    consensus: NotRequired[Consensus]
    hierarchy: NotRequired[Hierarchy]
    heterogeneity: NotRequired[Heterogeneity]
    alarms: NotRequired[list[Alarm]]


class End(TypedDict):
    """A run is over, whether or not it got to its last round.

    Attributes:
        summary: As in `summary.json`.
        folder: The run folder.
        report: The page, if one was written.
    """

    event: Literal["end"]
    summary: Summary
    folder: str
    report: str | None


class SettingStart(TypedDict):
    """A study begins or goes on with a setting; the events of its run follow.

    Attributes:
        number: From 1.
        of: How many there are.
        label: What is particular about it.
    """

    event: Literal["setting"]
    number: int
    of: int
    label: str


class StudyEnd(TypedDict):
    """A study is over, whether or not it got to its last setting.

    Attributes:
        study: As in `study.json`.
        folder: The study folder.
        report: The page, if one was written.
    """

    event: Literal["study"]
    study: Mapping[str, Any]
    folder: str
    report: str | None


Event: TypeAlias = Start | Compile | RoundRecord | End | SettingStart | StudyEnd
Sink: TypeAlias = Callable[[Event], None]
