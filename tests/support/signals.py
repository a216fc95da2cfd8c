"""Signals as a user sends them: to the process, whose main thread hears them."""

import os
import signal
import time


def send(number: signal.Signals = signal.SIGINT) -> None:
    """Send a signal to this process, and give its main thread time to hear it.

    A signal that a thread raises itself is heard when the main thread next wakes, which may be after the last round.
    """
    os.kill(os.getpid(), number)
    time.sleep(0.5)
