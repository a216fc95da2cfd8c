"""What a run tells whoever listens: a stream of events, and what is written down of it.

    Start, then for each method and seed: Compile?, RoundRecord, Refused?, RoundRecord, ...; at last: End

A study tells a `SettingStart` before each of its runs, and in the end `StudyEnd`.

A listener is a `Sink`, a function of one event. A `RoundRecord` has no `event` key: it is also a line of
`records.jsonl`. A `Summary` is `summary.json`. Numbers that do not exist, such as the return of a round in which no
episode ended, are None (null in the files).
"""

from fedrl.records.rounds import Communication, RoundRecord, UpdateDissimilarity
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
)
from fedrl.records.summary import (
    AgentResult,
    Compared,
    Consensus,
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
    "Event",
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
]
