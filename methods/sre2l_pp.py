"""SRe2L++: SRe2L from patches of real images, in random crops; with several networks, the recovery of CV-DD.

Cui, Bi, Luo, Zhao, Shang & Shen, "Dataset Distillation via Committee Voting", 2025 (arXiv 2501.07575), whose
baseline it is. SRe2L's objective (`methods/sre2l.py`) under a view T that crops, mirrors and rolls; images
start from patches of real images instead of noise. A committee of networks f_v, each trusted by its accuracy
a_v in percent on held-out images, has

    minimise  sum_v w_v [ CE(f_v(T(S)), y) + r_bn R_v ],   w = softmax(a / 5).

SRe2L++ has one network; `more_networks` names others. Students learn by protocol `kd-bssl`, from labels of
half batches by their own statistics. Reported on CIFAR-10 (ResNet-18): 24.4, 42.5, 63.0 % at ipc 1, 10, 50.

Departures from the authors' code (Jiacheng8/CV-DD `recover/`): those of `sre2l`; the patches, "of medium
difficulty" and to be downloaded there, are those that RDED's rule finds easiest for the network
(`methods/shared/crops.py`); a committee is the same for all images instead of a pair drawn for each index;
one network labels, also after a committee's recovery, where theirs weighs the answers of five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from harness.core.teachers import Teacher
from methods import resolve, sre2l
from methods.shared.crops import SMALLEST_AREA, Scoring, easy_crops
from methods.shared.recover import Adam, Batches, Look, clip, cosine, draw_views, squeezed, vote
from methods.shared.starts import starting_images
from methods.shared.teaching import recipe_of

REGIME = "teacher"
PROTOCOL = "kd-bssl"


@dataclass(frozen=True)
class Config(sre2l.Config):
    """Settings of SRe2L++; the defaults are those of the authors' scripts for small images."""

    iterations: int = setting(4000, "updates of the images", length=True)
    smallest_crop: float | None = setting(
        SMALLEST_AREA, "area of the smallest random resized crop, as a share of the image; None: no crop"
    )
    flip: bool = setting(True, "whether half of the batches are mirrored")
    mipc: int = setting(300, "real images of each class that patches come from, if it has so many")
    crops: int = setting(5, "crops of each of them, of which one may become a patch")
    more_networks: tuple[str, ...] = setting((), "further networks that vote, by name")
    vote_temp: float = setting(5.0, "temperature of the votes' weights, for accuracies in percent")


PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {} for dataset in ("cifar10", "cifar100", "tinyimagenet", "*") for ipc in (1, 10, 50)
}
SCALED = {
    "cpu": sre2l.SCALED["cpu"] | {"mipc": 50},
    "smoke": sre2l.SCALED["smoke"] | {"mipc": 50, "crops": 2},
}
steps_of = sre2l.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Recover `ipc` images per class from patches of real images."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("sre2l_pp", data.name, ipc).config
    size = (data.shape[1], data.shape[2])
    recipe = recipe_of(config, "SRe2L++'s network")
    teachers = squeezed(context, data, recipe, "sre2l_pp", *config.more_networks)
    images = starting_patches(context, data, teachers[0], ipc, config)
    batches = Batches.of_classes(data, ipc, config.batch_classes, teachers[0].net)
    optimizer = Adam(images)
    looks = [Look(context, teacher.net, config.r_bn, config.first_weight) for teacher in teachers]
    accuracies = [100 * teacher.accuracy for teacher in teachers]
    loss = vote(looks, vote_weights(accuracies, config.vote_temp))
    distortion, generator = sre2l.distortion_of(config, data), context.generator("views", on_cpu=True)

    for step in context.steps(config.iterations, {"images": optimizer}):
        views = draw_views(len(batches), size, distortion, generator)
        gradient, losses = batches.gradient(images, views, loss)
        optimizer.step(gradient, config.lr_img * cosine(step / context.planned_steps()))
        clip(images, data.transform)
        context.log(losses.sum())

    strategy = usual_strategy(data.name)
    return Distilled.of(data, images, method="sre2l_pp", config=config, augmentation=strategy)


def starting_patches(context: Context, data: Dataset, teacher: Teacher, ipc: int, config: Config) -> Tensor:
    """Class-major patches (C * ipc, ...) that the teacher finds easiest; any images where steps are timed."""
    if context.rehearsing:
        return starting_images(data, ipc, "real", context)
    scoring = Scoring(config.mipc, config.crops, (data.shape[1], data.shape[2]))
    return easy_crops(context, data, teacher, ipc, scoring)


def vote_weights(accuracies: Sequence[float], temp: float) -> list[float]:
    """Weights of networks of these accuracies, in percent; they sum to one."""
    weights: list[float] = (torch.tensor(accuracies, dtype=torch.float64) / temp).softmax(dim=0).tolist()
    return weights
