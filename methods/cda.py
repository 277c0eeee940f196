"""CDA: SRe2L whose crops grow smaller as recovery goes on.

Yin & Shen, "Dataset Distillation via Curriculum Data Synthesis in Large Data Era", TMLR 2024 (arXiv
2311.18838). SRe2L's objective (`methods/sre2l.py`), where the view T(S) begins with a random resized crop of
at least the share a(i) of the image's area at iteration i of N,

    a(i) = 0.08 + 0.92 (1 + cos(pi i / (m N))) / 2   while i < m N,   then 0.08:

images get their coarse structure first. Reported (ResNet-18): 48.7 % on Tiny ImageNet at ipc 50; 13.4, 49.8,
64.4 % on CIFAR-100 at ipc 1, 10, 50 by others. At cpu scale and ipc 10 its sets stay below random images
under a teacher: like SRe2L's they begin with noise (see there).

Departures from the authors' code (VILA-Lab/SRe2L `CDA/recover_cda_tiny.py`): those of `sre2l`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import resolve, sre2l
from methods.shared.crops import SMALLEST_AREA
from methods.shared.recover import Adam, Batches, Look, clip, cosine, draw_views, squeezed
from methods.shared.starts import starting_images
from methods.shared.teaching import recipe_of

REGIME = "teacher"


@dataclass(frozen=True)
class Config(sre2l.Config):
    """Settings of CDA; the defaults are those of the authors' script for Tiny ImageNet."""

    iterations: int = setting(4000, "updates of the images", length=True)
    lr_img: float = setting(0.4, "first learning rate of the images, which falls along a cosine")
    r_bn: float = setting(0.05, "weight of the statistics")
    smallest_crop: float | None = setting(SMALLEST_AREA, "smallest crops in the end; None: no crops")
    flip: bool = setting(True, "whether half of the batches are mirrored")
    curriculum: Literal["cosine", "linear", "step"] = setting("cosine", "how crops grow smaller")
    milestone: float = setting(1.0, "share of the iterations at which they are as small as they get")


PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {} for dataset, ipcs in (("tinyimagenet", (50, 100)), ("*", (1, 10, 50))) for ipc in ipcs
}
SCALED = sre2l.SCALED
steps_of = sre2l.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Recover `ipc` images per class, in smaller and smaller crops."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("cda", data.name, ipc).config
    (teacher,) = squeezed(context, data, recipe_of(config, "CDA's network"), "cda")
    images = starting_images(data, ipc, "noise", context)
    batches = Batches.of_classes(data, ipc, config.batch_classes, teacher.net)
    optimizer = Adam(images)
    look = Look(context, teacher.net, config.r_bn, config.first_weight)
    distortion = sre2l.distortion_of(config, data)
    size, generator = (data.shape[1], data.shape[2]), context.generator("views", on_cpu=True)

    for step in context.steps(config.iterations, {"images": optimizer}):
        share = step / context.planned_steps()
        now = dataclasses.replace(distortion, smallest=smallest_crop(share, config))
        views = draw_views(len(batches), size, now, generator)
        gradient, losses = batches.gradient(images, views, look)
        optimizer.step(gradient, config.lr_img * cosine(share))
        clip(images, data.transform)
        context.log(losses.sum())

    strategy = usual_strategy(data.name)
    return Distilled.of(data, images, method="cda", config=config, augmentation=strategy)


def smallest_crop(share: float, config: Config) -> float | None:
    """Area of the smallest crop, as a share of the image's, after that share of the iterations."""
    least = config.smallest_crop
    if least is None or share >= config.milestone:
        return least
    part = share / config.milestone
    left = {"cosine": cosine(part), "linear": 1 - part, "step": 1.0}[config.curriculum]
    return least + (1 - least) * left
