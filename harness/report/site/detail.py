"""What the page of one record shows: facts as text, its curve as a drawing, the command that repeats it."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from harness.core.clock import Cost
from harness.core.text import MISSING, count, memory, percent, seconds
from harness.engine.records import Record, Teaching, TriedRate
from harness.report.site.data import UNKNOWN, augmentation, label_kind, regime
from harness.report.standing import told_cost, told_curve
from harness.report.tracks import typed_dataset

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 48, 34, 12, 36
TICKS = 4


class Fact(NamedTuple):
    """A name and what is known of it, both as text."""

    name: str
    text: str


class Phase(NamedTuple):
    """A line of the table of costs: what is counted, in distillation and in evaluation."""

    name: str
    distill: str
    evaluate: str


class Tick(NamedTuple):
    """A mark of an axis: its place in the drawing and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A curve in a box of `width` x `height` units: points as SVG wants them, and the marks of both axes.

    The axes meet at `left` and `bottom`; what is drawn ends at `right`.
    """

    line: str
    dots: tuple[tuple[float, float, str], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def settings(record: Record) -> list[Fact]:
    """Every setting of the method as it was resolved."""
    return [Fact(name, _value(value)) for name, value in sorted(record.trial.config.items())]


def circumstances(record: Record) -> list[Fact]:
    """What was asked for beyond the method's settings, and what came of it."""
    trial = record.trial
    budget = MISSING if trial.budget_flops is None else f"{count(trial.budget_flops)}FLOPs"
    return [
        Fact("dataset", trial.dataset),
        Fact("loaded as", f"{trial.dataset_source} {trial.listing}".strip()),
        Fact("images per class", str(trial.ipc)),
        Fact("seed", str(trial.seed)),
        Fact("scale", trial.scale),
        Fact("distilled by", trial.arch),
        Fact("precision", trial.precision),
        Fact("compute budget", budget),
        Fact("whitening", "ZCA" if trial.zca else "none"),
        Fact("image size", MISSING if trial.image_size is None else f"{trial.image_size} px"),
        Fact("settings from", trial.source_sentence or MISSING),
        Fact("stored labels", label_kind(record)),
        Fact("stored images", count(record.stored_images)),
        Fact("stored size", memory(record.stored_bytes)),
        Fact("decoded images", count(record.decoded_images)),
    ]


def evaluation(record: Record) -> list[Fact]:
    """How networks were trained on the set and how sure they are; `not recorded` is said of what is not."""
    trial = record.trial
    rate = UNKNOWN if record.learning_rate is None else f"{record.learning_rate:g}"
    return [
        Fact("evaluated network", trial.network),
        Fact("protocol", f"{trial.protocol} {trial.protocol_version}"),
        Fact("networks trained", str(trial.evals)),
        Fact("label regime", regime(record)),
        *([Fact("teacher", _teacher(record.teacher))] if record.teacher else []),
        Fact("augmentation used", augmentation(record)),
        Fact("optimiser steps", _number(record.optimizer_steps)),
        Fact("images per epoch", _number(record.images_per_epoch)),
        Fact("learning rate", rate),
        *([Fact("rates tried", ", ".join(map(_tried, record.tried_rates)))] if record.tried_rates else []),
        Fact("calibration error", _mean(record.calibration_errors, lambda mean: f"{percent(mean)} points")),
        Fact("negative log likelihood", _mean(record.negative_log_likelihoods, lambda mean: f"{mean:.3f}")),
        *(
            [Fact("accuracy of the kernel itself", f"{percent(record.kernel_accuracy)} %")]
            if record.kernel_accuracy is not None
            else []
        ),
        Fact("test split opened", f"{record.test_looks} ×"),
    ]


def costs(record: Record) -> list[Phase]:
    """What both phases took; a dash where it is not known."""
    kinds = (
        ("wall-clock time (s)", lambda cost: seconds(cost.seconds)),
        ("of these, warm-up (s)", lambda cost: seconds(cost.warmup_seconds)),
        ("steps", lambda cost: f"{cost.steps:,}"),
        ("FLOPs", lambda cost: count(cost.flops)),
        ("images forwarded", lambda cost: count(cost.images_forwarded)),
        ("peak host memory", lambda cost: memory(cost.peak_host_bytes)),
        ("peak device memory", lambda cost: memory(cost.peak_device_bytes)),
        ("compiled", lambda cost: "yes" if cost.compiled else "no"),
    )
    phases = [Phase(name, _of(record.distill, text), _of(record.evaluate, text)) for name, text in kinds]
    told = count(told_cost(record, "flops"))
    return [phase._replace(distill=told) if phase.name == "FLOPs" else phase for phase in phases]


