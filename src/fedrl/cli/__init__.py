"""The command line: one file per command; each imports its dependencies when it is called, so that --help is instant.

Exit codes: 0 completed; 1 a setting of a study or the self-test failed, or fedrl has a bug; 2 the input is wrong: a
configuration, an option, or a folder that is missing, damaged, in use or not writable; 3 in a seed, the federation
never merged an update or ended before its last round, or no number of agents keeps a limit, or an audit refutes a
claim or has no power to; 130 interrupted and 143
terminated, during a run whose folder can be resumed, or with nothing begun. docs/exit-codes.md has them for
users.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from fedrl.cli.app import app
from fedrl.cli.resuming import FAILED, INTERRUPTED, TERMINATED
from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError
from fedrl.core.pipes import keep_printing, unwritten

WRONG_INPUT = 2


def main() -> None:
    """Run the command line; print an error of fedrl as one message without a traceback."""
    keep_printing()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a path may hold any bytes
    # Outside of a run, SIGTERM unwinds the command as Ctrl-C does, so that no folder or worker process is left behind.
    signal.signal(signal.SIGTERM, _terminate)
    code = _code()
    for name, fault in unwritten().items():
        print(f"error: {name} can't be written to ({fault.strerror}), so a part of it is missing.", file=sys.stderr)
        code = code or FAILED
    if code in (INTERRUPTED, TERMINATED) and _at_work():
        # After a second signal, a round that hangs would be waited for.
        unwritten()
        os._exit(code)
    sys.exit(code)


def _code() -> int:
    """Run the command, and return its exit code."""
    try:
        app(prog_name="fedrl")
    except FedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT if isinstance(error, ConfigError | UnsoundError | RunError) else FAILED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(TERMINATED)


def _at_work() -> bool:
    """Whether a thread of this process is still running, for which the interpreter would wait."""
    main_thread = threading.main_thread()
    return any(not thread.daemon for thread in threading.enumerate() if thread is not main_thread)


__all__ = [
    "FAILED",
    "INTERRUPTED",
    "TERMINATED",
    "ConfigError",
    "FedrlError",
    "RunError",
    "UnsoundError",
    "app",
]
