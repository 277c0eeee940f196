"""`python -m harness paper`: the BACON paper's tables: prints them, lists or runs what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.commands.arguments import add_options, typed_options
from harness.core.errors import UnknownNameError, UserError
from harness.engine.options import Options, parse_options
from harness.engine.record_files import collect, write_atomically
from harness.engine.records import Record
from harness.perf.steps import load_sheets
from harness.report.frames import print_problems
from harness.report.paper.cells import SCALE, Completeness
from harness.report.paper.tables import FILLED, NAMES, SOFT, CellFilter, Tables, make_tables, page, plain
from harness.report.reported import load_by_network, load_soft

PAGE = Path("report", "paper.md")
FILTERS = ("methods", "dataset", "ipc")


@dataclass(frozen=True)
class PaperRequest:
    """What is asked for: options of `run` as typed, by name; methods, dataset and ipc filter cells.

    again: what to type to ask for the same again.
    """

    typed: Mapping[str, Any]
    missing: bool = False
    run: str | None = None
    again: str = ""

    @property
    def options(self) -> Options:
        """The options as `run` reads them, at paper scale."""
        return dataclasses.replace(parse_options(self.typed), scale=SCALE.name)

    @property
    def launch(self) -> dict[str, Any]:
        """What was typed about how and where to run, to be repeated in commands."""
        return {name: value for name, value in self.typed.items() if name not in (*FILTERS, "json")}

    @property
    def cell_filter(self) -> CellFilter:
        """Which cells are asked for."""
        options = self.options
        return CellFilter(
            methods=options.methods if "methods" in self.typed else None,
            datasets=options.dataset if "dataset" in self.typed else None,
            ipcs=options.ipc if "ipc" in self.typed else None,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "--missing",
        action="store_true",
        help="print the commands that fill the empty cells, with estimated GPU-hours",
    )
    parser.add_argument(
        "--run", metavar="TABLE", help="run what a table lacks: main, cross, terms, lambda, cost or soft"
    )
    decided = (
        "scale",
        "set",
        "arch",
        "eval_arch",
        "protocol",
        "budget",
        "zca",
        "image_size",
        "precision",
        "curve",
    )
    only = "only cells of these"
    filters = {"methods": f"{only} methods", "dataset": f"{only} datasets", "ipc": f"{only} images per class"}
    add_options(parser, decided, filters)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(PaperRequest(typed_options(arguments), arguments.missing, arguments.run, arguments.again))


def command(request: PaperRequest) -> int:
    """Print the tables (Markdown or JSON), what is missing, or run a table; returns the exit status.

    Without filters the Markdown is also written to `<results>/report/paper.md`. Files that are no records are
    named on stderr and make the status 1. UserError: an unknown table or cell, no such folder.
    """
    options = request.options
    if request.run is not None and request.run not in FILLED:
        raise UnknownNameError("table", request.run, FILLED)
    if request.run is not None and request.missing:
        raise UserError("--run runs what --missing lists; drop one")
    if request.run is None and not options.results.is_dir():
        raise UserError(f"no folder {options.results}; pass the one with your records as --results DIR")
    records, problems = collect(options.results)
    print_problems(problems)
    tables = make_tables(records, load_by_network(), request.cell_filter, load_sheets(), load_soft())
    if request.run is not None:
        return max(_run(request, tables), int(bool(problems)))
    if request.missing:
        _print_missing(request, tables, records)
    else:
        _print_tables(request, tables)
    return int(bool(problems))


def _print_tables(request: PaperRequest, tables: Tables) -> None:
    text = page(tables)
    print(msgspec.json.encode(plain(tables)).decode() if request.options.json else text.rstrip("\n"))
    if any(name in request.typed for name in FILTERS):
        return
    target = request.options.results / PAGE
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; the tables above are complete") from None
    print(f"wrote {target}", file=sys.stderr)


def _print_missing(request: PaperRequest, tables: Tables, records: Sequence[Record]) -> None:
    from harness.report.paper.commands import as_json, as_text, missing
    from harness.report.paper.hours import Evidence

    found = missing(tables, _wanted(request.options), Evidence(records, load_sheets()))
    text = as_json(found, request.launch) if request.options.json else as_text(found, request.launch)
    print(text.rstrip("\n"))


def _run(request: PaperRequest, tables: Tables) -> int:
    """Run the commands of one table, each as `run` would; returns the worst exit status.

    One that is interrupted, or whose time is up, is the last: all have the time of `--for` together.
    """
    from harness.commands import run
    from harness.launch.base import ENDED_EARLY
    from harness.report.paper.commands import missing

    assert request.run is not None
    chosen = {name: tables.cells[name] if name == request.run else () for name in NAMES}
    soft = tables.soft if request.run == SOFT else ()
    found = missing(dataclasses.replace(tables, cells=chosen, soft=soft), _wanted(request.options), None)
    if not found.commands:
        print(f"nothing to run: all of these cells of the table {request.run} are complete", file=sys.stderr)
        return 0
    status, deadline = 0, run.deadline_in(request.options.for_)
    for number, part in enumerate(found.commands, start=1):
        print(f"{number} of {len(found.commands)}: {part.line(request.launch)}", file=sys.stderr)
        asked = part.options() | {"json": request.options.json} | request.launch
        status = max(status, run.command(parse_options(asked), request.again, deadline))
        if status in ENDED_EARLY:
            break
    return status


def _wanted(options: Options) -> Completeness:
    usual = Completeness()
    return Completeness(options.seeds or usual.seeds, options.evals or usual.evals)
