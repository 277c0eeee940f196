"""What a trial is and what it left behind: typed, written aside and moved, read strictly.

One trial is one JSON file at
`<results>/<scale>/<dataset>/<method>/ipc<N>/<arch>-seed<S>-<id>.json`, the distilled set beside it as
`.safetensors`. Accuracies are fractions in [0, 1]; units are in the names; what is not known is null.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from harness.core.clock import Cost
from harness.core.errors import UserError
from harness.core.files import replacing
from harness.core.text import one_line, plural
from methods.source import SettingsSource, read_sentence

SCHEMA = 1
WORK_FOLDER = ".work"
DISTILLED_SUFFIX = ".safetensors"

UNIDENTIFIED = ("settings_source", "settings_from")  # what does not tell a trial from others

Status = Literal["done", "failed", "timeout", "oom"]


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One cell of the plan in canonical form: two equal trials are the same work.

    `config` is the method's resolved configuration as plain values, without settings that came later and have
    their defaults (`methods.contract`). `settings_from` says where it comes from, in records of earlier times
    the sentence `settings_source`; neither is part of the identity. `curve` is the number of looks at the set
    during distillation, which then leaves a tenth of the train split out for them; 0: none, and nothing left
    out.
    """

    method: str
    dataset: str
    dataset_source: str
    ipc: int
    seed: int
    scale: str
    arch: str
    protocol: str
    protocol_version: str
    evals: int
    precision: str = "fp32"
    config: dict[str, Any]
    budget_flops: float | None = None
    zca: bool = False
    image_size: int | None = None
    listing: str = ""
    settings_source: str = ""
    settings_from: SettingsSource | None = None
    curve: int = 0

    @cached_property
    def id(self) -> str:
        """Ten hex digits of the SHA-256 of everything that decides the result."""
        return _digest(self, *UNIDENTIFIED)

    @cached_property
    def cell(self) -> str:
        """Identity but for the seed: trials of one cell take the same time."""
        return _digest(self, *UNIDENTIFIED, "seed")

    @cached_property
    def source(self) -> SettingsSource:
        """Where its settings come from, whenever it was recorded."""
        return self.settings_from or read_sentence(self.settings_source)

    @property
    def source_sentence(self) -> str:
        """The same for people, as the record has it; "" if it does not know."""
        return self.settings_source if self.settings_from is None else str(self.settings_from)

    @property
    def label(self) -> str:
        """Name for people: `bacon · cifar10 · ipc 10 · seed 0`."""
        return f"{self.method} · {self.dataset} · ipc {self.ipc} · seed {self.seed}"

    @property
    def place(self) -> str:
        """Path of its files relative to a results folder, without suffix."""
        folder = f"{self.scale}/{self.dataset}/{self.method}/ipc{self.ipc}"
        return f"{folder}/{self.arch}-seed{self.seed}-{self.id}"

    def record_path(self, results: Path) -> Path:
        """Where this trial's record lies under `results`."""
        return results / f"{self.place}.json"

    def distilled_path(self, results: Path) -> Path:
        """Where this trial's distilled set lies, beside the record."""
        return results / f"{self.place}{DISTILLED_SUFFIX}"

    def work_folder(self, results: Path) -> Path:
        """Where checkpoints, the log and progress of this trial lie while it is not done."""
        return results / WORK_FOLDER / self.id


def _digest(trial: Trial, *ignored: str) -> str:
    facts = msgspec.structs.asdict(trial)
    for name in ignored:
        del facts[name]
    if not trial.curve:
        del facts["curve"]  # so that trials keep the ids that they had before there were curves
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:10]


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about the run that a reader may need to repeat or doubt it; unknown facts are null."""

    started_at: str
    finished_at: str
    resumed: int
    device: str
    cpu: str | None
    threads: int
    python: str
    torch: str
    torchvision: str
    harness: str
    git_commit: str | None
    git_dirty: bool | None
    code_digest: str


class CurvePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The set after so many steps and FLOPs: accuracies in [0, 1] on the tenth of train that was left out."""

    step: int
    flops: float
    accuracies: list[float]


class RecordedFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An oddity of a submitted set: which check saw what, and what it expected ("" where nothing is)."""

    level: Literal["error", "warning"]
    check: str
    seen: str
    expected: str = ""

    @classmethod
    def read(cls, sentence: str) -> RecordedFinding:
        """From the sentence that older records hold: `error: counts: saw 95 images; expected 100`."""
        level, _, rest = sentence.partition(": ")
        check, _, text = rest.partition(": ")
        seen, _, expected = text.removeprefix("saw ").partition("; expected ")
        known: Literal["error", "warning"] = "error" if level == "error" else "warning"
        return cls(known, check, seen, expected)

    def __str__(self) -> str:
        """`error: counts: saw 95 images; expected 100, 10 classes x ipc 10`."""
        if not self.expected:
            return f"{self.level}: {self.check}: {self.seen}"
        return f"{self.level}: {self.check}: saw {self.seen}; expected {self.expected}"


class Submitted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a set comes from that somebody else distilled; the claimed accuracy is a fraction in [0, 1].

    Older records hold each finding as a sentence; `found` gives the findings of all of them as fields.
    """

    claimed_accuracy: float | None
    file_digest: str
    importer: str
    findings: list[RecordedFinding | str] = []

    @property
    def found(self) -> list[RecordedFinding]:
        """The findings, field by field."""
        return [RecordedFinding.read(one) if isinstance(one, str) else one for one in self.findings]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outcome of one trial. `accuracies` holds one test accuracy in [0, 1] per freshly trained network.

    `class_accuracies` has for each of them the accuracy on each class, in the order of the labels.
    """

    schema: int = SCHEMA
    id: str
    status: Status
    reason: str | None = None
    resumable: bool = False
    trial: Trial
    accuracies: list[float] = []
    train_losses: list[float] = []
    test_looks: int = 0
    distill: Cost | None = None
    evaluate: Cost | None = None
    stored_images: int | None = None
    stored_bytes: int | None = None
    decoded_images: int | None = None
    images_digest: str | None = None
    dataset_fingerprint: str | None = None
    test_fingerprint: str | None = None
    class_accuracies: list[list[float]] = []
    curve: list[CurvePoint] = []
    submission: Submitted | None = None
    provenance: Provenance | None = None


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` aside, flush it to disk and move it to `path`: readers see all of it or none."""
    with replacing(path) as aside:
        aside.write_bytes(content)


def write_record(record: Record, results: Path) -> Path:
    """Write a record to its place and return that; refuses to replace a finished record."""
    path = record.trial.record_path(results)
    if path.exists() and read_record(path).status == "done":
        return path
    write_atomically(path, record_bytes(record))
    return path


def record_bytes(record: Record) -> bytes:
    """A record as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read_record(path: Path) -> Record:
    """Read one record strictly; a UserError says in one line why a file is not one."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"{path} is not a record of this harness ({error}); move it away or delete it"
        ) from None
    if record.schema != SCHEMA:
        raise UserError(f"{path} has record schema {record.schema}, this version reads {SCHEMA}")
    if record.id != record.trial.id:
        raise UserError(
            f"{path} does not match its own id {record.id} (edited by hand?); move it away or delete it"
        )
    return record


def record_files(results: Path) -> Iterator[Path]:
    """Paths of all records under a results folder, sorted."""
    yield from sorted(path for path in results.glob("*/*/*/ipc*/*.json") if not path.name.startswith("."))


def read_records(results: Path) -> list[Record]:
    """All records under a results folder, in the order of their paths."""
    return [read_record(path) for path in record_files(results)]


class Collection(NamedTuple):
    """The records that could be read, and one line for each file that could not."""

    records: list[Record]
    problems: list[str]


def collect(results: Path) -> Collection:
    """Read every record under `results`; a file that is no record costs its own line only."""
    records, problems = [], []
    with _no_collector():
        for path in record_files(results):
            try:
                records.append(read_record(path))
            except UserError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"cannot read {path}: {error.strerror}")
    return Collection(records, problems)


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


def hardware(provenance: Provenance | None) -> str:
    """Where a trial ran, for people: the GPU's name, or the CPU's with the number of threads."""
    if provenance is None:
        return "unknown hardware"
    if provenance.device != "cpu":
        return provenance.device
    return f"{one_line(provenance.cpu or 'unknown CPU')} with {plural(provenance.threads, 'thread')}"
