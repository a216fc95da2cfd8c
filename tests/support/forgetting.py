"""A plugin of pytest: after the last test of a file, JAX forgets what it has compiled, and the memory goes back.

Without it a worker keeps each program of each test, which were 6 GB after a third of the tests. A program that another
file compiles as well is read from the cache on the disk.
"""

from __future__ import annotations

import ctypes
import gc
import sys

import pytest


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        forget()


def forget() -> None:
    """Forget all programs, and give their memory back to the system."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed
