"""The files that trials leave, written aside and moved, read strictly.

    <results>/<scale>/<dataset>/<method>/ipc<N>/
        <arch>-seed<S>-<id>.json                                 a distillation
        <arch>-seed<S>-<id>.safetensors                          the set that it made
        <arch>-seed<S>-<id>.png                                  a small picture of the set
        <arch>-seed<S>-<id>.<network>.<protocol>.<id>.json       one evaluation of the set
        <arch>-seed<S>-<id>.<network>.<protocol>.<id>.npz        what its networks predicted

Records of schema 1 are a distillation and an evaluation in one file, `<arch>-seed<S>-<id>.json` with the
trial's own id. They stay where they are and are read like the others.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from harness.core.errors import UserError
from harness.core.files import replacing
from harness.engine.records import (
    DISTILLED_SUFFIX,
    FIRST_SCHEMA,
    SCHEMA,
    Distillation,
    DistillationRecord,
    EvaluationRecord,
    FirstRecord,
    LabelKind,
    Record,
    Trial,
    first_joined,
    joined,
)

FileRecord: TypeAlias = DistillationRecord | EvaluationRecord | FirstRecord
KINDS = {"distillation": DistillationRecord, "evaluation": EvaluationRecord}


class _Head(msgspec.Struct):
    schema: int
    kind: str = ""


class FoundSet(NamedTuple):
    """A distilled set that has a record; `place` is the path of both in a results folder, without suffix."""

    place: str
    record: DistillationRecord | FirstRecord

    @property
    def label_kind(self) -> LabelKind | None:
        """Of the labels that lie with the images; None where that was not recorded."""
        return self.record.label_kind if isinstance(self.record, DistillationRecord) else None

    def path(self, results: Path) -> Path:
        """Where the set itself lies, if it has not been removed."""
        return results / f"{self.place}{DISTILLED_SUFFIX}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` aside, flush it to disk and move it to `path`: readers see all of it or none."""
    with replacing(path) as aside:
        aside.write_bytes(content)


def write_record(record: Record, results: Path) -> Path:
    """Write what a trial has for itself and return where; refuses to replace a finished record."""
    path = existing_path(record.trial, results)
    if path is not None and _read(path).status == "done":  # type: ignore[union-attr]
        return path
    path = record.trial.record_path(results)
    write_atomically(path, record_bytes(EvaluationRecord.of(record)))
    return path


def write_distillation(record: DistillationRecord, results: Path) -> Path:
    """Write the record of a set; UserError if there is one of another set in its place."""
    path = record.distillation.record_path(results)
    if path.exists():
        earlier = _read(path)
        if not isinstance(earlier, DistillationRecord) or earlier.images_digest != record.images_digest:
            raise UserError(
                f"{record.distillation.label} was distilled with other bytes before ({path}); finished "
                "records are not overwritten: move that one away, or pass another folder with --results"
            )
        return path
    write_atomically(path, record_bytes(record))
    return path


def rewrite(record: Record, path: Path) -> None:
    """Replace what a trial has for itself where it lies, in the schema that it has there."""
    if record.schema == FIRST_SCHEMA:
        held = {name: getattr(record, name) for name in FirstRecord.__struct_fields__}
        write_atomically(path, record_bytes(FirstRecord(**held)))
    else:
        write_atomically(path, record_bytes(EvaluationRecord.of(record)))


def record_bytes(record: FileRecord) -> bytes:
    """A record as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def existing_path(trial: Trial, results: Path) -> Path | None:
    """Where a trial's record lies, of whichever schema; None if it has none."""
    places = (trial.record_path(results), results / f"{trial.first_place}.json")
    return next((path for path in places if path.exists()), None)


def existing_record(trial: Trial, results: Path) -> Record | None:
    """A trial's record, if it has one; UserError for something else in its place."""
    path = existing_path(trial, results)
    return None if path is None else trial_record(path, results)


def trial_record(path: Path, results: Path) -> Record | None:
    """The trial's record in a file, None for that of a distillation; UserError in one line for no record."""
    record = _read(path)
    return None if isinstance(record, DistillationRecord) else _completed(record, results, {})


