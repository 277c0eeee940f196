"""`python -m harness report`: print the tables, write them, and rewrite or check BENCHMARKS.md."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.provenance import KEPT_NAME, Lineage
from harness.engine.record_files import collect, no_collector, write_atomically
from harness.engine.records import Record
from harness.perf.steps import load_sheets
from harness.report.across import TITLE, across_networks, drops_from_home, section
from harness.report.benchmarks import page
from harness.report.cells import cells_csv
from harness.report.fidelity import load_fidelity
from harness.report.filters import Filters
from harness.report.formats import Heading, html, latex, markdown
from harness.report.frames import flatten, print_problems, to_csv
from harness.report.reported import load_reported
from harness.report.standing import Scored, scored
from harness.report.tables import CODE_LEGENDS, blocks_by_track, code_legend, document, tables_of, with_legend

PAGE_NAME = "BENCHMARKS.md"
README_NAME = "README.md"
README_TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
RESULT_TABLE = re.compile(r"(?<=\n)\| method +\| +ipc \d.*?\n(?=\n)", re.DOTALL)
REPORT_FOLDER = "report"
FILTERED_FOLDER = "filtered"
DIFF_LINES = 20


@no_collector()
def command(
    results: Path,
    *,
    check: bool,
    benchmarks: Path | None,
    as_json: bool,
    filters: Filters | None = None,
) -> int:
    """Report on the records under `results`; returns the exit status.

    Prints Markdown tables, or with `as_json` the flat rows, and writes the tables as
    `<results>/report/tables` with the suffixes .md, .tex, .html and .csv, and the rows as `records.csv`.
    `benchmarks` is the page to rewrite; without it that is the BENCHMARKS.md beside the results folder if
    there is one, so that a scratch results folder touches no page. A README.md beside the page gets the
    page's longest table of results between its marks. With `filters` only what they want is reported, into
    `<results>/report/filtered`, and no page is touched. With `check` nothing is written: the pages are
    compared with what the files give. Files that are no records are named on stderr and make the status 1;
    the pages are then left alone, since they would lose their rows. UserError: no records, filters that none
    fits or that contradict another option, or a file that cannot be read or written.
    """
    filters = filters or Filters()
    if filters.active and (check or benchmarks is not None):
        raise UserError(
            f"{PAGE_NAME} is about all records: leave out either the filters or --check and --benchmarks"
        )
    records, problems = collect(results)
    print_problems(problems)
    if not records:
        which = "readable records" if problems else "records"
        raise UserError(f"no {which} under {results}; run `python -m harness run ...` first")
    target = benchmarks or _page_beside(results)
    if check:
        tracks = scored(records, Lineage(results).states(records))
        return max(_check(tracks, target, results), int(bool(problems)))
    folder = results / REPORT_FOLDER
    if filters.active:
        records, target, folder = filters.select(records), None, folder / FILTERED_FOLDER
    lineage = Lineage(results)
    tracks = scored(records, lineage.states(records))
    written = _report(records, tracks, folder, target if not problems else None, as_json=as_json)
    if not filters.active:
        written += _keep_digests(lineage.kept_digests(records), results / KEPT_NAME)
    if problems and not filters.active:
        print(f"{PAGE_NAME} left alone: {plural(len(problems), 'file')} could not be read", file=sys.stderr)
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return int(bool(problems))


def _keep_digests(content: bytes | None, path: Path) -> list[Path]:
    """Write what history tells of older records' code, for checkouts without it; the file, if it changed."""
    if content is None or (path.is_file() and path.read_bytes() == content):
        return []
    _write(path, content.decode())
    return [path]


def _report(
    records: Sequence[Record],
    tracks: Sequence[Scored],
    folder: Path,
    target: Path | None,
    *,
    as_json: bool,
) -> list[Path]:
    """Print and write the tables, and the pages if there is a `target`; returns what it wrote."""
    reported = load_reported()
    blocks = blocks_by_track(tracks, reported)
    tables = tables_of(blocks)
    networks = across_networks(tracks)
    across = section(tracks, networks, level=3)
    across = [Heading(TITLE, 2), *across] if across else []
    whole = [*document(blocks, tracks), *across]
    files = {"tables.md": with_legend(tables, tracks) + (f"\n{markdown(across)}" if across else "")}
    files |= {"tables.tex": latex(whole), "tables.html": html(whole)}
    print(_as_json(records) if as_json else files["tables.md"], end="")
    cells = cells_csv(tracks, reported, drops_from_home(networks))
    files |= {"tables.csv": cells, "records.csv": to_csv(records)}
    written = {folder / name: text for name, text in files.items()}
    if target is not None:
        written |= _pages(tracks, target)
    for path, text in written.items():
        _write(path, text)
    return list(written)


def _pages(tracks: Sequence[Scored], target: Path) -> dict[Path, str]:
    """What the page is to hold, and the README beside it if that has marks for a table."""
    text = page(tracks, load_reported(), load_fidelity(), load_sheets())
    pages = {target: text}
    readme = target.with_name(README_NAME)
    table = max(RESULT_TABLE.findall(text), key=lambda found: found.count("\n"), default="")
    if table and target.name == PAGE_NAME and readme.is_file():
        held = _read(readme)
        marks = [mark for mark in CODE_LEGENDS if mark in table]
        shown = "\n".join([table, *([markdown(code_legend(marks))] if marks else [])])
        if README_TABLE.search(held):
            pages[readme] = README_TABLE.sub(lambda _: shown, held, count=1)
    return pages


def _page_beside(results: Path) -> Path | None:
    """The page of the repository that the results folder belongs to, if it belongs to one."""
    beside = results.resolve().parent / PAGE_NAME
    return beside if beside.is_file() else None


def _check(tracks: Sequence[Scored], target: Path | None, results: Path) -> int:
    """0 if the pages are what the files give, else 1 with the beginning of each difference on stderr."""
    if target is None or not target.is_file():
        missing = target or results.resolve().parent / PAGE_NAME
        raise UserError(
            f"no {missing} to check; make it with `python -m harness report --benchmarks {missing}`"
        )
    stale = [path for path, text in _pages(tracks, target).items() if not _holds(path, text)]
    if not stale:
        number = sum(len(found.records) for found in tracks)
        print(f"{target} is up to date with {plural(number, 'record')}")
    return int(bool(stale))


def _holds(path: Path, expected: str) -> bool:
    """Whether the file holds just that; otherwise says on stderr what differs."""
    found = _read(path)
    if found == expected:
        return True
    difference = difflib.unified_diff(
        found.splitlines(), expected.splitlines(), str(path), "from the records", n=0, lineterm=""
    )
    print("\n".join(itertools.islice(difference, DIFF_LINES)), file=sys.stderr)
    print(f"{path} is stale; run `python -m harness report` and commit it", file=sys.stderr)
    return False


def _as_json(records: Sequence[Record]) -> str:
    return msgspec.json.encode([flatten(record) for record in records]).decode() + "\n"


def _read(path: Path) -> str:
    try:
        # Bytes are decoded here because reading as text would hide a changed line end.
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; the records themselves are intact") from None
