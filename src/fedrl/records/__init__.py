"""The events that a run emits, and the files that it writes.

    Start, then for each method and seed: Compile?, RoundRecord, RejectedEvent?, RoundRecord, ...; finally: End

A `WorkerEvent` may follow each record. A study emits a `SettingStart` before each of its runs, and a `StudyEnd` at its
end.

A `Sink` is a function of one event. A `RoundRecord` has no `event` key: it is also a line of `records.jsonl`. A
`Summary` is `summary.json`. Missing numbers, such as the return of a round in which no episode ended, are None (null in
the files).
"""

from fedrl.records.rounds import Communication, EnvironmentFailureRecord, RoundRecord, UpdateDissimilarity
from fedrl.records.stream import (
    METHODS,
    WITHOUT_ROUNDS,
    Compile,
    End,
    Event,
    RejectedEvent,
    SettingStart,
    Sink,
    Start,
    StudyEnd,
    WorkerEvent,
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
    "Range",
    "RejectedAgent",
    "RejectedEvent",
    "RejectedUpdates",
    "RoundRecord",
    "RunWarning",
    "Seeded",
    "SettingStart",
    "Sink",
    "Start",
    "StudyEnd",
    "Summary",
    "UpdateDissimilarity",
    "VirtualTime",
    "WorkerEvent",
]
