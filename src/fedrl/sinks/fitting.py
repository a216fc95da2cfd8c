"""Tables of the terminal: of several forms of a table, the first that fits the width is shown.

    as it is -> fewer columns -> rows and columns swapped -> in parts, or a block for each row

A form fits if none of its numbers and names has to be broken. No form leaves out a column that isn't optional, and
those that leave out an optional one say so. Only a word that is longer than the terminal is wide is broken.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

GAP = 2
"""Blanks between two columns."""
FREE = Console(file=io.StringIO(), width=1_000_000)
"""What is measured is measured here: on a narrow console every measured width is at most that of the console."""


def printable(text: str, style: str = "") -> Text:
    """Return text from a configuration without markup and control characters, which could rewrite the terminal."""
    return Text("".join(c if c.isprintable() else "?" for c in text), style=style)


def write(console: Console, item: RenderableType) -> None:
    """Write an item, on a terminal wrapped at spaces, elsewhere in whole lines, as `grep` needs them."""
    console.print(item, soft_wrap=not console.is_terminal)


def _measured(item: RenderableType) -> Measurement:
    """Return the width of an item where it is wrapped at every space, and where it is not wrapped."""
    return Measurement.get(FREE, FREE.options, item)


@dataclass(frozen=True)
class FirstFitting:
    """Shows the first of its forms that fits the width, and the last if none does.

    Attributes:
        forms: The same content in several forms, from wide to narrow.
    """

    forms: Sequence[RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        room = FREE.width if options.no_wrap else options.max_width
        yield next((form for form in self.forms if _measured(form).minimum <= room), self.forms[-1])


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        cells: A cell for each row.
        wraps: Whether title and cells may be wrapped at spaces; otherwise they are on one line.
        optional: Whether it may be left out where it is narrow.
        justify: Where cells are in the column.
        style: Style of the cells.
    """

    title: str
    cells: Sequence[RenderableType]
    wraps: bool = False
    optional: bool = False
    justify: JustifyMethod = "right"
    style: str = ""

    @cached_property
    def widths(self) -> tuple[int, int]:
        """The width that it needs, and the width that it can use."""
        each = [_measured(cell) for cell in (printable(self.title), *self.cells)]
        widest = max(found.maximum for found in each)
        return max(found.minimum for found in each) if self.wraps else widest, widest


@dataclass(frozen=True)
class ColumnTable:
    """A table whose width is exactly what its columns need, where there is not room for more.

    Rich itself reduces the widest column first, also below its longest word.

    Attributes:
        columns: The columns, all with as many cells.
        section: The row with a blank line before it, if any.
        titled: Whether the titles are shown.
    """

    columns: Sequence[Column]
    section: int | None = None
    titled: bool = True

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        least, most = zip(*(column.widths for column in self.columns), strict=True)
        gaps = GAP * (len(self.columns) - 1)
        return Measurement(sum(least) + gaps, sum(most) + gaps)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        room = options.max_width - GAP * (len(self.columns) - 1)
        widths = _shared_out([column.widths for column in self.columns], room)
        table = Table(
            box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, show_header=self.titled,
            padding=(0, GAP - 1),
        )  # fmt: skip
        for column, width in zip(self.columns, widths, strict=True):
            table.add_column(
                printable(column.title), justify=column.justify, style=column.style, width=width,
                no_wrap=not column.wraps, overflow="fold",
            )  # fmt: skip
        for i, row in enumerate(zip(*(column.cells for column in self.columns), strict=True)):
            if i == self.section:
                table.add_section()
            table.add_row(*row)
        yield table


def _shared_out(widths: Sequence[tuple[int, int]], room: int) -> list[int]:
    """Return widths between what columns need and what they can use, the widest columns reduced first.

    >>> _shared_out([(5, 5), (4, 40), (6, 10)], 30), _shared_out([(5, 5), (4, 40), (6, 10)], 21)
    ([5, 15, 10], [5, 8, 8])
    """
    for cap in range(max(most for _, most in widths), 0, -1):
        found = [max(least, min(most, cap)) for least, most in widths]
        if sum(found) <= room:
            return found
    return [least for least, _ in widths]


