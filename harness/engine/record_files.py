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

import fnmatch
import gc
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from harness.core.errors import UserError
from harness.core.files import replacing
from harness.engine.cache_file import CacheFile, Stamp
from harness.engine.records import (
    DISTILLED_SUFFIX,
    FIRST_SCHEMA,
    SCHEMA,
    WORK_FOLDER,
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
PLACES = ("*", "*", "*", "ipc*", "*.json")  # where records lie in a results folder
CACHE_NAME = "records.cache"
REWRITTEN_SHARE = 0.02  # of the records, which may be new before their cache is written again


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
    return (Path(entry.path) for entry in _entries(results, PLACES))


def _entries(folder: Path | str, patterns: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    """What lies where the patterns say, one for each level; sorted by the parts of the paths."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    first, *others = patterns
    for entry in entries:
        if not fnmatch.fnmatchcase(entry.name, first):
            continue
        if others:
            yield from _entries(entry.path, others)
        elif not entry.name.startswith("."):
            yield entry


class Collection(NamedTuple):
    """The trials' records that could be read, and one line for each file that could not."""

    records: list[Record]
    problems: list[str]


class Cached(msgspec.Struct, frozen=True, array_like=True):
    """What a file was found to be: the record of a trial with all that is known of its set, or that of a set.

    own, made: stamps of the file and of that of its set, if it has one of its own.
    """

    own: Stamp
    made: Stamp | None
    record: Record | None

    def holds(self, place: str, stamps: Mapping[str, Stamp | None]) -> bool:
        """Whether its files are the same still."""
        if stamps[place] != self.own:
            return False
        return self.made is None or self.record is None or stamps.get(self.record.set_place) == self.made


def collect(results: Path, *, cached: bool = True) -> Collection:
    """Read every record under `results`; a file that is no record costs its own line only.

    Files that are the same as when they were last read are not read again, unless `cached` is False; files
    with problems always are.
    """
    with no_collector():
        above = len(os.path.join(results, ""))
        stamps = {
            entry.path[above:].removesuffix(".json"): _stamp(entry) for entry in _entries(results, PLACES)
        }
        file = CacheFile(results / WORK_FOLDER / CACHE_NAME) if cached else None
        kept = (file.load(dict[str, Cached]) if file is not None else None) or {}
        known = {place: kept[place] for place in stamps if place in kept and kept[place].holds(place, stamps)}
        collection, fresh = _collected(results, stamps, known)
        if file is not None and len(fresh) > REWRITTEN_SHARE * len(stamps):
            file.save(known | fresh)
    return collection


def _collected(
    results: Path, stamps: Mapping[str, Stamp | None], known: Mapping[str, Cached]
) -> tuple[Collection, dict[str, Cached]]:
    """All records, and those that were not `known` and may be the next time."""
    now = time.time_ns()
    found, problems = _read_all((place for place in stamps if place not in known), results)
    records, fresh = list[Record](), dict[str, Cached]()
    for place, own in stamps.items():
        record = known[place].record if place in known else None
        if place in found:
            read = found[place]
            try:
                record = None if isinstance(read, DistillationRecord) else _completed(read, results, found)
            except UserError as error:
                problems.append(f"{results / place}.json: {error}")
                continue
            needed = [place]
            if isinstance(read, EvaluationRecord) and read.set_place:
                needed.append(read.set_place)
            used = [stamps.get(one) for one in needed]
            if own is not None and all(stamp is not None and stamp.is_settled(now) for stamp in used):
                fresh[place] = Cached(own, used[1] if used[1:] else None, record)
        if record is not None:
            records.append(record)
    return Collection(records, problems), fresh


def _read_all(places: Iterable[str], results: Path) -> tuple[dict[str, FileRecord], list[str]]:
    """The records at these places, and a line for each that cannot be read."""
    found: dict[str, FileRecord] = {}
    problems: list[str] = []
    for place in places:
        path = results / f"{place}.json"
        try:
            found[place] = _read(path)
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"cannot read {path}: {error.strerror}")
    return found, problems


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        return Stamp.of(entry.stat())
    except OSError:
        return None  # whoever reads it will say what is wrong


def read_records(results: Path) -> list[Record]:
    """All trials' records under a results folder, in the order of their paths; UserError for what is none."""
    found = {_place_of(path, results): _read(path) for path in record_files(results)}
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
def no_collector() -> Iterator[None]:
    """Spare the garbage collector thousands of records and tables, in which there are no cycles to find."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
