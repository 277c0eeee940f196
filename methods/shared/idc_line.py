"""What the methods share that were built on IDC's code: tiles, a turn for each class, networks.

Synthetic images are pixels in [0, 1], grids of tiles. Each class takes an optimiser step over the whole
image tensor at its turn. Networks are trained on the real images beforehand, mostly with CutMix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.experts import ExpertSettings
from harness.core.formation import compose, decode_by_class
from harness.core.settings import Steps, setting
from methods.shared.classwise import ClassTurns


@dataclass(frozen=True)
class Pretraining:
    """How networks are trained on the real images beforehand; the defaults are DANCE's and TGDD's."""

    networks: int = setting(5, "pretrained networks")
    train_epochs: int = setting(60, "epochs of the networks' pretraining on real images")
    train_steps: int | None = setting(
        None, "SGD steps at which an epoch of the pretraining is cut off; None: whole epochs"
    )
    train_batch: int = setting(64, "real images per SGD step of the pretraining")
    train_lr: float = setting(0.01, "first learning rate of the pretraining")
    train_decay: float = setting(0.2, "its factor after two and after five sixths of the epochs")
    train_momentum: float = setting(0.9, "momentum of the pretraining's SGD")
    train_weight_decay: float = setting(5e-4, "weight decay of the pretraining")
    train_strategy: str = setting("color>crop", "augmentation of the pretraining")
    train_cutmix: float = setting(0.5, "probability of CutMix in a step of the pretraining")


def steps_of(config: Any) -> Steps:
    """The loop of a method; the training of the networks before it is not in it."""
    return Steps(config.iterations, real=config.batch_real, factor=config.factor)


def expert_settings(
    config: Pretraining, snapshots: Literal["all", "ends", "last"] = "last"
) -> ExpertSettings:
    """The pretraining of these settings, with those of its snapshots that a method asks for."""
    epochs = config.train_epochs
    return ExpertSettings(
        count=config.networks,
        epochs=epochs,
        batch=config.train_batch,
        lr=config.train_lr,
        momentum=config.train_momentum,
        weight_decay=config.train_weight_decay,
        decay_epochs=decay_epochs(epochs) if config.train_decay != 1 else (),
        decay=config.train_decay,
        strategy=config.train_strategy,
        cutmix=config.train_cutmix,
        steps_per_epoch=config.train_steps,
        snapshots=snapshots,
    )


def decay_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs before which the rate of IDC's networks falls, after two and five sixths of all."""
    return tuple(sorted({2 * epochs // 3, 5 * epochs // 6} - {0}))


def initial_pixels(data: Dataset, ipc: int, factor: int, context: Context) -> Tensor:
    """Class-major images (C * ipc, ...) in [0, 1], each tile another real image reduced to nearest pixels."""
    generator = context.generator("init")
    draws = [data.index.balanced(ipc, generator) for _ in range(factor**2)]
    return compose([data.transform.inverse(data.batch(rows)) for rows in draws], factor, nearest=True)


def training_tiles(pixels: Tensor, data: Dataset, factor: int, most: int, context: Context) -> Tensor:
    """Normalised images (C * m, ...) that class-major pixels (C * ipc, ...) decode to.

    m <= `most`: where a class has more, they are drawn at random.
    """
    classes = data.num_classes
    tiles = decode_by_class(data.transform(pixels), factor, classes)
    per_class = len(tiles) // classes
    if per_class <= most:
        return tiles
    generator = context.generator("tiles")
    keys = torch.rand(classes, per_class, generator=generator, device=pixels.device)
    chosen = keys.argsort(dim=1)[:, :most]
    return tiles[(chosen + per_class * torch.arange(classes, device=pixels.device)[:, None]).flatten()]


@dataclass(frozen=True)
class TileTurns:
    """Steps of each class on the tiles of its images, of which at most `most` are looked at."""

    data: Dataset
    context: Context
    optimizer: ClassTurns
    factor: int
    most: int

    def take(self, descend: Callable[[Tensor], Tensor]) -> Tensor:
        """One optimiser step for each class on its loss as it is at its turn; returns these losses (C,).

        descend: puts the gradient of the summed class losses into `.grad` of tiles (C * m, ...) and returns
        these losses.
        """
        self.optimizer.approach()
        pixels = self.optimizer.images.detach().requires_grad_()
        tiles = self.tiles(pixels)
        leaf = tiles.detach().requires_grad_()
        losses = descend(leaf)
        (gradient,) = torch.autograd.grad(tiles, pixels, leaf.grad)
        self.optimizer.depart(gradient)
        return losses

    def tiles(self, pixels: Tensor) -> Tensor:
        """Normalised tiles (C * m, ...) of pixels (C * ipc, ...)."""
        return training_tiles(pixels, self.data, self.factor, self.most, self.context)
