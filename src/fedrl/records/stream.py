"""The events of runs and studies, in the order in which they are emitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict

from fedrl.records.rounds import RoundRecord
from fedrl.records.summary import Summary

METHODS: Final = ("federated", "independent", "centralised", "average_once", "fine_tuned", "mixture")
"""The methods of a run: the federation itself, then its baselines."""

WITHOUT_ROUNDS: Final = ("average_once", "fine_tuned", "mixture")
"""Methods without rounds of their own: they start from the final state of another method."""


class Start(TypedDict):
    """A run begins.

    Attributes:
        name: Name of the experiment.
        rounds: Number of rounds in each seed of each method.
        seeds: The seeds themselves.
        methods: In the order in which they run, each one of `METHODS`.
        agents: Number of agents.
        environment_steps_per_round: Environment steps of all agents together.
        measures: Units of the measures of every round, by name.
    """

    event: Literal["start"]
    name: str
    rounds: int
    seeds: list[int]
    methods: list[str]
    agents: int
    environment_steps_per_round: int
    measures: NotRequired[dict[str, str]]


class Compile(TypedDict):
    """The program of a method is about to be compiled, so its next round takes longer."""

    event: Literal["compile"]
    method: str


class RejectedEvent(TypedDict):
    """Agents were rejected twice in a row, or an environment failed; emitted once for an agent in a seed of a method.

    Attributes:
        method: One of `METHODS`.
        seed: Seed of the run.
        round: Number of the last round.
        agents: The rejected agents.
        reason: Reason of their last rejection.
        handled: What was done after a failure of an environment; absent otherwise.
        traceback: The traceback of such a failure in the user's own code.
    """

    event: Literal["rejected"]
    method: str
    seed: int
    round: int
    agents: list[int]
    reason: str
    handled: NotRequired[str]
    traceback: NotRequired[str]


class WorkerEvent(TypedDict):
    """A worker process ended and was started again; its agents continued from the last merge.

    Attributes:
        method: One of `METHODS`.
        seed: Seed of the run.
        round: Number of the round.
        worker: Number of the worker.
        host: Name of its machine.
        agents: Number of its agents.
        reason: What is known of its end.
    """

    event: Literal["worker"]
    method: str
    seed: int
    round: int
    worker: int
    host: str
    agents: int
    reason: str


class End(TypedDict):
    """A run has ended, whether or not it reached its last round.

    Attributes:
        summary: As in `summary.json`.
        folder: The run folder.
        report: The page, if one was written.
        signal: The number of the signal that ended it early; left out if none did.
    """

    event: Literal["end"]
    summary: Summary
    folder: str
    report: str | None
    signal: NotRequired[int]


class SettingStart(TypedDict):
    """A study starts or resumes a setting; the events of its run follow.

    Attributes:
        number: Number of the setting, from 1.
        of: Number of settings.
        label: Its values in the grid, in words.
    """

    event: Literal["setting"]
    number: int
    of: int
    label: str


class StudyEnd(TypedDict):
    """A study has ended, whether or not it reached its last setting.

    Attributes:
        study: As in `study.json`.
        folder: The study folder.
        report: The page, if one was written.
        signal: The number of the signal that ended it early; left out if none did.
    """

    event: Literal["study"]
    study: Mapping[str, Any]
    folder: str
    report: str | None
    signal: NotRequired[int]


Event: TypeAlias = Start | Compile | RoundRecord | RejectedEvent | WorkerEvent | End | SettingStart | StudyEnd
Sink: TypeAlias = Callable[[Event], None]
