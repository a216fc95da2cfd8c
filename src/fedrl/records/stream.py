"""The events themselves, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict

from fedrl.records.rounds import RoundRecord
from fedrl.records.summary import Summary

METHODS: Final = ("federated", "independent", "centralised", "average_once", "fine_tuned", "mixture")
"""The methods of a run: the federation itself, then what it is compared with."""

WITHOUT_ROUNDS: Final = ("average_once", "fine_tuned", "mixture")
"""Those that take no rounds: they go on from what another one ended with."""


class Start(TypedDict):
    """A run begins.

    Attributes:
        name: Of the experiment.
        rounds: In each seed of each method.
        seeds: The seeds themselves.
        methods: In the order in which they run, each one of `METHODS`.
        agents: How many.
        environment_steps_per_round: Of all agents together.
        measures: What is measured in every round, by name, with its unit.
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
    """Agents were refused twice in a row, told once of an agent in a seed of a method.

    Attributes:
        method: One of `METHODS`.
        seed: Of the run.
        round: The last one.
        agents: Which.
        reason: Of their last refusal.
    """

    event: Literal["rejected"]
    method: str
    seed: int
    round: int
    agents: list[int]
    reason: str


class End(TypedDict):
    """A run is over, whether or not it got to its last round.

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
        signal: The number of the signal that ended it early; left out if none did.
    """

    event: Literal["study"]
    study: Mapping[str, Any]
    folder: str
    report: str | None
    signal: NotRequired[int]


Event: TypeAlias = Start | Compile | RoundRecord | RejectedEvent | End | SettingStart | StudyEnd
Sink: TypeAlias = Callable[[Event], None]
