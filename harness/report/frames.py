"""Records as flat rows: what lies under a results folder, for pandas, CSV and JSON."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harness.errors import UserError
from harness.records import Cost, Provenance, Record, read_record, record_files

if TYPE_CHECKING:
    import pandas as pd


class Collection(NamedTuple):
    """The records that could be read, and one line for each file that could not."""

    records: list[Record]
    problems: list[str]


def collect(results: Path) -> Collection:
    """Read every record under `results`; a file that is no record costs its own line only."""
    records, problems = [], []
    for path in record_files(results):
        try:
            records.append(read_record(path))
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"cannot read {path}: {error.strerror}")
    return Collection(records, problems)


def flatten(record: Record) -> dict[str, Any]:
    """One row: facts of the trial, accuracies in [0, 1], costs of both phases, provenance.

    `n` counts accuracies; `accuracy_std` is the sample standard deviation, null for n < 2. `distilled` is the
    path of the distilled set, relative to the results folder.
    """
    outcome = msgspec.structs.asdict(record)
    nested = {name: outcome.pop(name) for name in ("trial", "distill", "evaluate", "provenance", "schema")}
    accuracies = record.accuracies
    return {
        **msgspec.structs.asdict(nested["trial"]),
        **outcome,
        "n": len(accuracies),
        "accuracy_mean": statistics.fmean(accuracies) if accuracies else None,
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        **_prefixed("distill_", nested["distill"], Cost),
        **_prefixed("evaluate_", nested["evaluate"], Cost),
        **_prefixed("", nested["provenance"], Provenance),
        "distilled": record.trial.distilled_path(Path()).as_posix(),
    }


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of `flatten` as a frame; without records, a frame without rows."""
    import pandas as pd

    rows: pd.DataFrame = pd.DataFrame([flatten(record) for record in records])
    return rows


def frame(results: Path) -> pd.DataFrame:
    """All records under `results`, one row each; files that are no records are named on stderr."""
    collection = collect(results)
    print_problems(collection.problems)
    return to_frame(collection.records)


def print_problems(problems: Sequence[str]) -> None:
    """Say on stderr which files were left out, a line each."""
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)


def _prefixed(prefix: str, part: msgspec.Struct | None, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Fields of a part of a record under a prefix; all null where the record lacks that part."""
    return {f"{prefix}{name}": getattr(part, name, None) for name in kind.__struct_fields__}
