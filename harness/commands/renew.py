"""`python -m harness renew`: measure anew what is not of the present code; no finished record is lost.

The trials of such records are run as they stand there, under `<results>/.work/renewed`. Once they are done,
the old records and sets are moved to `<results>/superseded` and the new ones take their places, so that a
renewal that is stopped, or fails, leaves no gap. The same command goes on with it. A set that came out
otherwise takes its place once all that was asked of the old one is answered about it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec

from harness.commands.arguments import add_options, typed_options
from harness.commands.existing import FILTERS, SetFilter, plan_of, wanted_from
from harness.commands.run import carry_out, deadline_in
from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.claim import BusyError, claimed
from harness.engine.options import Options, parse_options
from harness.engine.provenance import CODE_WORDS, CURRENT, Lineage
from harness.engine.record_files import (
    FoundSet,
    collect,
    existing_path,
    existing_record,
    find_set,
    trial_record,
)
from harness.engine.records import (
    DISTILLED_SUFFIX,
    FIRST_SCHEMA,
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
    due = _due(records, wanted, results)
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
    waiting = [
        record
        for record in summary.records
        if record.status == "done" and record.trial.record_path(aside.results).exists()
    ]
    _say_waiting(waiting, results)
    print(f"tables: python -m harness report --results {results}", file=sys.stderr)
    return max(summary.exit_status, int(bool(waiting) or len(plan.trials) < len(due)))


def _due(records: Iterable[Record], wanted: SetFilter, results: Path) -> list[Record]:
    """Finished records of other code that are wanted, and those that their new sets wait for; says so."""
    lineage = Lineage(results)
    finished = [record for record in records if record.status == "done"]
    wanted.check(record.trial.distillation for record in finished)
    done = [record for record in finished if wanted.takes(record.trial.distillation)]
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
    due = [record for record in done if states.get(record.id, CURRENT) != CURRENT]
    # Of the present code may be an answer about a set that was gone and came out otherwise.
    unanswered = (record for made in _sets_of(due) for record in _unanswered(made, results))
    return list({record.id: record for record in (*due, *unanswered)}.values())


def _sets_of(records: Iterable[Record]) -> Iterable[Distillation]:
    """Each set that they are about, once."""
    return {record.trial.distillation.id: record.trial.distillation for record in records}.values()


def hand_over(records: Iterable[Record], results: Path) -> None:
    """Put sets that are of the present code where the renewed trials look: only their evaluation is due.

    What an earlier command left there, and is of other code, is moved to `superseded`.
    """
    lineage, renewed = Lineage(results), results / WORK_FOLDER / RENEWED
    for record in records:
        trial, made = record.trial, record.trial.distillation
        here, there = _current_set(record, results, lineage), find_set(made, renewed)
        wanted = here or _current_set(record, renewed, lineage)
        if there is not None and (wanted is None or wanted.record != there.record):
            _set_aside_all(there, "*", renewed, results)
        answer = existing_record(trial, renewed)
        if answer is not None and answer.status == "done" and lineage.state(answer) != CURRENT:
            supersede(trial, renewed, results)
        if here is not None and find_set(made, renewed) is None:
            for path_in in (made.set_path, made.record_path):
                path_in(renewed).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path_in(results), path_in(renewed))


def _current_set(record: Record, home: Path, lineage: Lineage) -> FoundSet | None:
    """The set that a record asks about, if it lies under `home` and is of the present code."""
    found = find_set(record.trial.distillation, home)
    if found is None or found.place != record.trial.distillation.place or not found.path(home).exists():
        return None
    about_it = msgspec.structs.replace(record, distilled_in=found.record.provenance)
    return found if lineage.of_set(about_it) == CURRENT else None


def adopt(results: Path) -> Iterator[Record]:
    """Put done records and sets in the place of those that they renew, which are moved aside; gives them.

    A set whose place would be taken before all is answered that was asked of it stays, with all its records.
    """
    renewed = results / WORK_FOLDER / RENEWED
    for record in collect(renewed).records:
        trial, made = record.trial, record.trial.distillation
        if record.status != "done":
            continue
        try:
            with claimed(trial, results), claimed(made, results):
                # Another command may have adopted it before the claims were ours.
                if not trial.record_path(renewed).exists() or _unanswered(made, results):
                    continue
                _adopt_set(made, renewed, results)
                supersede(trial, results, results)
                # The record last: where it lies, its predictions do too.
                for path_in in (trial.predictions_path, trial.record_path):
                    _move(path_in(renewed), path_in(results))
        except BusyError as error:
            print(f"not moved to its place: {error}; the next `renew` moves it", file=sys.stderr)
            continue
        yield record


def _unanswered(made: Distillation, results: Path) -> list[Record]:
    """Finished records without a successor that would go aside with the old set if the new one came."""
    renewed = results / WORK_FOLDER / RENEWED
    old, new = find_set(made, results), find_set(made, renewed)
    if old is None or new is None:
        return []
    # A record of schema 1 is that of its set as well.
    if old.record.schema > FIRST_SCHEMA and old.record.images_digest == new.record.images_digest:
        return []
    answered = {record.id for record in _answers(made, renewed)}
    return [
        record
        for record in _answers(made, results)
        if record.set_place == old.place and record.id not in answered
    ]


def _answers(made: Distillation, home: Path) -> Iterator[Record]:
    """Finished records of what was asked of a set, under `home`."""
    for path in sorted((home / made.folder).glob(f"{made.arch}-seed{made.seed}-*.json")):
        with contextlib.suppress(UserError):  # it is no record, as `collect` says
            record = trial_record(path, home)
            if record is not None and record.status == "done" and record.trial.distillation.id == made.id:
                yield record


def _adopt_set(made: Distillation, renewed: Path, results: Path) -> None:
    """Move a set and its record into place; evaluations of another set that lay there go aside with it."""
    old, new = find_set(made, results), find_set(made, renewed)
    if new is None:
        return  # came with an earlier trial
    if old is not None and old.record == new.record and old.path(results).exists():
        for path_in in (made.record_path, made.set_path):
            path_in(renewed).unlink(missing_ok=True)  # it was handed over
        return
    if old is not None:
        same = old.record.images_digest == new.record.images_digest
        _set_aside_all(old, "json" if same else "*", results, results)
    for path_in in (made.set_path, made.preview_path, made.record_path):
        _move(path_in(renewed), path_in(results))


def supersede(trial: Trial, home: Path, results: Path) -> None:
    """Move a trial's record under `home`, and what lies beside it, to `<results>/superseded`."""
    path = existing_path(trial, home)
    if path is None:
        return
    record = existing_record(trial, home)
    stamp = _stamp(None if record is None else record.provenance)
    for suffix in (PREDICTIONS_SUFFIX, DISTILLED_SUFFIX, ".json"):
        beside = path.with_name(path.name.removesuffix(".json") + suffix)
        if beside.exists():
            _set_aside(beside, home, results, stamp)


