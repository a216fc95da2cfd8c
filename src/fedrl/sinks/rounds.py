"""A sink made of a function of the rounds alone."""

from __future__ import annotations

from collections.abc import Callable

from fedrl.records import Event, RoundRecord, Sink


def on_round(function: Callable[[RoundRecord], None]) -> Sink:
    """Return a sink that calls a function with the record of each round, and with no other event.

    Seeds run in threads of their own; sinks are called by one thread at a time.

    Args:
        function: Function of a record, a line of `records.jsonl`: a dictionary with "method", "seed", "round",
            "return", "measures", ...

    >>> seen = []
    >>> sink = on_round(lambda record: seen.append(record["return"]))
    >>> sink({"event": "compile", "method": "federated"})
    >>> sink({"method": "federated", "seed": 0, "round": 1, "return": 3.0})
    >>> seen
    [3.0]
    """

    def sink(event: Event) -> None:
        if "event" not in event:
            function(event)

    return sink
