"""Siamese augmentation: real and synthetic images of a class are augmented alike (DSA, arXiv 2102.08259)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.core.augment import Draws, augment, operations, sample_draws
from harness.core.context import Context
from harness.core.data import Dataset


@dataclass(frozen=True)
class Siamese:
    """One augmentation for each class, shared by its real and its synthetic images."""

    strategy: str
    draws: Draws | None

    @classmethod
    def draw(cls, strategy: str, data: Dataset, context: Context) -> Siamese:
        """Draw operation and parameters of each class."""
        if not operations(strategy):
            return cls(strategy, None)
        generator = context.generator("augment", on_cpu=True)
        size = (data.shape[1], data.shape[2])
        return cls(strategy, sample_draws(strategy, data.num_classes, size, generator))

    def __call__(self, images: Tensor, classes: Tensor) -> Tensor:
        """Augment images (N, ...) as their classes (N,), on the CPU, were drawn."""
        return images if self.draws is None else augment(images, self.strategy, self.draws.rows(classes))