def _set_aside_all(found: FoundSet, suffixes: str, home: Path, results: Path) -> None:
    """Move the files of a set, and of what was asked of it, that end so."""
    place = home / found.place
    for path in sorted(place.parent.glob(f"{place.name}.{suffixes}")):
        _set_aside(path, home, results, _stamp(found.record.provenance))


def _stamp(made: Provenance | None) -> str:
    return "".join(sign for sign in (made.finished_at if made else "") if sign.isalnum()) or "undated"


def _set_aside(path: Path, home: Path, results: Path, stamp: str) -> None:
    """Move a file to the same place under `superseded`, with the stamp in its name, over nothing."""
    old = results / SUPERSEDED / path.relative_to(home)
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


def _say_waiting(records: Sequence[Record], results: Path) -> None:
    """Say which sets are not renewed yet although some of these done records are about new ones."""
    for made in _sets_of(records):
        unanswered = [record.trial.label for record in _unanswered(made, results)]
        if unanswered:
            rest = f" and {len(unanswered) - 1} more" if unanswered[1:] else ""
            print(
                f"{made.label}: the old set and its records stay until all that was asked of it is answered "
                f"about the new one; missing: {unanswered[0]}{rest}; the same command goes on, with --retry "
                "failed if these failed",
                file=sys.stderr,
            )
