"""How many programs were compiled, by name: what a study saves can be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what this process compiles inside the `with`; a program read from the cache on disk counts, too.

    >>> with counted() as programs:
    ...     _ = jax.jit(lambda x: x + 1).lower(1.0).compile()
    >>> programs["<lambda>"]
    1
    """
    programs: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == COMPILED:
            programs[str(kwargs.get("fun_name", "")).removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
