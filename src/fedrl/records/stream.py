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
        real_time: True if the agents are at other sites and time is real; else absent.
        epsilon: The privacy budget of each seed of the federated method; absent without one.
        setting: In a study, the number of the setting.
    """

    event: Literal["start"]
    name: str
    rounds: int
    seeds: list[int]
    methods: list[str]
    agents: int
    environment_steps_per_round: int
    measures: NotRequired[dict[str, str]]
    real_time: NotRequired[bool]
    epsilon: NotRequired[float]
    setting: NotRequired[int]


class Compile(TypedDict):
    """The program of a method is about to be compiled, so its next round takes longer.

    Attributes:
        method: One of `METHODS`.
        setting: In a study, the number of the setting.
    """

    event: Literal["compile"]
    method: str
    setting: NotRequired[int]


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
        setting: In a study, the number of the setting.
    """

    event: Literal["rejected"]
    method: str
    seed: int
    round: int
    agents: list[int]
    reason: str
    handled: NotRequired[str]
    traceback: NotRequired[str]
    setting: NotRequired[int]


class End(TypedDict):
    """A run has ended, whether or not it reached its last round.

    Attributes:
        summary: As in `summary.json`.
        folder: The run folder.
        report: The page, if one was written.
        signal: The number of the signal that ended it early; left out if none did.
        setting: In a study, the number of the setting.
    """

    event: Literal["end"]
    summary: Summary
    folder: str
    report: str | None
    signal: NotRequired[int]
    setting: NotRequired[int]


class SettingStart(TypedDict):
    """A study starts or resumes a setting; the events of its run follow, each with the number of the setting.

    Attributes:
        number: Number of the setting, from 1.
        of: Number of settings.
        label: Its values in the grid, in words.
        at_once: How many settings run at a time, so that events of others come in between; absent for one.
    """

    event: Literal["setting"]
    number: int
    of: int
    label: str
    at_once: NotRequired[int]


class SettingEnd(TypedDict):
    """A setting of a study has ended, and its result is in `study.json`.

    Attributes:
        number: Number of the setting, from 1.
        state: "finished", "interrupted" or "failed".
        reason: The error of a setting that failed.
    """

    event: Literal["setting-end"]
    number: int
    state: str
    reason: NotRequired[str]


class Notice(TypedDict):
    """Something went wrong in a run or a study, which goes on: a worker process ended, or did not start.

    Attributes:
        text: What, in a sentence or two.
    """

    event: Literal["notice"]
    text: str


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


Event: TypeAlias = Start | Compile | RoundRecord | RejectedEvent | End | SettingStart | SettingEnd | Notice | StudyEnd
Sink: TypeAlias = Callable[[Event], None]
