"""FADRM: SRe2L++ in stages, after each of which the images are blended with the patches they started from.

Cui, Bi, Luo, Zhao, Shang & Shen, "FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation",
NeurIPS 2025 (arXiv 2506.24125). With P the patches, S the images and several networks that take turns, one an
iteration, each stage minimises SRe2L++'s objective (`methods/sre2l_pp.py`) with a fresh Adam, under a cosine
that runs over all stages; between two stages

    S <- alpha S + (1 - alpha) P,   both resized to the next stage's size.

One network is FADRM, several are FADRM+ (`more_networks`). Reported on CIFAR-100 (ResNet-18): 31.8, 67.4,
71.0 % at ipc 1, 10, 50, after 1000 epochs.

Departures from the authors' code (Jiacheng8/FADRM `recover/recover.py`): those of `sre2l_pp`; precision is
that of the run instead of mixed. The authors' sizes change only on ImageNet, for networks that take any size;
those of this benchmark take one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.settings import setting
from methods import resolve, sre2l, sre2l_pp
from methods.shared.recover import Adam, Batches, Look, clip, cosine, draw_views, squeezed
from methods.shared.teaching import recipe_of

REGIME = "teacher"
PROTOCOL = "kd-bssl"


@dataclass(frozen=True)
class Config(sre2l_pp.Config):
    """Settings of FADRM; the defaults are those of the authors' script for CIFAR-100."""

    iterations: int = setting(2000, "updates of the images in all stages", length=True)
    stages: tuple[int, ...] = setting((1, 1, 1, 1), "lengths of the stages beside each other")
    sides: tuple[int, ...] = setting((), "pixels of a side in each stage; (): as the dataset's images")
    alpha: float = setting(0.5, "share of the images in the blend with their patches")
    more_networks: tuple[str, ...] = setting((), "further networks that take turns, by name")


# One network, as published for Tiny ImageNet.
_TINY: dict[str, Any] = {"iterations": 1000, "stages": (1, 1), "lr_img": 0.01}
PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): row
    for dataset, row in (("cifar100", {}), ("tinyimagenet", _TINY), ("*", {}))
    for ipc in (1, 10, 50)
}
SCALED = {
    "cpu": sre2l_pp.SCALED["cpu"] | {"stages": (1, 1, 1)},
    "smoke": sre2l_pp.SCALED["smoke"] | {"stages": (1, 1)},
}
steps_of = sre2l.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Recover `ipc` images per class in stages, from patches of real images that are blended in again."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("fadrm", data.name, ipc).config
    recipe = recipe_of(config, "FADRM's network")
    teachers = squeezed(context, data, recipe, "fadrm", *config.more_networks)
    sizes = stage_sizes(data, config, [teacher.net for teacher in teachers])
    patches = sre2l_pp.starting_patches(context, data, teachers[0], ipc, config)
    staged = Staged(patches, sizes, config.alpha)
    batches = Batches.of_classes(data, ipc, config.batch_classes, teachers[0].net)
    looks = [Look(context, teacher.net, config.r_bn, config.first_weight) for teacher in teachers]
    distortion, generator = sre2l.distortion_of(config, data), context.generator("views", on_cpu=True)

    for step in context.steps(config.iterations, {"images": staged}):
        share = step / context.planned_steps()
        staged.enter(stage_at(share, config.stages))
        views = draw_views(len(batches), staged.size, distortion, generator)
        gradient, losses = batches.gradient(staged.images, views, looks[step % len(looks)])
        staged.optimizer.step(gradient, config.lr_img * cosine(share))
        clip(staged.images, data.transform)
        context.log(losses.sum())

    strategy = usual_strategy(data.name)
    images = resized(staged.images, (data.shape[1], data.shape[2]))
    return Distilled.of(data, images, method="fadrm", config=config, augmentation=strategy)


class Staged:
    """Images (n, C, H, W), which start as their patches at the first size, with the optimiser of a stage."""

    def __init__(self, patches: Tensor, sizes: Sequence[tuple[int, int]], alpha: float) -> None:
        self._patches, self._sizes, self._alpha = patches, sizes, alpha
        self._begin(0, resized(patches, sizes[0]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in this stage."""
        return self._sizes[self.stage]

    def enter(self, stage: int) -> None:
        """Go through the stages up to that one, with a blend at the start of each."""
        while self.stage < stage:
            size = self._sizes[self.stage + 1]
            patches = resized(self._patches, size)
            blend = self._alpha * resized(self.images, size) + (1 - self._alpha) * patches
            self._begin(self.stage + 1, blend)

    def state_dict(self) -> dict[str, Any]:
        """Stage, images and moments."""
        return {"stage": self.stage, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all of them."""
        self._begin(state["stage"], resized(self._patches, self._sizes[state["stage"]]))
        self.optimizer.load_state_dict(state["optimizer"])

    def _begin(self, stage: int, images: Tensor) -> None:
        self.stage, self.images = stage, images.clone()
        self.optimizer = Adam(self.images)


def stage_at(share: float, lengths: Sequence[int]) -> int:
    """Number of the stage after that share of all iterations, for stages of these relative lengths."""
    ends = [sum(lengths[: k + 1]) / sum(lengths) for k in range(len(lengths))]
    return next(k for k, end in enumerate(ends) if share < end - 1e-9)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (n, C, *size), bilinear with half-pixel centres."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def stage_sizes(data: Dataset, config: Config, nets: Sequence[Network]) -> list[tuple[int, int]]:
    """Height and width of the images in each stage; UserError for what networks or settings do not fit."""
    usual = (data.shape[1], data.shape[2])
    sizes = [(side, side) for side in config.sides] or [usual] * len(config.stages)
    if not config.stages or min(config.stages) < 1 or len(sizes) != len(config.stages):
        raise UserError(
            f"fadrm.stages {config.stages} and fadrm.sides {config.sides} do not fit; expected a positive "
            "length for each stage, and a side for each or none at all"
        )
    for size in sorted(set(sizes) - {usual}):
        for net in nets:
            if not _takes(net, (data.shape[0], *size)):
                raise UserError(
                    f"fadrm.sides: networks of images of {usual[0]}x{usual[1]} pixels take none of "
                    f"{size[0]}x{size[1]}; leave it as it is, ()"
                )
    return sizes


@torch.no_grad()
def _takes(net: Network, shape: tuple[int, int, int]) -> bool:
    """Whether images of another shape (C, H, W) come to embeddings of the same length."""
    blank = torch.zeros(1, *shape, device=next(net.parameters()).device)
    try:
        return net.embed(blank).shape[1] == net.feature_dim
    except RuntimeError:  # they shrink to nothing
        return False
