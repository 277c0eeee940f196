"""What is left of a trial when it has ended: its record, the predictions and a picture, or why it failed.

Bookkeeping, of which no figure depends. Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core import faults
from harness.core.errors import CircumstanceError, UserError
from harness.engine.record_files import FoundSet
from harness.engine.records import (
    Distillation,
    DistillationRecord,
    EvaluationRecord,
    Record,
    Status,
    Teaching,
    Trial,
    TriedRate,
    joined,
)

if TYPE_CHECKING:
    from harness.core.data import Dataset
    from harness.core.distilled import Distilled
    from harness.core.teachers import Teacher
    from harness.engine.evaluate import Evaluation

# How torch words the want of memory where it does not raise OutOfMemoryError.
OUT_OF_MEMORY_SIGNS = (
    "memory: you tried to allocate",  # "not enough ..." or "can't allocate ...", by platform
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def failure(error: BaseException) -> tuple[Status, str, bool]:
    """Status, reason in one line, and whether the same command should go on, for what ended a trial."""
    text = " ".join(str(error).split())
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or any(sign in text for sign in OUT_OF_MEMORY_SIGNS):
        return "oom", f"out of memory: {text}" if text else "out of memory", False
    fault = faults.passing(error)
    if isinstance(error, UserError):
        return "failed", text, fault is not None or isinstance(error, CircumstanceError)
    if fault is not None:
        return "failed", fault, True
    return "failed", f"{type(error).__name__}: {text}", False


def done_record(
    trial: Trial, found: FoundSet, dataset: Dataset, evaluation: Evaluation, **rest: Any
) -> Record:
    """The record of an evaluated set; `rest` are the fields that tell of the evaluation's circumstances."""
    part = EvaluationRecord(
        id=trial.id,
        status="done",
        trial=trial,
        set_place=found.place,
        accuracies=evaluation.accuracies,
        class_accuracies=evaluation.class_accuracies,
        train_losses=evaluation.train_losses,
        test_looks=evaluation.test_looks,
        decoded_images=evaluation.decoded_images,
        regime=evaluation.regime,
        augmentation=evaluation.augmentation,
        images_per_epoch=evaluation.images_per_epoch,
        optimizer_steps=evaluation.optimizer_steps,
        learning_rate=evaluation.learning_rate,
        tried_rates=[TriedRate(one.rate, one.accuracy) for one in evaluation.tried_rates],
        negative_log_likelihoods=evaluation.negative_log_likelihoods,
        calibration_errors=evaluation.calibration_errors,
        kernel_accuracy=evaluation.kernel_accuracy,
        images_digest=found.record.images_digest,
        dataset_fingerprint=dataset.fingerprint,
        test_fingerprint=evaluation.test_fingerprint,
        **rest,
    )
    return joined(part, found.record)


def distillation_record(
    distillation: Distillation, distilled: Distilled, dataset: Dataset, **rest: Any
) -> DistillationRecord:
    """The record of a set; `rest` are the fields that tell of its making."""
    return DistillationRecord(
        id=distillation.id,
        distillation=distillation,
        stored_images=len(distilled.images),
        stored_bytes=distilled.stored_bytes,
        decoded_images=len(distilled.images) * distilled.factor**2,
        factor=distilled.factor,
        label_kind="hard" if distilled.labels.ndim == 1 else "soft",
        augmentation=distilled.augmentation,
        learned_lr=distilled.learned_lr,
        images_digest=distilled.digest(),
        dataset_fingerprint=dataset.fingerprint,
        **rest,
    )


def taught_by(teacher: Teacher) -> Teaching:
    """What a record keeps of a teacher."""
    return Teaching(
        arch=teacher.arch,
        recipe=teacher.recipe.name,
        digest=teacher.digest,
        accuracy=teacher.accuracy,
        cost=teacher.cost,
    )


def keep_predictions(trial: Trial, evaluation: Evaluation, results: Path) -> None:
    """Write what each network said about each test image, beside where the record will lie."""
    from harness.engine.predictions import Predictions, write_predictions

    kept = Predictions.of(
        evaluation.predicted.numpy(),
        evaluation.probabilities.numpy(),
        evaluation.test_labels.numpy(),
        evaluation.test_fingerprint,
    )
    write_predictions(kept, trial.predictions_path(results))


def show_set(distilled: Distilled, distillation: Distillation, results: Path) -> None:
    """Write a small picture of the set beside where its record will lie."""
    from harness.core.preview import write_preview

    write_preview(
        distilled.pixels(),
        distilled.hard_labels()[: len(distilled.images)],
        distillation.preview_path(results),
    )
