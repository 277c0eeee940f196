"""Pairs of `.pt` of MTT (GeorgeCazenavette/mtt-distillation) and its successors TESLA, FTD, DATM.

`images_best.pt` and `labels_best.pt` beside each other, each one tensor; some save `lr_best.pt` as well. MTT
itself does not save the learning rate that it learns, and saves its images as they are in training: whitened
where it ran with `--zca`.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError
from harness.importers.common import Imported, as_tensor
from harness.importers.restricted import load_torch

IMAGES, LABELS, RATE = "images", "labels", "lr"
WITHOUT_RATE = (
    "no learning rate lies beside it (MTT does not save the one it learns): trained at the protocol's; "
    "--lr gives it"
)


def partner(path: Path, part: str) -> Path:
    """The file that holds another part of the set than `path`, which holds the images."""
    return path.with_name(part + path.name[len(IMAGES) :])


def images_file(path: Path) -> Path | None:
    """The file of images that a path means, itself or inside the folder; None if there is none."""
    if path.is_dir():
        path = path / f"{IMAGES}_best.pt"
    fits = path.name.startswith(IMAGES) and path.suffix in (".pt", ".pth")
    return path if fits and path.is_file() else None


def read(path: Path, limit: int) -> list[Imported]:
    """The one set in the files."""
    images = images_file(path)
    if images is None:
        raise UserError(f"{path}: expected images_best.pt with labels_best.pt beside it, or their folder")
    labels = partner(images, LABELS)
    if not labels.is_file():
        raise UserError(f"{images} has no labels beside it; expected {labels.name} there")
    rate = partner(images, RATE)
    learned = None
    if rate.is_file():
        value = load_torch(rate, limit)
        learned = float(value if isinstance(value, (int, float)) else as_tensor(value, "rate", rate).mean())
    return [
        Imported(
            "mtt",
            as_tensor(load_torch(images, limit), "images", images),
            as_tensor(load_torch(labels, limit), "labels", labels),
            learned_lr=learned,
            notes=() if rate.is_file() else (WITHOUT_RATE,),
        )
    ]


def files_of(path: Path) -> list[Path]:
    """All files that the set is made of."""
    images = images_file(path)
    named = [] if images is None else [images, partner(images, LABELS), partner(images, RATE)]
    return [file for file in named if file.is_file()]
