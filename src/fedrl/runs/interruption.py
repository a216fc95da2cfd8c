"""Ctrl-C and SIGTERM as requests to stop: a run completes its round and writes its folder before it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signalled:
    """The number of the last signal that was received; None before the first."""

    signal: int | None = None


@dataclass(frozen=True)
class _Request:
    """What a handler of signals sets."""

    stop: threading.Event
    heard: Signalled


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[Signalled]:
    """Inside the `with`, let the first Ctrl-C or SIGTERM set `stop`; a second one has its usual effect.

    One inside another with the same `stop`, as that of a run in a study, changes nothing. Outside the main thread
    Python delivers no signals, so nothing is changed either.
    """
    outer = getattr(signal.getsignal(signal.SIGINT), "request", None)
    if isinstance(outer, _Request) and outer.stop is stop:
        yield outer.heard
        return
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
        # Restoring the old handlers lets the user end a round that hangs, with either signal.
        heard.signal = number
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    first.request = _Request(stop, heard)  # type: ignore[attr-defined]  # found by one inside this one
    for number in before:
        signal.signal(number, first)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
