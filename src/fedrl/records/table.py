"""The rounds of a run as a table: a row for each round of each seed of each method, a column for each number.

records.jsonl --table_of--> RoundTable --text_of--> CSV
                                       --frame_of-> a data frame of pandas
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedrl.core.errors import ConfigError
from fedrl.records.files import Records
from fedrl.records.measured import RETURN, values_of
from fedrl.records.stream import METHODS

if TYPE_CHECKING:
    import pandas as pd

NAMES, COUNTS = ("method",), ("seed", "round", "environment_steps", "bytes_up", "bytes_down")
FIRST = ("method", "seed", "round", "environment_steps", "seconds", RETURN)
"""The first columns of every table; the other measures follow, then bytes and the virtual clock."""


class RoundTable(NamedTuple):
    """A table of rounds.

    Attributes:
        columns: The names of the columns, in order.
        rows: A value for some of the columns in each row; a missing value and None mean that nothing was measured.
        notes: Defects of the records from which it was made, a sentence each.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    notes: Sequence[str] = ()


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a round: its numbers by name, as in `records.jsonl`, without those of single agents.

    >>> record = {"method": "federated", "seed": 0, "round": 1, "environment_steps": 64, "seconds": 0.1, "return": 3.0}
    >>> row_of({**record, "loss": 0.5, "bytes_up": 10, "bytes_down": 20, "measures": {"success": 1.0}})["success"]
    1.0
    """
    measured = values_of(record)
    # A measure may have the name of another column; it then gives way, with a name of its own.
    renamed = {f"measure_{name}" if _taken(name) else name: value for name, value in measured.items()}
    row = {name: record.get(name) for name in FIRST} | renamed
    return row | {name: record.get(name) for name in ("bytes_up", "bytes_down", "time_s") if name in record}


def _taken(name: str) -> bool:
    return name != RETURN and name in (*FIRST, "bytes_up", "bytes_down", "time_s")


def table_of(found: Records) -> RoundTable:
    """Return the table of the records of a run, in the order of methods, seeds and rounds."""
    place = {method: i for i, method in enumerate(METHODS)}
    ordered = sorted(
        found.records, key=lambda r: (place.get(r["method"], len(place)), r["method"], r["seed"], r["round"])
    )
    return with_columns([row_of(record) for record in ordered])._replace(notes=found.notes(torn=True))


def with_columns(rows: Sequence[dict[str, Any]], first: Sequence[str] = FIRST) -> RoundTable:
    """Return a table of rows, with every column that a row has."""
    return RoundTable(list(dict.fromkeys((*first, *(name for row in rows for name in row)))), list(rows))


def line_of(values: Iterable[Any]) -> str:
    """Return values as a line of CSV, without the line break; None and NaN are empty.

    >>> line_of(["federated", 0, None, 0.1, "a, b"])
    'federated,0,,0.1,"a, b"'
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow("" if value != value else value for value in values)  # noqa: PLR0124  (NaN is unlike itself)
    return line.getvalue()


def text_of(table: RoundTable) -> str:
    """Return a table as CSV with a line of names; numbers have all their digits."""
    lines = [line_of(table.columns), *(line_of(row.get(name) for name in table.columns) for row in table.rows)]
    return "\n".join(lines) + "\n"


def frame_of(table: RoundTable, names: Sequence[str] = NAMES) -> pd.DataFrame:
    """Return a table as a data frame: counts are integers, measures are floats, NaN where nothing was measured.

    Args:
        table: The table.
        names: Columns whose values stay as they are.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError(
            "curves() returns a data frame of pandas, and pandas is not installed. Run pip install 'fedrl[pandas]', or "
            "write the same table with fedrl export DIR --csv."
        ) from None
    for note in table.notes:
        warnings.warn(note, RuntimeWarning, stacklevel=3)
    counts = {name for name in COUNTS if all(row.get(name) is not None for row in table.rows)}
    kinds = {name: "int64" if name in counts else "float64" for name in table.columns if name not in names}
    return pd.DataFrame(table.rows, columns=table.columns).astype(kinds)
