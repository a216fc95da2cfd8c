"""Run one setting of a study, here or in a worker process, and tell its events with its number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from traceback import format_exception
from typing import Any, NamedTuple, cast

from fedrl.config import Config
from fedrl.core.errors import FedrlError
from fedrl.records import Event, Sink
from fedrl.records.folder import CONFIG
from fedrl.runs.run import resume, run
from fedrl.runs.session import reason_of
from fedrl.studies.programs import counted


class SettingOutcome(NamedTuple):
    """What a setting leaves beside its run folder. It crosses processes, so an error is text.

    Attributes:
        number: Number of the setting.
        programs: How often each program was compiled for it.
        reason: The error that ended it, in a sentence; None if it has finished or was interrupted.
        traceback: The traceback of an error that is not one of fedrl's own; else "".
    """

    number: int
    programs: Mapping[str, int]
    reason: str | None = None
    traceback: str = ""


def run_setting(
    number: int,
    config: Callable[[], Config | Mapping[str, Any]],
    path: Path,
    sinks: Sequence[Sink],
    stop: threading.Event,
    trust: bool,
) -> SettingOutcome:
    """Run or resume a setting.

    Args:
        number: Number of the setting.
        config: Function that returns its configuration.
        path: Its run folder, which may exist.
        sinks: Functions that are called with each event.
        stop: An event that ends the run after its round.
        trust: Whether to import components of one's own that an existing folder names.
    """
    told = [_numbered(sink, number) for sink in sinks]
    with counted() as programs:
        try:
            if (path / CONFIG).exists():
                resume(path, sinks=told, stop=stop, verbose=0, trust=trust)
            else:
                run(config(), path, sinks=told, stop=stop, verbose=0)
        except Exception as fault:  # one setting must not end the study
            # The reason is one sentence; for a bug of fedrl, its report needs the traceback, too.
            own = isinstance(fault, FedrlError)
            lines = "" if own else "".join(format_exception(fault))
            return SettingOutcome(number, dict(programs), reason_of(fault), lines)
    return SettingOutcome(number, dict(programs))


def _numbered(sink: Sink, number: int) -> Sink:
    def tell(event: Event) -> None:
        sink(cast(Event, {**event, "setting": number}))

    return tell
