"""Memory that the C library keeps after use."""

from __future__ import annotations

import contextlib
import ctypes

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def use_one_arena() -> None:
    """Let all threads of this process allocate from the same arena, if the C library is glibc.

    Otherwise each thread keeps what it has freed for itself. At a coordinator, where updates of several megabytes pass
    from thread to thread, that is hundreds of megabytes. Call it before threads begin.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
