"""Teachers in train mode: what they say of an image depends on the batch, or the half of one, that it is in.

SRe2L's students on CIFAR ask so about whole batches (VILA-Lab/SRe2L `small_dataset/relabel_cifar.py`).
SRe2L++, CV-DD and FADRM ask one half after the other, store the answers for every batch of every epoch
beforehand, and train students on the same batches, mixed alike (Jiacheng8/CV-DD `relabel/`, `validate/`).
The statistics that teachers remember move on, but do not enter into what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.core.errors import UserError

TEMPERATURE = 10.0  # of the teachers' weights


def teacher_weights(trust: Sequence[float]) -> Tensor:
    """Weights (teachers,) of teachers that are trusted so much, such as their accuracies in percent."""
    return (torch.tensor(trust, dtype=torch.float64) / TEMPERATURE).softmax(dim=0).float()


@torch.no_grad()
def by_batch(teacher: nn.Module, images: Tensor) -> Tensor:
    """Logits (n, classes) by the statistics of the batch."""
    logits: Tensor = teacher.train()(images)
    return logits


@dataclass(frozen=True)
class Committee:
    """Teachers, with weights (teachers,), that label a batch by the statistics of each half of it."""

    teachers: Sequence[nn.Module]
    weights: Tensor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Weighted logits (n, classes), float16 as they are stored; UserError for a single image."""
        if len(images) < 2:
            raise UserError(
                "a batch of one image cannot be labelled by its own statistics; choose one that leaves none"
            )
        halves = (images[: len(images) // 2], images[len(images) // 2 :])
        answers = [torch.cat([by_batch(teacher, half) for half in halves]) for teacher in self.teachers]
        weights = self.weights.to(images.device, non_blocking=True)
        weighted = [weight * answer for weight, answer in zip(weights, answers, strict=True)]
        return torch.stack(weighted).sum(dim=0).half()
