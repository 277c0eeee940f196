"""RDED: the crops of real images that a teacher finds easiest, put together, and no optimisation at all.

Sun, Shi, Yu & Lin, "On the Diversity and Realism of Distilled Dataset", CVPR 2024 (arXiv 2312.03526). Of each
of `mipc` random real images of a class, the random resized crop of the lowest cross entropy under a teacher
stays; of these the ipc * f^2 easiest are taken, and f x f of them make a stored image:

    S_c = the first ipc * f^2 of { argmin over crops of CE(teacher(crop), c) }, lowest first.

The same teacher then labels every batch of the training on it. Reported on CIFAR-10 (ConvNet with batch
norm): 23.5, 50.2, 68.4 % at ipc 1, 10, 50, each the best of several evaluations.

Departures from the authors' code (LINs-lab/RDED `synthesize/`): the teacher is trained on nine tenths of the
train split, by settings that their repository does not tell; images are drawn by name and seed, theirs by a
shuffled list of files; they are stored as they are and not as JPEG; all networks see the dataset's own mean
and deviation instead of ImageNet's; with a factor above 1 images are decoded into their tiles for training,
as those of all methods are, instead of shuffled in strips and cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import Steps, setting
from harness.core.teachers import teacher_network, train_teacher
from methods import resolve
from methods.shared.crops import Scoring, assembled, easy_crops
from methods.shared.teaching import TeacherSettings, recipe_of, teacher_row

REGIME = "teacher"


@dataclass(frozen=True)
class Config(TeacherSettings):
    """Settings of RDED; the defaults are those of the authors' commands for images of up to 64 pixels."""

    mipc: int = setting(300, "random real images of each class that crops are taken of, if it has so many")
    crops: int = setting(5, "random resized crops of each of them")
    factor: int = setting(1, "multi-formation: each stored image is a grid of factor x factor crops")


PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {} for dataset in ("cifar10", "cifar100", "tinyimagenet", "*") for ipc in (1, 10, 50)
}

SCALED = {
    "cpu": {"mipc": 100, **teacher_row("cpu")},
    "smoke": {"mipc": 20, "crops": 2, **teacher_row("smoke")},
}


def steps_of(config: Config) -> Steps:
    """No loop but that over classes."""
    return Steps(0, factor=config.factor)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Put `ipc` images per class together from the crops that are easiest for a teacher."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("rded", data.name, ipc).config
    recipe = recipe_of(config, "RDED's teacher")
    teacher = train_teacher(context, data, teacher_network(context.arch), recipe)

    size = (data.shape[1], data.shape[2])
    keep = ipc * config.factor**2
    side = (size[0] // config.factor, size[1] // config.factor)
    crops = easy_crops(context, data, teacher, keep, Scoring(config.mipc, config.crops, side))
    images = [assembled(of_class, config.factor, size) for of_class in crops.split(keep)]

    return Distilled.of(
        data,
        torch.cat(images),
        method="rded",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )
