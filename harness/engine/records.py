"""What a trial is, what it is made of and what it left behind, as typed facts.

A trial asks one question of a distilled set: how good are networks of one kind that one protocol trains on
it? The set is a `Distillation`, which trials that ask about it share. In which files it all lies is told by
`harness.engine.record_files`.

Accuracies are fractions in [0, 1]; units are in the names; what is not known is null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.core.clock import Cost
from harness.core.regime import Regime
from harness.core.text import one_line, plural
from harness.engine.scales import SCALES
from methods.source import SettingsSource, read_sentence

FIRST_SCHEMA, SCHEMA = 1, 2
# Methods that all others are compared with: random images, the same with soft labels, and all images.
FLOOR, SOFT_FLOOR, CEILING = "random", "random@soft", "whole"
WORK_FOLDER = ".work"
DISTILLED_SUFFIX = ".safetensors"
PREDICTIONS_SUFFIX = ".npz"

UNIDENTIFIED = ("settings_source", "settings_from")  # what does not tell a trial from others
LATER = {"curve": 0, "eval_arch": ""}  # facts that came later; where they say nothing, ids are what they were

Status = Literal["done", "failed", "timeout", "oom"]
LabelKind = Literal["hard", "soft"]


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What decides a distilled set, in canonical form: two equal ones are the same work and the same set.

    `config` is the method's resolved configuration as plain values, without settings that came later and have
    their defaults (`methods.contract`). `settings_from` says where it comes from and is no part of the
    identity. `curve` is the number of looks at the set while it is made, which then leaves a tenth of the
    train split out for them; 0: none, and nothing left out.
    """

    method: str
    dataset: str
    dataset_source: str
    ipc: int
    seed: int
    scale: str
    arch: str
    precision: str = "fp32"
    config: dict[str, Any]
    budget_flops: float | None = None
    zca: bool = False
    image_size: int | None = None
    listing: str = ""
    settings_from: SettingsSource | None = None
    curve: int = 0

    @cached_property
    def id(self) -> str:
        """Ten hex digits of the SHA-256 of everything that decides the set."""
        return _digest(msgspec.structs.asdict(self), UNIDENTIFIED)

    @property
    def label(self) -> str:
        """Name for people: `bacon · cifar10 · ipc 10 · seed 0`."""
        return f"{self.method} · {self.dataset} · ipc {self.ipc} · seed {self.seed}"

    @property
    def folder(self) -> str:
        """Folder of its files, relative to a results folder."""
        return f"{self.scale}/{self.dataset}/{self.method}/ipc{self.ipc}"

    @property
    def place(self) -> str:
        """Path of its files relative to a results folder, without suffix."""
        return f"{self.folder}/{self.arch}-seed{self.seed}-{self.id}"

    def record_path(self, results: Path) -> Path:
        """Where the record of the distillation lies under `results`."""
        return results / f"{self.place}.json"

    def preview_path(self, results: Path) -> Path:
        """Where a small picture of the set lies, beside that record."""
        return results / f"{self.place}.png"

    def set_path(self, results: Path) -> Path:
        """Where the distilled set lies, beside that record."""
        return results / f"{self.place}{DISTILLED_SUFFIX}"

    def work_folder(self, results: Path) -> Path:
        """Where the checkpoints of the distillation lie while it is not done."""
        return results / WORK_FOLDER / self.id


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A set and a question about it, one cell of the plan in canonical form; equal ones are the same work.

    The set's facts are those of `Distillation`; records of earlier times say where the settings come from by
    the sentence `settings_source`. Asked is how good `evals` networks are that a protocol trains on the set:
    `eval_arch`, or "" for the one that distilled it.
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
    eval_arch: str = ""

    @cached_property
    def id(self) -> str:
        """Ten hex digits of the SHA-256 of everything that decides the result."""
        return _digest(msgspec.structs.asdict(self), UNIDENTIFIED)

    @cached_property
    def cell(self) -> str:
        """Identity but for the seed: trials of one cell take the same time."""
        return _digest(msgspec.structs.asdict(self), (*UNIDENTIFIED, "seed"))

    @cached_property
    def distillation(self) -> Distillation:
        """The set that it asks about."""
        facts = msgspec.structs.asdict(self)
        return Distillation(**{name: facts[name] for name in Distillation.__struct_fields__})

    @property
    def network(self) -> str:
        """The network that is trained on the set."""
        return self.eval_arch or self.arch

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
        """Name for people: that of the set, then what is asked of it beyond the usual.

        `bacon · cifar10 · ipc 10 · seed 0 · on ResNet18 · kd-300`
        """
        usual = SCALES[self.scale].protocol if self.scale in SCALES else self.protocol
        asked = [f"on {self.eval_arch}"] if self.eval_arch else []
        asked += [self.protocol] if self.protocol != usual else []
        return " · ".join([self.distillation.label, *asked])

    @property
    def place(self) -> str:
        """Path of its files relative to a results folder, without suffix; they lie beside the set's."""
        return f"{self.distillation.place}.{self.network}.{self.protocol}.{self.id}"

    @property
    def first_place(self) -> str:
        """The same for records of schema 1, which are of a distillation and an evaluation in one."""
        return f"{self.distillation.folder}/{self.arch}-seed{self.seed}-{self.id}"

    def record_path(self, results: Path) -> Path:
        """Where this trial's record lies under `results`."""
        return results / f"{self.place}.json"

    def predictions_path(self, results: Path) -> Path:
        """Where the predictions of its networks lie, beside the record."""
        return results / f"{self.place}{PREDICTIONS_SUFFIX}"

    def work_folder(self, results: Path) -> Path:
        """Where checkpoints of the evaluation, the log and progress lie while the trial is not done."""
        return results / WORK_FOLDER / self.id


