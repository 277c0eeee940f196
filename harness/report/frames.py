"""Records as flat rows: what lies under a results folder, for pandas, CSV and JSON."""

from __future__ import annotations

import csv
import io
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from harness.core.clock import Cost
from harness.engine.record_files import collect
from harness.engine.records import DISTILLED_SUFFIX, Provenance, Record, Submitted, Trial
from harness.report.tracks import sample_std

if TYPE_CHECKING:
    import pandas as pd

# Of which part of a record ("": of itself), and how it is read.
Fact: TypeAlias = tuple[str, Callable[[Any], Any]]


def flatten(record: Record) -> dict[str, Any]:
    """One row: facts of the trial, accuracies in [0, 1], costs of both phases, provenance.

    `n` counts accuracies; `accuracy_std` is the sample standard deviation, null for n < 2. `distilled` is the
    path of the distilled set, relative to the results folder.
    """
    return {name: values[0] for name, values in _columns([record]).items()}


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """The rows of `flatten` as a frame; without records, a frame without rows."""
    import pandas as pd

    rows: pd.DataFrame = pd.DataFrame(_columns(records))
    return rows


def trials_frame(trials: Sequence[Trial], records: Sequence[Record]) -> pd.DataFrame:
    """A row of `flatten` for each trial, in their order; one without a record has the status "to run"."""
    import pandas as pd

    rows = {record.id: flatten(record) for record in records}
    waiting = {"status": "to run", "accuracies": [], "n": 0}
    made: pd.DataFrame = pd.DataFrame(
        [
            rows.get(trial.id) or {**msgspec.structs.asdict(trial), "id": trial.id, **waiting}
            for trial in trials
        ],
        columns=list(COLUMNS),
    )
    return made


def to_csv(records: Sequence[Record]) -> str:
    """The rows of `flatten` as CSV, null as nothing, settings and lists as JSON.

    As pandas reads and writes them, whole numbers are floats in a column with gaps.
    """
    # Not by pandas, whose import takes longer than all the rest over hundreds of records.
    columns = [_csv_cells(values) for values in _columns(records).values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def frame(results: Path) -> pd.DataFrame:
    """All records under `results`, one row each; files that are no records are named on stderr."""
    collection = collect(results)
    print_problems(collection.problems)
    return to_frame(collection.records)


def print_problems(problems: Sequence[str]) -> None:
    """Say on stderr which files were left out, a line each."""
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)


def _columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    of = {part: [getattr(record, part) or ABSENT for record in records] for part in PARTS} | {"": records}
    return {name: list(map(read, of[part])) for name, (part, read) in COLUMNS.items()}


def _csv_cells(values: list[Any]) -> list[Any]:
    kinds = set(map(type, values))
    if kinds & {dict, list}:
        return [msgspec.json.encode(value, order="sorted").decode() for value in values]
    if kinds == {int, NoneType}:
        return [None if value is None else float(value) for value in values]
    return values


def _mean(record: Record) -> float | None:
    return statistics.fmean(record.accuracies) if record.accuracies else None


def _std(record: Record) -> float | None:
    return sample_std(record.accuracies) if len(record.accuracies) > 1 else None


def _distilled(record: Record) -> str:
    return (record.set_place or record.trial.distillation.place) + DISTILLED_SUFFIX


def _facts(part: str, names: Iterable[str], prefix: str = "") -> dict[str, Fact]:
    return {f"{prefix}{name}": (part, attrgetter(name)) for name in names}


PARTS = ("trial", "distill", "evaluate", "provenance", "submission")
# In place of a part that a record lacks.
ABSENT = SimpleNamespace(
    **dict.fromkeys((*Cost.__struct_fields__, *Provenance.__struct_fields__, *Submitted.__struct_fields__))
)
COLUMNS: Mapping[str, Fact] = {
    **_facts("trial", (name for name in Trial.__struct_fields__ if name != "settings_from")),
    "settings_source": ("trial", attrgetter("source_sentence")),
    "settings_kind": ("trial", attrgetter("source.kind")),
    **_facts("", (name for name in Record.__struct_fields__ if name not in (*PARTS, "schema"))),
    "n": ("", lambda record: len(record.accuracies)),
    "accuracy_mean": ("", _mean),
    "accuracy_std": ("", _std),
    **_facts("distill", Cost.__struct_fields__, "distill_"),
    **_facts("evaluate", Cost.__struct_fields__, "evaluate_"),
    **_facts("provenance", Provenance.__struct_fields__),
    "resumed": ("", attrgetter("resumed")),
    **_facts("submission", ["claimed_accuracy"]),
    "distilled": ("", _distilled),
}
