"""The command line: one file per command; each imports what it needs when it is called, so that --help is instant.

Exit codes: 0 done; 1 a setting of a study failed, the self-test did, or the fault is fedrl's own; 2 the input is wrong:
a configuration, an option, or a folder that is missing, damaged, in use or can't be written to; 3 a seed of the
federation never merged anything; 130 interrupted and 143 terminated, during a run with a folder that it can go on from.
docs/exit-codes.md has them for users.
"""

from __future__ import annotations

import sys

from fedrl.cli.app import app
from fedrl.cli.resuming import FAILED, INTERRUPTED
from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError

WRONG_INPUT = 2


def main() -> None:
    """Run the command line; an error of fedrl's is one clear message, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a path may hold any bytes
    try:
        app(prog_name="fedrl")
    except FedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, ConfigError | UnsoundError | RunError) else FAILED)
    except KeyboardInterrupt:
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