def trial_of(distillation: Distillation, **asked: Any) -> Trial:
    """The trial that asks about a set what the other facts of a trial say, its own network being ""."""
    other = asked.get("eval_arch", "")
    facts = msgspec.structs.asdict(distillation) | asked
    return Trial(**(facts | {"eval_arch": "" if other == distillation.arch else other}))


def _digest(facts: dict[str, Any], ignored: tuple[str, ...]) -> str:
    silent = {name for name, nothing in LATER.items() if facts.get(name) == nothing}
    kept = {name: value for name, value in facts.items() if name not in ignored and name not in silent}
    return hashlib.sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()[:10]


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
    # Since it makes a CPU's seconds other ones. It was never so before records told.
    keeps_memory: bool = False


class CurvePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The set after so many steps and FLOPs: accuracies in [0, 1] on the tenth of train that was left out."""

    step: int
    flops: float
    accuracies: list[float]


class TriedRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A learning rate that was tried, and its accuracy on a tenth of train; null where it diverged."""

    rate: float
    accuracy: float | None


class Teaching(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The teacher that an evaluation asked: its network and recipe, and how good it is on a part of train.

    accuracy: in [0, 1], on images left out of its training. cost: of training it, whoever did; null if it was
    there already and does not tell.
    """

    arch: str
    recipe: str
    digest: str
    accuracy: float | None = None
    cost: Cost | None = None


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


class FirstRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outcome of one trial as schema 1 has it. One test accuracy in [0, 1] per freshly trained network.

    `class_accuracies` has for each of them the accuracy on each class, in the order of the labels.
    """

    schema: int = FIRST_SCHEMA
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


class Record(FirstRecord, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is known of a trial, of its set and of its evaluation. What schema 1 does not record is null.

    Attributes:
        label_kind: of the labels that are stored with the set.
        factor: each stored image decodes to factor * factor training images.
        regime: what the networks were told of each image: its hard label, the labels stored with the set, or
            what a teacher says of it.
        augmentation: the strategy that was really used; "" for none.
        optimizer_steps: of each network. images_per_epoch: that it was trained on.
        learning_rate: of their training. tried_rates: held-out accuracy by rate, where it was chosen.
        negative_log_likelihoods, calibration_errors: of each network on the test split.
        kernel_accuracy: of the regression that the set was distilled for, without any network; null for sets
            without one, and where it would take too long.
        set_place: path of the set's files relative to the results folder, without suffix.
        distilled_in: circumstances of the distillation; those of the evaluation are the `provenance`.
    """

    schema: int = SCHEMA
    label_kind: LabelKind | None = None
    factor: int | None = None
    regime: Regime | None = None
    augmentation: str | None = None
    optimizer_steps: int | None = None
    images_per_epoch: int | None = None
    learning_rate: float | None = None
    tried_rates: list[TriedRate] = []
    negative_log_likelihoods: list[float] = []
    calibration_errors: list[float] = []
    kernel_accuracy: float | None = None
    teacher: Teaching | None = None
    set_place: str = ""
    distilled_in: Provenance | None = None

    @property
    def made_in(self) -> Provenance | None:
        """Circumstances of the distillation, which are the evaluation's where one run made both."""
        return self.distilled_in or self.provenance

    @property
    def resumed(self) -> int:
        """How often its distillation and its evaluation went on from a checkpoint."""
        made = None if self.schema == FIRST_SCHEMA else self.distilled_in
        return sum(phase.resumed for phase in (made, self.provenance) if phase is not None)

    def set_path(self, results: Path) -> Path:
        """Where the distilled set lies."""
        return results / f"{self.set_place or self.trial.distillation.place}{DISTILLED_SUFFIX}"


class DistillationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set that was distilled: what it cost, what it is. Written once the set lies in its place.

    `steps` are those of the loop that changes the set, without those before it. `curve` is judged by the
    question of one trial, whose id is `judged_for`.
    """

    schema: int = SCHEMA
    kind: Literal["distillation"] = "distillation"
    id: str
    distillation: Distillation
    cost: Cost | None = None
    steps: int = 0
    stored_images: int
    stored_bytes: int
    decoded_images: int
    factor: int
    label_kind: LabelKind
    augmentation: str
    learned_lr: float | None = None
    images_digest: str
    dataset_fingerprint: str
    curve: list[CurvePoint] = []
    judged_for: str = ""
    provenance: Provenance | None = None


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to a trial's question, or why there is none; the fields are those of `Record`."""

    schema: int = SCHEMA
    kind: Literal["evaluation"] = "evaluation"
    id: str
    status: Status
    reason: str | None = None
    resumable: bool = False
    trial: Trial
    set_place: str = ""
    images_digest: str | None = None
    regime: Regime | None = None
    augmentation: str | None = None
    decoded_images: int | None = None
    images_per_epoch: int | None = None
    optimizer_steps: int | None = None
    learning_rate: float | None = None
    tried_rates: list[TriedRate] = []
    teacher: Teaching | None = None
    accuracies: list[float] = []
    class_accuracies: list[list[float]] = []
    negative_log_likelihoods: list[float] = []
    calibration_errors: list[float] = []
    kernel_accuracy: float | None = None
    train_losses: list[float] = []
    test_looks: int = 0
    dataset_fingerprint: str | None = None
    test_fingerprint: str | None = None
    evaluate: Cost | None = None
    submission: Submitted | None = None
    provenance: Provenance | None = None

    @classmethod
    def of(cls, record: Record) -> EvaluationRecord:
        """The part of a record that a trial has for itself."""
        held = msgspec.structs.asdict(record)
        return cls(**{name: held[name] for name in cls.__struct_fields__ if name in held})


def joined(evaluation: EvaluationRecord, made: DistillationRecord | FirstRecord | None) -> Record:
    """Both in one; without the record of its set, what that would tell is null.

    A set may have been made with a record of schema 1, which is of another trial as well.
    """
    facts = {name: getattr(evaluation, name) for name in EvaluationRecord.__struct_fields__ if name != "kind"}
    return Record(**facts, **(_of_set(made, evaluation.trial) if made is not None else {}))


def first_joined(first: FirstRecord) -> Record:
    """A record of schema 1 as what is known of its trial."""
    facts = {name: getattr(first, name) for name in FirstRecord.__struct_fields__}
    return Record(**facts, set_place=first.trial.first_place, distilled_in=first.provenance)


def _of_set(made: DistillationRecord | FirstRecord, trial: Trial) -> Mapping[str, Any]:
    facts = {
        "stored_images": made.stored_images,
        "stored_bytes": made.stored_bytes,
        "distilled_in": made.provenance,
    }
    if isinstance(made, FirstRecord):
        return facts | {"distill": made.distill}
    judged = made.curve if made.judged_for == trial.id else []
    return facts | {
        "distill": made.cost,
        "label_kind": made.label_kind,
        "factor": made.factor,
        "curve": judged,
    }


def ran_on(record: Record) -> str:
    """Where a trial ran, for people; both places if its set was asked elsewhere than it was made."""
    made, asked = hardware(record.made_in), hardware(record.provenance)
    return made if made == asked else f"{made}, evaluation on {asked}"


def hardware(provenance: Provenance | None) -> str:
    """Where a run was, for people: the GPU's name, or the CPU's with the number of threads."""
    if provenance is None:
        return "unknown hardware"
    if provenance.device != "cpu":
        return provenance.device
    kept = ", freed memory kept" if provenance.keeps_memory else ""
    return f"{one_line(provenance.cpu or 'unknown CPU')} with {plural(provenance.threads, 'thread')}{kept}"
