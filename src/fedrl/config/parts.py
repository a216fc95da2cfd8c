"""The section `[federation.parts]`: parts of the parameters with their own rule, server optimiser or period.

[federation.parts.critic]        aggregator = "median"
[federation.parts.actor]         every = 5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrl.config import catalogue
from fedrl.config.catalogue import Table
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import COUNT, check_ranges
from fedrl.federation.parts import Part, part

KEYS = ("aggregator", "server_optimizer", "every")


def parts_of(tables: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return the parts that the section describes.

    Raises:
        ConfigError: A key is unknown, or a value is wrong.

    >>> parts_of({"critic": {"aggregator": "median"}, "actor": {"every": 5}})
    (part('critic', aggregator=median()), part('actor', every=5))
    """
    return tuple(_part(name, table) for name, table in tables.items())


def tables_of(parts: Sequence[Part]) -> Table:
    """Return the section of parts, without the rules and optimisers that are the federation's."""
    return {each.of: _table(each) for each in parts}


def _part(name: str, table: Any) -> Part:
    where = f"federation.parts.{name}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}. It needs to be a table with keys such as 'aggregator' or 'every'.")
    for key, value in table.items():
        if key not in KEYS:
            raise ConfigError(f"{where}.{key} is {value!r}, but it is not a key of a part. {nearest(key, KEYS)}")
    every = table.get("every", 1)
    check_ranges({"every": COUNT}, {"every": every}, where)
    rule, optimizer = table.get("aggregator"), table.get("server_optimizer")
    return part(
        name,
        None if rule is None else catalogue.build("aggregator", rule, f"{where}.aggregator"),
        None if optimizer is None else catalogue.build("server_optimizer", optimizer, f"{where}.server_optimizer"),
        every,
    )


def _table(each: Part) -> Table:
    table: Table = {"every": each.every}
    if each.aggregator is not None:
        table["aggregator"] = catalogue.table_of(each.aggregator)
    if each.server_optimizer is not None:
        table["server_optimizer"] = catalogue.table_of(each.server_optimizer)
    return table
