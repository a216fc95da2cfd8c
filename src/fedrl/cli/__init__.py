"""The command line: one file per command; each imports what it needs when it is called, so that --help is instant.

Exit codes: 0 done; 1 a run folder is missing or broken, or the self-test failed; 2 the input is wrong;
130 interrupted, with a complete run folder.
"""

from __future__ import annotations

import sys

from fedrl.cli.app import app
from fedrl.cli.resuming import INTERRUPTED
from fedrl.core.errors import ConfigError, FedrlError, UnsoundError

WRONG_INPUT, FAILED = 2, 1


def main() -> None:
    """Run the command line; an error of fedrl's is one clear message, without a traceback."""
    try:
        app(prog_name="fedrl")
    except FedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, ConfigError | UnsoundError) else FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


__all__ = ["app", "main"]
