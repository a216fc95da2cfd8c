"""The command line: one file per command; each imports its dependencies when it is called, so that --help is instant.

Exit codes: 0 completed; 1 a setting of a study or the self-test failed, or fedrl has a bug; 2 the input is wrong: a
configuration, an option, or a folder that is missing, damaged, in use or not writable; 3 in a seed, the federation
never merged an update; 130 interrupted and 143 terminated, during a run whose folder can be resumed. docs/exit-codes.md
documents them for users.
"""

from __future__ import annotations

import sys

from fedrl.cli.app import app
from fedrl.cli.resuming import FAILED, INTERRUPTED
from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError

WRONG_INPUT = 2


def main() -> None:
    """Run the command line; print an error of fedrl as one message without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a path may hold any bytes
    try:
        app(prog_name="fedrl")
    except FedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, ConfigError | UnsoundError | RunError) else FAILED)
    except KeyboardInterrupt:
        # During training a run handles Ctrl-C itself and ends with `leave_interrupted`; here no folder can be resumed.
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


__all__ = [
    "FAILED",
    "INTERRUPTED",
    "ConfigError",
    "FedrlError",
    "RunError",
    "UnsoundError",
    "app",
]
