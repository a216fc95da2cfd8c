"""Ctrl-C and SIGTERM as requests: what goes on is brought to an orderly end, wherever it was when they came."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signalled:
    """The number of the last signal that was heard, None before there is one."""

    signal: int | None = None


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[Signalled]:
    """Inside the `with`, the first Ctrl-C or SIGTERM sets `stop`; a second one does what it always does.

    Outside the main thread no signal arrives, and nothing changes.
    """
    heard = Signalled()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = {
        signal.SIGINT: signal.getsignal(signal.SIGINT) or signal.default_int_handler,
        signal.SIGTERM: signal.getsignal(signal.SIGTERM) or signal.SIG_DFL,
    }

    def first(number: int, frame: FrameType | None) -> None:
        del frame
        heard.signal = number
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, first)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
