"""The command line: one file per command; each imports what it needs when it is called, so that --help is instant.

Exit codes: 0 done; 1 a setting of a study failed, or the self-test did; 2 the input is wrong: a configuration, an
option, or a folder that is missing, damaged, in use or can't be written to; 130 interrupted, with a complete folder.
"""

from __future__ import annotations

import sys

from fedrl.cli.app import app
from fedrl.cli.resuming import FAILED, INTERRUPTED
from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError

WRONG_INPUT = 2


def main() -> None:
    """Run the command line; an error of fedrl's is one clear message, without a traceback."""
    try:
        app(prog_name="fedrl")
    except FedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, ConfigError | UnsoundError | RunError) else FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


__all__ = ["app", "main"]
