"""What `verbose` of a Python function means: no display, or that of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from fedrl.core.errors import ConfigError
from fedrl.records import Event, Sink


@contextmanager
def displaying(verbose: int, display: Callable[[], AbstractContextManager[Sink]]) -> Iterator[list[Sink]]:
    """Yield the sinks that show what happens inside the `with`: none, or that of `display`.

    Args:
        verbose: 0 for none, 1 for the display.
        display: Function that opens the display; it is not called without need.

    Raises:
        ConfigError: `verbose` is another value.
    """
    if verbose not in (0, 1):
        raise ConfigError(f"verbose is {verbose!r}, which is not known. Set 0 to show nothing, or 1 to show progress.")
    if not verbose:
        yield []
        return
    with display() as sink:
        yield [_while_read(sink)]


def _while_read(sink: Sink) -> Sink:
    """Return a sink that ends when nobody reads the output any more, as after `| head`; the run goes on."""
    read = True

    def show(event: Event) -> None:
        nonlocal read
        if not read:
            return
        try:
            sink(event)
        except (BrokenPipeError, SystemExit):  # rich raises the latter in place of the former
            read = False

    return show


def run_display() -> AbstractContextManager[Sink]:
    """Open the display of a run; importing rich takes a tenth of a second, which a silent run does not need."""
    from fedrl.sinks.display import progress

    return progress()
