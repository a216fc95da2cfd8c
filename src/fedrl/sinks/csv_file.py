"""A sink that writes the rounds to a CSV file, a line as soon as a round ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrl.records import Event, Sink
from fedrl.records.files import OTHER_FILE, append, write_atomically
from fedrl.records.table import FIRST, line_of, row_of, text_of, with_columns


def csv_file(path: Path | str) -> Sink:
    """Return a sink that writes a table of the rounds to a file: the columns of `RunResult.curves`, rows as they come.

    A file that exists is replaced. In a study, a first column has the number of the setting. If a round has a number
    that no earlier one had, such as that of the first evaluation, the file is written again with a column more.

    Args:
        path: Path of the file.

    Raises:
        RunError: The file can't be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write = csv_file(Path(folder.name) / "rounds.csv")
    >>> write({"method": "federated", "seed": 0, "round": 1, "environment_steps": 64, "seconds": 0.1, "return": 3.0})
    >>> (Path(folder.name) / "rounds.csv").read_text().split()[1]
    'federated,0,1,64,0.1,3.0,,'
    >>> folder.cleanup()
    """
    file = Path(path)
    rows: list[dict[str, Any]] = []
    columns: list[str] = []
    write_atomically(file, b"", OTHER_FILE)  # what can't be written to is refused before anything is trained

    def write(event: Event) -> None:
        if "event" in event:
            return
        setting = {"setting": event["setting"]} if "setting" in event else {}
        row = {**setting, **row_of(event)}
        rows.append(row)
        if set(row) <= set(columns):
            append(file, line_of(row.get(name) for name in columns))
            return
        table = with_columns(rows, (*setting, *FIRST))
        columns[:] = table.columns
        write_atomically(file, text_of(table).encode(), OTHER_FILE)

    return write