@dataclass(frozen=True)
class Hanging:
    """Text behind a head: where it is wrapped, its further lines begin below its first.

    Attributes:
        head: What stands before the text on its first line.
        text: The text.
    """

    head: Text
    text: Text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(*(self.head.cell_len + width for width in _measured(self.text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        room = FREE.width if options.no_wrap else max(options.max_width - self.head.cell_len, 1)
        first, *others = self.text.wrap(console, room, overflow="fold") or [Text()]
        for head, line in [(self.head, first), *((Text(" " * self.head.cell_len), line) for line in others)]:
            whole = Text.assemble(head, line)
            whole.rstrip()
            yield whole


def name_values(pairs: Sequence[tuple[str, Text]], width: int = 0, indent: int = 0) -> RenderableType:
    """Return a list of names and values: each value beside its name, or below it where there is no room beside it.

    Args:
        pairs: Each name with its value.
        width: Width of the longest name, if it is not among these.
        indent: Blanks before each line.
    """
    blanks = Text(" " * indent)
    width = max([width, *(cell_len(name) for name, _ in pairs)])
    lines: list[RenderableType] = []
    for name, value in ((printable(name), value) for name, value in pairs):
        beside = Hanging(Text.assemble(blanks, name, " " * (width + GAP - name.cell_len)), value)
        below = [Hanging(Text.assemble(blanks, "  "), value)] if value.plain else []
        lines.append(FirstFitting([beside, Group(Hanging(blanks, name), *below)]))
    return Group(*lines)


def path_line(what: str, path: str) -> RenderableType:
    """Return a line with a path, or two; the path is never broken, so that it can be copied. Print it uncropped."""
    label = Text(f"  {what:<12}", style="dim")
    beside = [Column("", [label]), Column("", [printable(path)])]
    below = printable(path)
    below.no_wrap, below.overflow = True, "ignore"
    return FirstFitting([ColumnTable(beside, titled=False), Group(label, below)])


def print_paths(console: Console, **paths: str | None) -> None:
    """Print a line for each path that there is, so that it can be copied."""
    for what, path in paths.items():
        if path:
            console.print(path_line(what.replace("_", " "), path), crop=False)


def table_of_rows(columns: Sequence[Column], headings: Sequence[Text], where: str) -> RenderableType:
    """Return a table in the first of all its forms that fits, and a blank line.

    Args:
        columns: The columns; the first has the names of the rows.
        headings: A heading for each row, for the form with a block for each.
        where: The file that has the columns for which there is no room.
    """
    forms = [*fewer_columns(columns, None, where), swapped(columns), in_blocks(headings, columns[1:])]
    return Group(FirstFitting(forms), Text())


def fewer_columns(columns: Sequence[Column], section: int | None, where: str) -> Iterator[RenderableType]:
    """Yield the table as it is, then without one optional column more in each form, the last one first.

    Args:
        columns: The columns; the first has the names of the rows.
        section: The row with a blank line before it, if any.
        where: The file that has what is left out.
    """
    optional = [i for i, column in enumerate(columns) if column.optional]
    yield ColumnTable(columns, section)
    for first in range(len(optional) - 1, -1, -1):
        kept = [column for i, column in enumerate(columns) if i not in optional[first:]]
        left_out = [columns[i].title for i in optional[first:]]
        yield Group(ColumnTable(kept, section), _more(left_out, where))


def swapped(columns: Sequence[Column]) -> ColumnTable:
    """Return the table with its rows as columns. The first column has the names of the rows."""
    names, *others = columns
    heads = Column(names.title, [printable(column.title) for column in others], justify="left")
    rows = [
        Column(name.plain if isinstance(name, Text) else str(name), [column.cells[i] for column in others])
        for i, name in enumerate(names.cells)
    ]
    return ColumnTable([heads, *rows])


def in_parts(columns: Sequence[Column], section: int | None, where: str) -> Iterator[RenderableType]:
    """Yield the table in two parts, three, and so on to one for each column, one below the other, each with all rows.

    Args:
        columns: The columns; the first has the names of the rows, and optional ones are left out.
        section: The row with a blank line before it, if any.
        where: The file that has what is left out.
    """
    names, *others = [column for column in columns if not column.optional]
    left_out = [column.title for column in columns if column.optional]
    notes = [_more(left_out, where)] if left_out else []
    sizes = dict.fromkeys(-(-len(others) // parts) for parts in range(2, len(others) + 1))
    for size in sizes:
        yield Group(*_parts(names, others, size, section), *notes)
    # For names that are wider than the terminal: between their words.
    narrow = [replace(column, wraps=True) for column in (names, *others)]
    yield Group(*_parts(narrow[0], narrow[1:], 1, section), *notes)


def in_blocks(headings: Sequence[Text], columns: Sequence[Column]) -> RenderableType:
    """Return the form with a block for each row: a heading, then the titles of the columns with their cells.

    Args:
        headings: A heading for each row, in place of the column with the names of the rows.
        columns: The other columns. Their cells are text; an empty one is left out.
    """
    width = max(cell_len(column.title) for column in columns)
    blocks: list[RenderableType] = []
    for i, heading in enumerate(headings):
        cells = [(column.title, column.cells[i]) for column in columns]
        pairs = [(title, cell) for title, cell in cells if isinstance(cell, Text) and cell.plain]
        blocks += [heading, name_values(pairs, width, indent=2)]
    return Group(*blocks)


def _parts(names: Column, others: Sequence[Column], size: int, section: int | None) -> Iterator[RenderableType]:
    for i in range(0, len(others), size):
        if i:
            yield Text()
        yield ColumnTable([names, *others[i : i + size]], section)


def _more(titles: Sequence[str], where: str) -> Text:
    """Return the line about columns that are left out."""
    columns = "column" if len(titles) == 1 else "columns"
    return printable(f"{len(titles)} more {columns} ({', '.join(titles)}): {where}", style="dim")
