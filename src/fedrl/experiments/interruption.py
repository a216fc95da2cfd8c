"""Ctrl-C as a request: what goes on is brought to an orderly end, wherever it was when the key was pressed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heeding(stop: threading.Event) -> Iterator[None]:
    """Inside the `with`, the first Ctrl-C sets `stop`; a second one interrupts at once, as it always does.

    Outside the main thread no signal arrives, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def first(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
