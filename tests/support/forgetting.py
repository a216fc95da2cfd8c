"""A plugin of pytest: after the last test of a file in which a process has become large, JAX forgets its programs.

Without it a worker keeps each program of each test, which were 6 GB after a third of the tests. What other files need
as well is compiled again, or read from the cache on the disk, so it is not done for each file.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path

import pytest

LARGE_BYTES = 2_500_000_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path and held_bytes() > LARGE_BYTES:
        forget()


def held_bytes() -> int:
    """Return the memory of this process, as Linux says it; 0 on other systems."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else 0


def forget() -> None:
    """Forget all programs, and give their memory back to the system."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed
