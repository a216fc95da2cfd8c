"""The events that a run emits, and the files that it writes.

    Start, then for each method and seed: Compile?, RoundRecord, RejectedEvent?, RoundRecord, ...; finally: End

A study emits a `SettingStart` before each of its runs, a `SettingEnd` after it, and a `StudyEnd` at its end. Events of
its runs have the number of their `setting`; a `Notice` tells of a worker
process that was lost.

A `Sink` is a function of one event. A `RoundRecord` has no `event` key: it is also a line of `records.jsonl`. A
`Summary` is `summary.json`. Missing numbers, such as the return of a round in which no episode ended, are None (null in
the files).
"""

from fedrl.records.privacy import AgentEpsilon, PrivacyOfRound, PrivacyResult
from fedrl.records.rounds import (
    Communication,
    EnvironmentFailureRecord,
    RoundRecord,
    UpdateDissimilarity,
)
from fedrl.records.stream import (
    METHODS,
    WITHOUT_ROUNDS,
    Compile,
    End,
    Event,
    Notice,
    RejectedEvent,
    SettingEnd,
    SettingStart,
    Sink,
    Start,
    StudyEnd,
)
from fedrl.records.summary import (
    AgentResult,
    Compared,
    Consensus,
    Ended,
    FilmResult,
    Heterogeneity,
    HierarchyCost,
    LeftOut,
    Level,
    MeasureResult,
    NegativeTransfer,
    Range,
    RejectedAgent,
    RejectedUpdates,
    RunWarning,
    Seeded,
    Summary,
    VirtualTime,
)

__all__ = [
    "METHODS",
    "WITHOUT_ROUNDS",
    "AgentEpsilon",
    "AgentResult",
    "Communication",
    "Compared",
    "Compile",
    "Consensus",
    "End",
    "Ended",
    "EnvironmentFailureRecord",
    "Event",
    "FilmResult",
    "Heterogeneity",
    "HierarchyCost",
    "LeftOut",
    "Level",
    "MeasureResult",
    "NegativeTransfer",
    "Notice",
    "PrivacyOfRound",
    "PrivacyResult",
    "Range",
    "RejectedAgent",
    "RejectedEvent",
    "RejectedUpdates",
    "RoundRecord",
    "RunWarning",
    "Seeded",
    "SettingEnd",
    "SettingStart",
    "Sink",
    "Start",
    "StudyEnd",
    "Summary",
    "UpdateDissimilarity",
    "VirtualTime",
]
