"""Datasets that come with the package and need no download: `digits` and `fashion-mini`.

`digits.npz` holds the 8x8 handwritten digits that scikit-learn ships, the test part of "Optical Recognition
of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0). Four fifths
of them are the train split: stratified, once drawn by scikit-learn.

`fashion-mini.npz` holds a part of Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747): of each
class the first 400 images of its train split and the first 200 of its test split, in their order. Copyright
and licence (MIT) of these images lie beside it in `fashion-mini.LICENSE`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harness.core.data.dataset import Samples

FOLDER = Path(__file__).parent
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_embedded(name: str, train: bool) -> Samples:
    """Read one part of an embedded dataset's fixed split."""
    if name == "fashion-mini":
        return _read(name, train, FASHION_CLASSES)
    # The stored values 0..16 become 0..255.
    return _read(name, train, tuple("0123456789"), scale=255 / 16)


def _read(name: str, train: bool, class_names: tuple[str, ...], scale: float = 1.0) -> Samples:
    with np.load(FOLDER / f"{name}.npz") as held:
        rows = held["train"] == train
        pixels = np.rint(held["images"][rows] * scale).astype(np.uint8)
        labels = held["labels"][rows].astype(np.int64)
    return Samples(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), class_names)
