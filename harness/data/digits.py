"""The embedded default: the 8x8 handwritten digits that scikit-learn ships, there without any download.

`digits.npz` holds them, and which of them are the train split: stratified, four fifths, once drawn by
scikit-learn. They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
UCI Machine Learning Repository, 1998, CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harness.data.dataset import Samples

FILE = Path(__file__).with_suffix(".npz")


def read_digits(train: bool) -> Samples:
    """Read one part of the fixed split; the stored values 0..16 become 0..255."""
    with np.load(FILE) as held:
        rows = held["train"] == train
        pixels = np.rint(held["images"][rows] * (255 / 16)).astype(np.uint8)
        labels = held["labels"][rows].astype(np.int64)
    return Samples(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), tuple("0123456789"))
