"""A made-up dataset, ready in milliseconds, for tests and for the check that a method keeps its contract."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from harness.core.data.catalog import DatasetSpec
from harness.core.data.dataset import Dataset, Samples
from harness.core.data.transforms import Normalization

_CONTRAST = 50.0
_NOISE = 25.0


def toy(
    num_classes: int = 3,
    shape: tuple[int, int, int] = (3, 8, 8),
    per_class: int = 20,
    test_per_class: int = 10,
    seed: int = 0,
) -> Dataset:
    """Images of shape (C, H, W): a random black-and-white pattern per class under noise, easy to tell apart.

    The same arguments give the same bytes; `per_class` and `test_per_class` count images of each class.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (num_classes, *shape), generator=generator) * 2.0 - 1.0
    train = _noisy(signs, per_class, generator)
    test = _noisy(signs, test_per_class, generator)
    spec = DatasetSpec("toy", "toy")
    return Dataset(spec, train, Normalization.fit(train.images), lambda: test)


def _noisy(signs: Tensor, per_class: int, generator: Generator) -> Samples:
    labels = torch.arange(len(signs)).repeat_interleave(per_class)
    noise = torch.randn((len(labels), *signs.shape[1:]), generator=generator)
    pixels = 128 + _CONTRAST * signs[labels] + _NOISE * noise
    names = tuple(f"class{label}" for label in range(len(signs)))
    return Samples(pixels.clamp(0, 255).to(torch.uint8), labels, names)
