"""DSDM: matching of means, covariances and prototypes of the past, in a pool of trained networks.

Li, Zhou, Gu, Li & Wang, "Diversified Semantic Distribution Matching for Dataset Distillation", ACM MM 2024.
A network is drawn from a pool of ones trained on the real images beforehand. With m and C the mean and the
covariance (n - 1) of the D features of one class, real (r) or synthetic (s) as its tiles show it, and real
and synthetic images of a class under one augmentation, a step for each class

    minimises  |m_s - m_r|^2  +  a |C_s - C_r|_F^2 / D  +  b |m_s - h|^2 / D

over the synthetic images S by SGD with momentum; a = 50, b = 0.2. The prototype h of a class is a running
mean of m_s over past iterations, and so over networks, h <- 0.99 h + 0.01 m_s; it pulls after iteration
2000. Reported on CIFAR-10 (ConvNet), by a later paper: 45.0, 66.5, 75.8 % at ipc 1, 10, 50.

Covariances of 2048 features are never formed: with A the centred features over sqrt(n - 1), |C_s - C_r|^2 =
|A_s A_s'|^2 + |A_r A_r'|^2 - 2 |A_s A_r'|^2 has products of images only.

Departures from the authors' code (Li-Hongcheng/DSDM `DSDM.py`, `pre_train_model.py`): seeds are named; all
classes pass the network together, and the optimiser step per class over the whole tensor is taken as two
exact sweeps (`classwise`); real images are drawn anew for each iteration, not taken in turn. Sides that the
factor does not divide are extended by the mean colour, not by grey. One tile of a class has no covariance:
that is refused, where theirs divides by zero. Sets are evaluated as those of all methods are: theirs has
cutmix, another schedule and the best epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.experts import train_experts
from harness.core.nets import Network
from harness.core.settings import setting
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared import idc_line, kernels
from methods.shared.classwise import SGDTurns
from methods.shared.idc_line import Pretraining, TileTurns, expert_settings, initial_pixels
from methods.shared.matching import ClassMatcher, Seen, embedding


@dataclass(frozen=True)
class Config(Pretraining):
    """Settings of DSDM and of its pool; the defaults are those that the authors set for CIFAR-10."""

    iterations: int = setting(10_000, "each with an optimiser step for every class", length=True)
    lr_img: float = setting(0.1, "learning rate of the images at ipc 10 and `lr_side` pixels")
    lr_side: int = setting(32, "side of the images that lr_img is for; the rate grows with ipc and the area")
    momentum: float = setting(0.5, "momentum of the images, per class step")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(256, "real images per class and iteration")
    batch_tiles: int = setting(256, "most tiles per class and step; drawn at random where there are more")
    covariance_weight: float = setting(50.0, "a, weight of the gap of covariances")
    prototype_weight: float = setting(0.2, "b, weight of the distance to the prototype")
    prototype_share: float = setting(0.99, "share that a prototype keeps of itself in each iteration")
    prototype_after: int = setting(2000, "index of the last iteration without the prototypes")
    strategy: str = setting("color>crop>cutout", "augmentation of the matching")
    networks: int = setting(10, "pretrained networks")
    train_epochs: int = setting(20, "epochs of the networks' pretraining on real images")
    train_batch: int = setting(256, "real images per SGD step of the pretraining")
    train_decay: float = setting(
        1.0, "factor of the pretraining's rate after two and after five sixths of the epochs"
    )


_MNIST: dict[str, Any] = {"lr_side": 28, "strategy": "color>crop", "train_cutmix": 0.0}
PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): _MNIST if dataset == "mnist" else {}
    for dataset in ("mnist", "fashionmnist", "svhn", "cifar10", "cifar100", "*")
    for ipc in (1, 10, 50)
}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}

SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "iterations": 120,
        "lr_img": 0.3,
        "batch_real": 64,
        "batch_tiles": 64,
        "prototype_share": 0.9,
        "prototype_after": 30,
        "networks": 2,
        "train_epochs": 3,
        "train_steps": 40,
        "train_batch": 64,
    },
    "smoke": {
        "iterations": 20,
        "lr_img": 0.3,
        "batch_real": 16,
        "prototype_share": 0.9,
        "prototype_after": 5,
        "networks": 2,
        "train_epochs": 1,
        "train_steps": 5,
        "train_batch": 64,
    },
}


steps_of = idc_line.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by means, covariances and prototypes."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dsdm", data.name, ipc).config
    refuse_lone_tiles(ipc, config)
    pool = Pool(context, data, config)
    pixels = initial_pixels(data, ipc, config.factor, context)
    optimizer = SGDTurns(pixels, data.num_classes, image_rate(config, ipc, data), config.momentum)
    turns = TileTurns(data, context, optimizer, config.factor, config.batch_tiles)
    matcher = ClassMatcher(context, data, pool.net, view=embedding)
    prototypes = torch.zeros(data.num_classes, pool.net.feature_dim, device=data.device)

    for step in context.steps(config.iterations, {"images": optimizer, "prototypes": prototypes}):
        pixels.clamp_(0, 1)
        pool.draw()
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(config.strategy, data, context)
        real = matcher.real_features(pool.net, batch, siamese)
        past = prototypes if step > config.prototype_after else None
        loss = MomentDistance.to(config, real, batch.sizes, past)
        losses = turns.take(partial(matcher.descend, pool.net, siamese=siamese, class_loss=loss))
        siamese = Siamese.draw(config.strategy, data, context)
        current = mean_features(matcher, pool.net, turns.tiles(pixels), siamese)
        prototypes.copy_(current if step == 0 else prototypes.lerp(current, 1 - config.prototype_share))
        context.log(losses.sum())

    return Distilled.of(
        data,
        data.transform(pixels),
        method="dsdm",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )


def refuse_lone_tiles(ipc: int, config: Config) -> None:
    """UserError if a class shows a single tile, which has no covariance."""
    tiles = min(ipc * config.factor**2, config.batch_tiles)
    if tiles < 2 and config.covariance_weight != 0:
        raise UserError(
            f"dsdm compares covariances within a class, and ipc {ipc} with factor {config.factor} shows "
            f"{tiles} tile of each; expected 2 or more: take a larger --ipc or --set dsdm.factor=2"
        )


def image_rate(config: Config, ipc: int, data: Dataset) -> float:
    """Learning rate of the images: proportional to ipc and to the area of an image."""
    return config.lr_img * (ipc / 10) * (data.shape[1] / config.lr_side) ** 2


class Pool:
    """Networks trained on the real images, of which each iteration sees one."""

    def __init__(self, context: Context, data: Dataset, config: Config) -> None:
        self._experts = train_experts(context, data, expert_settings(config))
        self._generator = context.generator("pool", on_cpu=True)
        self._last = config.train_epochs
        self.net = context.network(data).requires_grad_(False)

    def draw(self) -> None:
        """Draw the network of an iteration."""
        self._experts.load_into(self.net, self._choice(), self._last)

    def _choice(self) -> int:
        return int(torch.randint(len(self._experts), (), generator=self._generator))


@dataclass(frozen=True)
class MomentDistance:
    """DSDM's loss, given the means (C, D) of real features, these centred, and the prototypes (C, D).

    centred: A_r, (C, n, D), rows of zeros where a class has fewer. among_real: |A_r A_r'|^2, (C,).
    """

    config: Config
    real_means: Tensor
    centred: Tensor
    among_real: Tensor
    prototypes: Tensor | None

    @classmethod
    def to(
        cls, config: Config, real: Tensor, sizes: tuple[int, ...], prototypes: Tensor | None
    ) -> MomentDistance:
        """To real features (N, D), class after class, and to prototypes if they are to pull."""
        parts = [centred(part) for part in real.split(list(sizes))]
        together = pad_sequence(parts, batch_first=True)
        among = square_norm(together, together)
        return cls(config, kernels.class_means(real, sizes), together, among, prototypes)

    def __call__(self, seen: Seen) -> Tensor:
        """Of each class seen, (k,)."""
        config, features, classes = self.config, seen.embeddings, seen.classes
        means, size = features.mean(dim=1), features.shape[2]
        loss = kernels.mean_distance(self.real_means[classes], means)
        if config.covariance_weight != 0:
            loss = loss + config.covariance_weight * self.covariance_gap(seen) / size
        if self.prototypes is not None:
            past = kernels.mean_distance(self.prototypes[classes], means)
            loss = loss + config.prototype_weight * past / size
        return loss

    def covariance_gap(self, seen: Seen) -> Tensor:
        """Squared Frobenius distance of the covariances of each class seen, (k,)."""
        own, real = centred(seen.embeddings), self.centred[seen.classes]
        return square_norm(own, own) + self.among_real[seen.classes] - 2 * square_norm(own, real)


def centred(features: Tensor) -> Tensor:
    """Features (..., n, D) less their mean, over sqrt(n - 1): A'A is their covariance; zeros for n = 1."""
    return (features - features.mean(dim=-2, keepdim=True)) / math.sqrt(max(1, features.shape[-2] - 1))


def square_norm(a: Tensor, b: Tensor) -> Tensor:
    """|A B'|^2 of each pair of a (k, n, D) and b (k, m, D), (k,)."""
    products: Tensor = torch.bmm(a, b.transpose(1, 2))
    return products.square().sum(dim=(1, 2))


@torch.no_grad()
def mean_features(matcher: ClassMatcher, net: Network, tiles: Tensor, siamese: Siamese) -> Tensor:
    """Mean features (C, D) of class-major tiles (C * m, ...)."""
    per_class = len(tiles) // matcher.data.num_classes
    means = [
        matcher.synthetic(
            net, tiles[group.start * per_class : group.stop * per_class], siamese, group
        ).embeddings.mean(dim=1)
        for group in matcher.groups(per_class)
    ]
    return torch.cat(means)
