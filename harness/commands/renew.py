"""`python -m harness renew`: measure anew what is not of the present code; no finished record is lost.

The trials of such records are run as they stand there, under `<results>/.work/renewed`. Once they are done,
the old records and sets are moved to `<results>/superseded` and the new ones take their places, so that a
renewal that is stopped, or fails, leaves no gap. The same command goes on with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from harness.commands.arguments import add_options, typed_options
from harness.commands.existing import FILTERS, SetFilter, plan_of, wanted_from
from harness.commands.run import carry_out, deadline_in
from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.claim import claimed
from harness.engine.options import Options, parse_options
from harness.engine.provenance import CODE_WORDS, CURRENT, Lineage
from harness.engine.record_files import collect, existing_path, existing_record, find_set
from harness.engine.records import (
    DISTILLED_SUFFIX,
    PREDICTIONS_SUFFIX,
    WORK_FOLDER,
    Distillation,
    Provenance,
    Record,
    Trial,
)
from harness.report.frames import print_problems

RENEWED = "renewed"  # under the work folder: results of trials that are measured anew
SUPERSEDED = "superseded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    recorded = (
        "seeds",
        "gains",
        "evals",
        "eval_arch",
        "protocol",
        "budget",
        "set",
        "curve",
        "zca",
        "image_size",
        "precision",
    )
    only = "only records of"
    filters = {
        "methods": f"{only} these methods",
        "dataset": f"{only} these datasets; folder:PATH says where one lies",
        "ipc": f"{only} these images per class",
        "arch": f"{only} this network",
        "scale": f"{only} this scale",
    }
    add_options(parser, (*recorded, "json"), filters)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    typed = typed_options(arguments)
    placed = {name: value for name, value in typed.items() if name not in FILTERS}
    return command(parse_options(placed), wanted_from(typed))


def command(options: Options, wanted: SetFilter) -> int:
    """Renew what is wanted and not of the present code; returns 0 only if all of it is done."""
    results = options.results
    if not results.is_dir():
        raise UserError(f"no results folder {results}; --results names another")
    _say_moved(list(adopt(results)), results)  # what an earlier command could not move any more
    records, problems = collect(results)
    print_problems(problems)
    due = list(_due(records, wanted, results))
    if not due:
        print("nothing to renew: all of these records are of the present code", file=sys.stderr)
        return int(bool(problems))
    plan = plan_of([record.trial for record in due], options, wanted.folders)
    if not plan.trials:
        return 1
    aside = dataclasses.replace(options, results=results / WORK_FOLDER / RENEWED)
    hand_over(due, results)
    summary = carry_out(aside, deadline_in(options.for_), plan).summary
    _say_moved(list(adopt(results)), results)
    print(f"tables: python -m harness report --results {results}", file=sys.stderr)
    return max(summary.exit_status, int(len(plan.trials) < len(due)))


def _due(records: Iterable[Record], wanted: SetFilter, results: Path) -> Iterator[Record]:
    """Finished records of other code that are wanted; says what they are."""
    lineage = Lineage(results)
    done = [
        record for record in records if record.status == "done" and wanted.takes(record.trial.distillation)
    ]
    if not done:
        raise UserError(f"no finished record under {results} fits; `status` lists what is there")
    handed_in = [record for record in done if record.submission is not None]
    states = lineage.states(record for record in done if record.submission is None)
    counts = Counter(states.values())
    for state, words in CODE_WORDS.items():
        if counts[state]:
            print(f"{plural(counts[state], 'record')} of {state}: {words}", file=sys.stderr)
    if handed_in:
        print(f"left out: {plural(len(handed_in), 'set')} from elsewhere; submit them again", file=sys.stderr)
    yield from (record for record in done if states.get(record.id, CURRENT) != CURRENT)


def hand_over(records: Iterable[Record], results: Path) -> None:
    """Put sets that are of the present code where the renewed trials look: only their evaluation is due."""
    lineage, renewed = Lineage(results), results / WORK_FOLDER / RENEWED
    for record in records:
        made = record.trial.distillation
        found = find_set(made, results)
        current = found is not None and found.place == made.place and lineage.of_set(record) == CURRENT
        if not current or not made.set_path(results).exists():
            continue
        for path in (made.set_path(results), made.record_path(results)):
            target = renewed / path.relative_to(results)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def adopt(results: Path) -> Iterator[Record]:
    """Put done records and sets in the place of those that they renew, which are moved aside; gives them."""
    renewed = results / WORK_FOLDER / RENEWED
    for record in collect(renewed).records:
        trial, made = record.trial, record.trial.distillation
        if record.status != "done":
            continue
        with claimed(trial, results), claimed(made, results):
            _adopt_set(made, renewed, results)
            supersede(trial, results)
            # The record last: where it lies, its predictions do too.
            for path_in in (trial.predictions_path, trial.record_path):
                _move(path_in(renewed), path_in(results))
        yield record


def _adopt_set(made: Distillation, renewed: Path, results: Path) -> None:
    """Move a set and its record into place; evaluations of another set that lay there go aside with it."""
    if not made.record_path(renewed).exists():
        return  # came with an earlier trial
    old, new = find_set(made, results), find_set(made, renewed)
    if old is not None and new is not None:
        if old.record == new.record and old.path(results).exists():
            return  # it was handed over
        same = old.record.images_digest == new.record.images_digest
        for path in sorted((results / made.folder).glob(f"{Path(old.place).name}.{'json' if same else '*'}")):
            _set_aside(path, results, _stamp(old.record.provenance))
    for path_in in (made.set_path, made.preview_path, made.record_path):
        _move(path_in(renewed), path_in(results))


def supersede(trial: Trial, results: Path) -> None:
    """Move a trial's record, and what lies beside it, to `<results>/superseded`, named by its time."""
    path = existing_path(trial, results)
    if path is None:
        return
    record = existing_record(trial, results)
    stamp = _stamp(None if record is None else record.provenance)
    for suffix in (PREDICTIONS_SUFFIX, DISTILLED_SUFFIX, ".json"):
        beside = path.with_name(path.name.removesuffix(".json") + suffix)
        if beside.exists():
            _set_aside(beside, results, stamp)


def _stamp(made: Provenance | None) -> str:
    return "".join(sign for sign in (made.finished_at if made else "") if sign.isalnum()) or "undated"


def _set_aside(path: Path, results: Path, stamp: str) -> None:
    """Move a file to the same place under `superseded`, with the stamp in its name, over nothing."""
    old = results / SUPERSEDED / path.relative_to(results)
    names = (f"{old.stem}-{stamp}{f'-{number}' if number else ''}{old.suffix}" for number in count())
    _move(path, next(old.with_name(name) for name in names if not old.with_name(name).exists()))


def _move(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _say_moved(records: Sequence[Record], results: Path) -> None:
    if records:
        old = results / SUPERSEDED
        print(f"renewed: {plural(len(records), 'record')}; the old ones lie in {old}/", file=sys.stderr)
