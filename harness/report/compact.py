"""What a run ends with: accuracies by method and ipc that fit the terminal, with a legend of three lines.

All else, costs and intervals above all, is for `report`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from harness.engine.provenance import Lineage
from harness.engine.records import Record
from harness.report.formats import CODE, EM, STRONG, Block, Heading, Paragraph, Table, markdown
from harness.report.reported import load_reported
from harness.report.standing import Scored, scored
from harness.report.tables import CODE_MARKS, accuracy_table, reported_for, varied_table

REPORTED = " reported"  # ends the headers of columns of figures that papers print
STYLES = {STRONG: "bold", EM: "italic", CODE: ""}
NO_RECORDS = "no records yet"
# Three lines at most, each shorter than the 80 columns of a usual terminal.
ACCURACIES = "Test accuracy in %: mean ± std (distillation seeds × networks on each set)."
MARKED = "Bold is the best of its column, italics are not told apart from it."
PRINTED = "Reported figures are the papers', at paper scale with their own settings."
OTHER_CODE = "‡, § are of older or uncommitted code; `python -m harness renew` renews them."
PRINTED_AND_OTHER_CODE = "Reported: the papers' figures. ‡, § are of other code: `harness renew`."


def print_summary(records: Sequence[Record], results: Path, where: Sequence[str]) -> None:
    """Print the tables of these records of a results folder and the lines of `where`.

    As Markdown where no terminal shows it.

    Only the lines of `where` may be longer than a terminal is wide, so that it breaks them and what is copied
    is whole.
    """
    tracks = list(_tracks(records, results))
    notes = legend([table for _, table in tracks]) if tracks else [NO_RECORDS]
    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        print(_as_markdown(tracks, notes), *where, sep="\n")
        return
    for heading, table in tracks:
        console.print(Text(heading, "bold"))
        for part in fitting(table, console):
            console.print(part)
            console.print()
    for line in notes:
        console.print(Text(line, "dim"))
    console.print()
    for line in where:
        console.print(Text(line), soft_wrap=True)


def legend(tables: Sequence[Table]) -> list[str]:
    """One to three lines: of what stands in none of the tables, nothing is said."""
    cells = [cell for table in tables for row in table.rows for cell in row]
    marked = any(mark[0] in cell for cell in cells for mark in (STRONG, EM))
    printed = any(header.endswith(REPORTED) for table in tables for header in table.headers)
    stale = any(mark in cell for cell in cells for mark in CODE_MARKS.values())
    last = {
        (True, False): [PRINTED],
        (False, True): [OTHER_CODE],
        (True, True): [PRINTED_AND_OTHER_CODE],
        (False, False): [],
    }[printed, stale]
    return [ACCURACIES, *([MARKED] if marked else []), *last]


def fitting(table: Table, console: Console) -> Iterator[RichTable]:
    """The table in as many parts as its columns need, one below the other; an ipc's columns stay together.

    Only where a single column is too wide are cells broken.
    """
    width = console.width
    first, *rest = range(len(table.headers))
    units = [list(unit) for _, unit in groupby(rest, lambda k: table.headers[k].removesuffix(REPORTED))]
    if any(_width([first, *unit], table, console) > width for unit in units):
        units = [[column] for column in rest]
    part = [first]
    for unit in units:
        if len(part) > 1 and _width([*part, *unit], table, console) > width:
            yield _rich(table, part)
            part = [first]
        part += unit
    yield _rich(table, part)


def _tracks(records: Sequence[Record], results: Path) -> Iterator[tuple[str, Table]]:
    """Headings and tables of each track: accuracies, and what settings set by hand make of them."""
    reported = load_reported()
    states = Lineage(results).states(record for record in records if record.submission is None)
    for found in scored(records, states):
        heading = found.track.heading
        yield heading, _table(found, accuracy_table(found, reported_for(found.track, reported)))
        if varied := varied_table(found):
            yield f"{heading} · settings set by hand", varied


def _table(found: Scored, whole: Table) -> Table:
    """The table without the row of a ceiling that nobody asked for."""
    ceiling = found.ceiling.done or found.ceiling.missed
    return Table(whole.headers, whole.rows if ceiling else whole.rows[:-1], whole.text_columns)


def _as_markdown(tracks: Sequence[tuple[str, Table]], notes: Sequence[str]) -> str:
    blocks: list[Block] = []
    for heading, table in tracks:
        blocks += [Heading(heading, 2), table]
    return markdown([*blocks, Paragraph("\n".join(notes))])


def _width(columns: Sequence[int], table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10_000), _rich(table, columns)).maximum


def _rich(table: Table, columns: Sequence[int]) -> RichTable:
    made = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(
            Text(table.headers[column]),
            justify="left" if column < table.text_columns else "right",
            overflow="fold",
        )
    for row in table.rows:
        made.add_row(*(_styled(row[column]) for column in columns))
    return made


def _styled(marked: str) -> Text:
    """The text with its marks as styles of a terminal."""
    text = Text()
    for mark, style in STYLES.items():
        if match := re.fullmatch(f"(.*){mark[0]}(.*){mark[1]}(.*)", marked):
            before, middle, after = match.groups()
            return text.append(before).append(middle, style).append(after)
    return text.append(marked)
