"""The one order of arguments, `key, ..., state, value`, and what in a component does not keep to it."""

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

RANDOM, READ, STATE, VALUE = range(4)
"""What a parameter is, in the order in which functions take them."""
ROLES = {
    RANDOM: {"key", "noise", "rng"},
    READ: {
        *("params", "env_params", "context", "view", "arrivals", "broadcast"),
        *("agents", "ids", "number", "selected", "left", "steps", "start", "message"),
    },
    STATE: {"state", "server_state", "agent_state", "memory"},
    VALUE: {"action", "update", "updates", "experience", "reports", "sizes", "trained", "total", "value", "present"},
}
ORDERS: dict[str, dict[str, str]] = {
    "Environment": {
        "reset": "noise params",
        "step": "noise params state action",
        "attend": "params state present",
    },
    "Learner": {
        "init": "key env_params",
        "collect": "key state",
        "learn": "key state experience context",
        "gradient": "key state experience context",
    },
    "Stage": {
        "init": "params",
        "correction": "server_state agent_state",
        "encode": "key context server_state agent_state update",
        "decode": "server_state update",
        "finish": "key server_state update",
    },
    "Aggregator": {"init": "params", "weigh": "update", "update": "key view arrivals state updates"},
    "Selection": {"init": "agents", "choose": "rng ids number state", "observe": "arrivals state reports"},
    "LocalSteps": {"init": "agents", "plan": "agents number state", "observe": "arrivals state reports"},
    "UploadBudget": {
        "init": "agents",
        "select": "rng ids left state reports sizes",
        "observe": "ids selected state reports",
    },
    "Rule": {
        "init": "params",
        "send": "steps start memory trained",
        "receive": "message memory total",
        "correction": "memory",
    },
}
"""The parameters of the functions of each record. `learn` and `gradient` take their context last."""
ALSO = {"experience": {"seen", "raw"}, "params": {"value"}, "state": {"timed"}}
"""Other names under which a parameter may go."""


def misplaced(record: Any) -> list[str]:
    """The functions of a component, and of those it is made of, whose parameters are not in the order of `ORDERS`."""
    found = []
    for owner in {id(x): x for x in _records(record, set())}.values():
        kind = type(owner).__name__
        for name, order in ORDERS[kind].items():
            function = getattr(owner, name)
            if function is None:
                continue
            taken, expected = list(inspect.signature(function).parameters), order.split()
            right = [a if a in ALSO.get(b, ()) else b for a, b in zip(taken, expected, strict=False)]
            if taken != right or len(taken) != len(expected):
                found.append(f"{kind}.{name}({', '.join(taken)}), not ({', '.join(expected)})")
    return found


def _records(value: Any, seen: set[int]) -> Iterator[Any]:
    """The records in a value: itself, those in its fields, and those that its functions hold on to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ in ORDERS:
            yield value
        for field in fields(value):
            yield from _records(getattr(value, field.name), seen)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _records(item, seen)
    elif inspect.isfunction(value):
        for cell in value.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not assigned
                continue
            yield from _records(inside, seen)