def provenance(record: Record) -> list[Fact]:
    """Where, when and by which code it was made, and the digests of what went in and came out."""
    facts = {} if record.provenance is None else msgspec.structs.asdict(record.provenance)
    digests = {name: getattr(record, name) for name in DIGESTS}
    submitted = {} if record.submission is None else msgspec.structs.asdict(record.submission)
    return [
        Fact(name.replace("_", " "), MISSING if value is None else _value(value))
        for name, value in (facts | digests | submitted).items()
    ]


def classes(record: Record) -> list[tuple[int, float]]:
    """Mean accuracy in [0, 1] on each class over the networks, by its index; empty where it is not known."""
    by_class = zip(*record.class_accuracies, strict=True)
    return [(index, statistics.fmean(values)) for index, values in enumerate(by_class)]


def command(record: Record) -> str:
    """The command line that repeats the trial, quoted for a shell; empty for a set from elsewhere.

    Settings that were changed by hand are named; all others follow from method, dataset, ipc and scale in the
    code of the record's commit. Where the path of an image folder lay is not recorded, only its name.
    """
    trial = record.trial
    if record.submission is not None:
        return ""
    words = ["python", "-m", "harness", "run", "--methods", trial.method]
    words += ["--dataset", typed_dataset(trial)]
    words += ["--ipc", str(trial.ipc), "--scale", trial.scale, "--seeds", f"{trial.seed},"]
    words += ["--evals", str(trial.evals), "--arch", trial.arch, "--protocol", trial.protocol]
    words += ["--eval-arch", trial.eval_arch] if trial.eval_arch else []
    words += ["--precision", trial.precision] if trial.precision != "fp32" else []
    words += ["--budget", repr(trial.budget_flops)] if trial.budget_flops is not None else []
    words += ["--zca"] if trial.zca and not trial.config.get("zca") else []
    words += ["--image-size", str(trial.image_size)] if trial.image_size is not None else []
    words += ["--curve", str(trial.curve)] if trial.curve else []
    for name in trial.source.overrides:
        if name in trial.config:  # one that was added later and has its default is left out
            words += ["--set", f"{trial.method}.{name}={_value(trial.config[name])}"]
    return shlex.join(words)


def drawing(record: Record) -> Drawing | None:
    """Accuracy against FLOPs during distillation; None where fewer than two looks were taken."""
    looks = [point for point in told_curve(record) if point.accuracies]
    points = [(point.flops, statistics.fmean(point.accuracies)) for point in looks]
    if len(points) < 2:
        return None
    reach = max(flops for flops, _ in points) or 1.0
    low, high = min(accuracy for _, accuracy in points), max(accuracy for _, accuracy in points)
    bottom, top = max(0.0, low - 0.1 * (high - low) - 0.01), min(1.0, high + 0.1 * (high - low) + 0.01)

    def across(flops: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * flops / reach, 1)

    def down(accuracy: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (top - accuracy) / (top - bottom), 1)

    return Drawing(
        line=" ".join(f"{across(flops)},{down(accuracy)}" for flops, accuracy in points),
        dots=tuple((across(f), down(a), f"{percent(a)} % after {count(f)}FLOPs") for f, a in points),
        x_ticks=tuple(Tick(across(value), count(value)) for value in _steps(0.0, reach)),
        y_ticks=tuple(Tick(down(value), percent(value)) for value in _steps(bottom, top)),
    )


DIGESTS = ("images_digest", "dataset_fingerprint", "test_fingerprint")


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _mean(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The mean over the networks as text."""
    return text(statistics.fmean(values)) if values else UNKNOWN


def _tried(rate: TriedRate) -> str:
    """`0.01: 41.2 %`, the accuracy being that on a tenth of train."""
    return f"{rate.rate:g}: " + ("diverged" if rate.accuracy is None else f"{percent(rate.accuracy)} %")


def _teacher(teacher: Teaching) -> str:
    """`ResNet18, 93.1 % on a part of train`."""
    known = "" if teacher.accuracy is None else f", {percent(teacher.accuracy)} % on a part of train"
    return f"{teacher.arch}{known}"


def _of(cost: Cost | None, text: Any) -> str:
    return MISSING if cost is None else str(text(cost))


def _steps(low: float, high: float) -> Sequence[float]:
    return [low + (high - low) * step / TICKS for step in range(TICKS + 1)]


def _value(value: Any) -> str:
    """A value as it is typed on the command line: text as it is, all else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
