"""Counts of compiled programs by name, which show how many programs the settings of a study share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the programs that this process compiles inside the `with`, or reads from the cache on disk.

    >>> with counted() as programs:
    ...     _ = jax.jit(lambda x: x + 1).lower(1.0).compile()
    >>> programs["<lambda>"]
    1
    """
    programs: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        # The listener also receives events about tracing and lowering.
        if event == COMPILED:
            programs[str(kwargs.get("fun_name", "")).removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
