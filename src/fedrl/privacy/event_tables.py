"""Write the events of `dp_accounting` as plain tables, so that a ledger on disk can be priced by anybody.

PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)) <--> {"kind": "PoissonSampledDpEvent", ...}
"""

from __future__ import annotations

from typing import Any

from fedrl.core.errors import ConfigError
from fedrl.privacy.extra import accounting
from fedrl.privacy.skellam import skellam_event

KIND, ENDING = "kind", "DpEvent"
OWN = {"SkellamDpEvent": skellam_event}
"""Events that `dp_accounting` does not have."""


def table_of_event(event: Any) -> dict[str, Any]:
    """Return an event as a table of plain values.

    >>> table_of_event(accounting().GaussianDpEvent(2.0))
    {'kind': 'GaussianDpEvent', 'noise_multiplier': 2.0}
    """
    values = {field.name: getattr(event, field.name) for field in type(event).__attrs_attrs__}
    return {KIND: type(event).__name__} | {name: _plain(value) for name, value in values.items()}


def event_of_table(table: dict[str, Any]) -> Any:
    """Return the event of a table.

    Raises:
        ConfigError: There is no such event, or it takes other values.
    """
    kind = str(table.get(KIND))
    made = OWN.get(kind) or (getattr(accounting(), kind, None) if kind.endswith(ENDING) else None)
    try:
        return made(**{name: _event(value) for name, value in table.items() if name != KIND})  # type: ignore[misc]
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"{table} is no event of dp_accounting ({fault}). Restore it.") from fault


def _plain(value: Any) -> Any:
    if hasattr(type(value), "__attrs_attrs__"):
        return table_of_event(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _event(value: Any) -> Any:
    if isinstance(value, dict):
        return event_of_table(value)
    return [_event(item) for item in value] if isinstance(value, list) else value
