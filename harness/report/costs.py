"""What the trials of a cell cost: means over its seeds, memory the highest, what is unknown None."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from harness.engine.records import Record

T = TypeVar("T")


class Costs(NamedTuple):
    """Cost of one trial; memory, FLOPs and images forwarded are those of distillation."""

    distill_seconds: float | None
    evaluate_seconds: float | None
    peak_host_bytes: float | None
    peak_device_bytes: float | None
    flops: float | None
    images_forwarded: float | None
    stored_bytes: float | None
    decoded_images: float | None


def costs_of(records: Sequence[Record]) -> Costs:
    """Costs of these finished trials."""
    distill = [record.distill for record in records]
    evaluate = [record.evaluate for record in records]
    return Costs(
        distill_seconds=_mean(distill, lambda cost: cost.seconds),
        evaluate_seconds=_mean(evaluate, lambda cost: cost.seconds),
        peak_host_bytes=_highest(distill, lambda cost: cost.peak_host_bytes),
        peak_device_bytes=_highest(distill, lambda cost: cost.peak_device_bytes),
        flops=_mean(distill, lambda cost: cost.flops),
        images_forwarded=_mean(distill, lambda cost: cost.images_forwarded),
        stored_bytes=_mean(records, lambda record: record.stored_bytes),
        decoded_images=_mean(records, lambda record: record.decoded_images),
    )


def settings_of(records: Iterable[Record]) -> str:
    """Where the settings of these trials come from."""
    return " / ".join(sorted({record.trial.source_sentence for record in records}))


def _mean(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    """Mean of a fact over the parts that know it; None if none does."""
    known = _known(parts, fact)
    return statistics.fmean(known) if known else None


def _highest(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    return max(_known(parts, fact), default=None)


def _known(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> list[float]:
    facts = (fact(part) for part in parts if part is not None)
    return [value for value in facts if value is not None]
