"""The embedded default: scikit-learn's 8x8 handwritten digits, there without any download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from harness.data.dataset import Samples


def read_digits(train: bool) -> Samples:
    """Read one part of a fixed, stratified 80/20 split; the stored values 0..16 become 0..255."""
    raw = load_digits()
    parts = train_test_split(np.arange(len(raw.target)), test_size=0.2, stratify=raw.target, random_state=0)
    rows = np.sort(parts[0 if train else 1])
    pixels = np.rint(raw.images[rows] * (255 / 16)).astype(np.uint8)
    labels = raw.target[rows].astype(np.int64)
    return Samples(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), tuple("0123456789"))