def find_set(distillation: Distillation, results: Path) -> FoundSet | None:
    """The set that was made already; UserError for something else in its record's place.

    The set itself may be gone, but not if its record is of schema 1: then it counts as not made.
    """
    if distillation.record_path(results).exists():
        record = _read(distillation.record_path(results))
        if not isinstance(record, DistillationRecord):
            path = distillation.record_path(results)
            raise UserError(f"{path} is no record of a distillation; move it away")
        return FoundSet(distillation.place, record)
    folder, name = results / distillation.folder, f"{distillation.arch}-seed{distillation.seed}-*.json"
    for path in sorted(folder.glob(name)):
        if path.name.count(".") > 1:
            continue  # an evaluation
        first = _read(path)
        if isinstance(first, FirstRecord) and first.status == "done":
            found = FoundSet(first.trial.first_place, first)
            if first.trial.distillation.id == distillation.id and found.path(results).exists():
                return found
    return None


def found_sets(results: Path) -> list[tuple[Distillation, FoundSet]]:
    """All sets under a results folder that have a record; passes over files that are no records."""
    found: dict[str, tuple[Distillation, FoundSet]] = {}
    for path in record_files(results):
        try:
            record = _read(path)
        except (UserError, OSError):
            continue
        if isinstance(record, DistillationRecord):
            made = record.distillation
        elif isinstance(record, FirstRecord) and record.status == "done":
            made = record.trial.distillation
        else:
            continue
        one = FoundSet(_place_of(path, results), record)
        if one.path(results).exists() and (made.id not in found or isinstance(record, DistillationRecord)):
            found[made.id] = (made, one)
    return list(found.values())


def record_files(results: Path) -> Iterator[Path]:
    """Paths of all records under a results folder, sorted."""
    yield from sorted(path for path in results.glob("*/*/*/ipc*/*.json") if not path.name.startswith("."))


class Collection(NamedTuple):
    """The trials' records that could be read, and one line for each file that could not."""

    records: list[Record]
    problems: list[str]


def collect(results: Path) -> Collection:
    """Read every record under `results`; a file that is no record costs its own line only."""
    found: dict[str, FileRecord] = {}
    problems: list[str] = []
    with _no_collector():
        for path in record_files(results):
            try:
                found[_place_of(path, results)] = _read(path)
            except UserError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"cannot read {path}: {error.strerror}")
        records = []
        for place, record in found.items():
            if isinstance(record, DistillationRecord):
                continue
            try:
                records.append(_completed(record, results, found))
            except UserError as error:
                problems.append(f"{results / place}.json: {error}")
    return Collection(records, problems)


def read_records(results: Path) -> list[Record]:
    """All trials' records under a results folder, in the order of their paths; UserError for what is none."""
    paths = record_files(results)
    found = {_place_of(path, results): _read(path) for path in paths}
    return [
        _completed(record, results, found)
        for record in found.values()
        if not isinstance(record, DistillationRecord)
    ]


def _place_of(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix().removesuffix(".json")


def _completed(record: EvaluationRecord | FirstRecord, results: Path, known: dict[str, FileRecord]) -> Record:
    """With what is known of its set, which may be among those `known` by their places."""
    if isinstance(record, FirstRecord):
        return first_joined(record)
    made = known.get(record.set_place) if record.set_place else None
    path = results / f"{record.set_place}.json"
    if made is None and record.set_place and path.exists():
        made = _read(path)
    if made is None:
        return joined(record, None)
    if isinstance(made, EvaluationRecord):
        raise UserError(f"its set's record {path} is that of an evaluation")
    if record.images_digest != made.images_digest:
        raise UserError(
            f"it is about another set (digest {str(record.images_digest)[:12]}) than lies there now "
            f"({str(made.images_digest)[:12]}); move it away, the same command asks the present one"
        )
    return joined(record, made)


def _read(path: Path) -> FileRecord:
    """Read one file strictly as the record that it says it is."""
    try:
        content = path.read_bytes()
        head = msgspec.json.decode(content, type=_Head)
        kind = FirstRecord if head.schema == FIRST_SCHEMA else KINDS.get(head.kind)
        if head.schema > SCHEMA or kind is None:
            raise UserError(
                f"{path} has record schema {head.schema}{f' of kind {head.kind}' if head.kind else ''}, "
                f"this version reads up to {SCHEMA}"
            )
        record: FileRecord = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"{path} is not a record of this harness ({error}); move it away or delete it"
        ) from None
    identity = record.distillation.id if isinstance(record, DistillationRecord) else record.trial.id
    if record.id != identity:
        raise UserError(
            f"{path} does not match its own id {record.id} (edited by hand?); move it away or delete it"
        )
    return record


@contextmanager
def _no_collector() -> Iterator[None]:
    """Spare the garbage collector thousands of records, in which there are no cycles to find."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
