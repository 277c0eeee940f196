"""The real training image nearest to each distilled one. The one report that needs torch and the dataset.

The distance of two images is the root of the mean squared difference over all pixels and channels, both in
[0, 1]: 0 for equal images, 1 for black and white. Distilled images are decoded first (a multi-formation set
stores a grid of tiles, networks train on the tiles), and every image of the train split is compared, of
whatever class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.engine.records import Record
from harness.report.tracks import typed_dataset

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from harness.core.data import Dataset
    from harness.core.distilled import Distilled

CHUNK = 4096  # train images compared at a time, so that memory stays small
CANDIDATES = 4  # compared once more in double precision: float32 products are off by about 1e-3


@dataclass(frozen=True)
class Matches:
    """Distilled images and the nearest real ones, a row each.

    synthetic, real: (n, H, W, 3) uint8. distances: (n,) in [0, 1]. classes, real_classes: (n,) indices into
    `class_names`. indices: (n,) places of the real images in the train split.
    """

    synthetic: NDArray[np.uint8]
    real: NDArray[np.uint8]
    distances: NDArray[np.float64]
    classes: NDArray[np.int64]
    real_classes: NDArray[np.int64]
    indices: NDArray[np.int64]
    class_names: tuple[str, ...]


def train_split(record: Record, data_dir: Path) -> Dataset:
    """The dataset that a record's set was distilled from, never downloaded.

    UserError if it is not under `data_dir`, or is another one than the record's.
    """
    from harness.core.data import load, parse

    trial = record.trial
    data = load(parse(typed_dataset(trial), data_dir, trial.image_size, trial.zca), data_dir, download=False)
    if trial.curve:
        data, _ = data.hold_out()
    if record.dataset_fingerprint not in (None, data.fingerprint):
        raise UserError(
            f"{trial.dataset} under {data_dir} has fingerprint {data.fingerprint}, the record was made from "
            f"{record.dataset_fingerprint}; --data names the folder of the datasets"
        )
    return data


def nearest_real(path: Path, data: Dataset, per_class: int = 1) -> Matches:
    """Matches of the first `per_class` decoded images of each class of a distilled file.

    UserError if the file is not one, or not of images of that size.
    """
    import torch

    from harness.core.distilled import Distilled

    distilled = Distilled.load(path)
    chosen, classes = _first_of_each_class(distilled, per_class)
    if chosen.shape[1:] != data.images.shape[1:]:
        raise UserError(f"{path} holds images {tuple(chosen.shape[1:])}, {data.name} {data.shape}")
    with torch.no_grad():
        indices, distances = _nearest(chosen, data.images)
    return Matches(
        synthetic=_as_rgb((chosen * 255).round().to(torch.uint8)),
        real=_as_rgb(data.images[indices]),
        distances=distances.numpy(),
        classes=classes.numpy(),
        real_classes=data.labels[indices].numpy(),
        indices=indices.numpy(),
        class_names=data.class_names,
    )


def _first_of_each_class(distilled: Distilled, per_class: int) -> tuple[Tensor, Tensor]:
    """Decoded images (n, C, H, W) in [0, 1], class by class, and their classes."""
    import torch

    images, classes = distilled.decoded()[0], distilled.hard_labels()
    members = [(classes == c).nonzero().flatten()[:per_class] for c in range(len(distilled.class_names))]
    chosen = torch.cat(members)
    return distilled.transform.inverse(images[chosen]).clamp(0, 1), classes[chosen]


def _nearest(images: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest train image of each image, and the distance in double precision."""
    import torch

    wanted = images.flatten(1)
    squares, places = [], []
    for start in range(0, len(train), CHUNK):
        chunk = train[start : start + CHUNK].flatten(1).float() / 255
        distance = chunk.square().sum(1) - 2 * wanted @ chunk.T
        best = distance.topk(min(CANDIDATES, len(chunk)), dim=1, largest=False)
        squares.append(best.values)
        places.append(best.indices + start)
    order = torch.cat(squares, 1).topk(min(CANDIDATES, len(train)), dim=1, largest=False).indices
    candidates = torch.cat(places, 1).gather(1, order)
    exact = _distances(images, train[candidates])
    best_distance, best_place = exact.min(1)
    return candidates.gather(1, best_place[:, None])[:, 0], best_distance


def _distances(images: Tensor, candidates: Tensor) -> Tensor:
    """Root mean squared differences (n, k) of images (n, C, H, W) from uint8 candidates (n, k, C, H, W)."""
    difference = candidates.double() / 255 - images.double()[:, None]
    return difference.flatten(2).square().mean(2).sqrt()


def _as_rgb(images: torch.Tensor) -> NDArray[np.uint8]:
    rows = images.permute(0, 2, 3, 1).numpy()
    return rows.repeat(3 // rows.shape[-1], axis=3)
