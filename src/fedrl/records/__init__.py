"""What a run tells whoever listens: a stream of events, and what is written down of it.

    Start, then for each method and seed: Compile?, RoundRecord, Refused?, RoundRecord, ...; at last: End

A study tells a `SettingStart` before each of its runs, and in the end `StudyEnd`.

A listener is a `Sink`, a function of one event. A `RoundRecord` has no `event` key: it is also a line of
`records.jsonl`. A `Summary` is `summary.json`. Numbers that do not exist, such as the return of a round in which no
episode ended, are None (null in the files).
"""

from fedrl.records.rounds import Exchange, RoundRecord, UpdateSpread
from fedrl.records.stream import (
    AFTERWARDS,
    METHODS,
    Compile,
    End,
    Event,
    Refused,
    SettingStart,
    Sink,
    Start,
    StudyEnd,
)
from fedrl.records.summary import (
    AgentResult,
    Alarm,
    Compared,
    Consensus,
    Heterogeneity,
    Hierarchy,
    Hurt,
    LeftOut,
    Level,
    MeasureResult,
    Range,
    RefusedAgent,
    RefusedUpdates,
    Seeded,
    Summary,
    VirtualTime,
)

__all__ = [
    "AFTERWARDS",
    "METHODS",
    "AgentResult",
    "Alarm",
    "Compared",
    "Compile",
    "Consensus",
    "End",
    "Event",
    "Exchange",
    "Heterogeneity",
    "Hierarchy",
    "Hurt",
    "LeftOut",
    "Level",
    "MeasureResult",
    "Range",
    "Refused",
    "RefusedAgent",
    "RefusedUpdates",
    "RoundRecord",
    "Seeded",
    "SettingStart",
    "Sink",
    "Start",
    "StudyEnd",
    "Summary",
    "UpdateSpread",
    "VirtualTime",
]
