"""Keep standard output for JSON: whatever else is printed there goes to standard error.

Environments print, in Python and in C, and so do libraries. Neither may spoil the output of `--json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def only_json(asked: bool) -> Iterator[None]:
    """Send what is printed to standard error while the context is open, if `asked`."""
    if not asked:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).fflush(None)  # C has a buffer of its own, which would be written after this
        os.dup2(kept, 1)
        os.close(kept)
