"""`python -m harness report`: print the tables, write them, and rewrite or check BENCHMARKS.md."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.records import Record, write_atomically
from harness.report.benchmarks import page
from harness.report.fidelity import load_fidelity
from harness.report.frames import collect, flatten, print_problems, to_csv
from harness.report.markdown import plural
from harness.report.reported import load_reported
from harness.report.speed import load_sheets
from harness.report.tables import tables_by_track, with_legend

PAGE_NAME = "BENCHMARKS.md"
REPORT_FOLDER = "report"
DIFF_LINES = 20


def command(results: Path, *, check: bool, benchmarks: Path | None, as_json: bool) -> int:
    """Report on the records under `results`; returns the exit status.

    Prints Markdown tables, or with `as_json` the flat rows, and writes `<results>/report/tables.md` and
    `.csv`. `benchmarks` is the page to rewrite; without it that is the BENCHMARKS.md beside the results
    folder if there is one, so that a scratch results folder touches no page. With `check` nothing is written:
    the page is compared with what the files give. Files that are no records are named on stderr and make
    the status 1; the page is then left alone, since it would lose their rows. UserError: no records, or a
    file that cannot be read or written.
    """
    records, problems = collect(results)
    print_problems(problems)
    if not records:
        which = "readable records" if problems else "records"
        raise UserError(f"no {which} under {results}; run `python -m harness run ...` first")
    target = benchmarks or _page_beside(results)
    if check:
        return max(_check(records, target, results), int(bool(problems)))
    reported = load_reported()
    tables = tables_by_track(records, reported)
    summary = with_legend(tables)
    print(_as_json(records) if as_json else summary, end="")
    written = _write_report(records, summary, results / REPORT_FOLDER)
    if problems:
        print(f"{PAGE_NAME} left alone: {plural(len(problems), 'file')} could not be read", file=sys.stderr)
    elif target is not None:
        _write(target, page(records, reported, load_fidelity(), load_sheets(), tables))
        written.append(target)
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return int(bool(problems))


def _page_beside(results: Path) -> Path | None:
    """The page of the repository that the results folder belongs to, if it belongs to one."""
    beside = results.resolve().parent / PAGE_NAME
    return beside if beside.is_file() else None


def _check(records: Sequence[Record], target: Path | None, results: Path) -> int:
    """0 if the page is what the files give, else 1 with the beginning of the difference on stderr."""
    if target is None or not target.is_file():
        missing = target or results.resolve().parent / PAGE_NAME
        raise UserError(
            f"no {missing} to check; make it with `python -m harness report --benchmarks {missing}`"
        )
    try:
        # Bytes are decoded here because reading as text would hide a changed line end.
        found = target.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {target}: {error.strerror}") from None
    expected = page(records, load_reported(), load_fidelity(), load_sheets())
    if found == expected:
        print(f"{target} is up to date with {plural(len(records), 'record')}")
        return 0
    difference = difflib.unified_diff(
        found.splitlines(), expected.splitlines(), str(target), "from the records", n=0, lineterm=""
    )
    print("\n".join(itertools.islice(difference, DIFF_LINES)), file=sys.stderr)
    print(f"{target} is stale; run `python -m harness report` and commit it", file=sys.stderr)
    return 1


def _as_json(records: Sequence[Record]) -> str:
    return msgspec.json.encode([flatten(record) for record in records]).decode() + "\n"


def _write_report(records: Sequence[Record], summary: str, folder: Path) -> list[Path]:
    """Write tables.md and tables.csv (a row for each record, settings as JSON) and return their paths."""
    markdown, rows = folder / "tables.md", folder / "tables.csv"
    _write(markdown, summary)
    _write(rows, to_csv(records))
    return [markdown, rows]


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; the records themselves are intact") from None
