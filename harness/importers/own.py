"""`.safetensors` of this harness: normalisation, class names, factor and rate stand in the file."""

from __future__ import annotations

from pathlib import Path

from harness.importers.common import Imported, refuse_large
from methods.api import Distilled


def read(path: Path, limit: int) -> list[Imported]:
    """The one set in the file."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    distilled = Distilled.load(path)
    return [
        Imported(
            "safetensors",
            distilled.images,
            distilled.labels,
            learned_lr=distilled.learned_lr,
            transform=distilled.transform,
            class_names=distilled.class_names,
            factor=distilled.factor,
            augmentation=distilled.augmentation,
        )
    ]
