"""DANCE: matching in networks between start and end of their training, and calibration by the end.

Zhang, Li, Lin, Wang, Qian & Ge, "DANCE: Dual-View Distribution Alignment for Dataset Condensation", IJCAI
2024 (arXiv 2406.01063). Networks are trained on the real images beforehand. Each iteration draws one of
them, b after its training and a before, and a blend l a + (1 - l) b of their weights with l ~ U(0, 1). With
f the embedding of the blend, T the multi-formation and one augmentation A for each class, a step for each
class

    minimises  || mean f(A(B_c)) - mean f(A(T(S_c))) ||^2,   then one  CE(b(A'(T(S_c))), c)

over the synthetic images S, by one SGD with momentum. Reported on CIFAR-10 (ConvNet): 47.1, 70.8, 76.1 % at
ipc 1, 10, 50, at the best of the evaluations.

Departures from the authors' code (Hansong-Zhang/DANCE `DANCE.py`, `pretrain.py`): seeds are named; all
classes pass the networks together, and the optimiser step per class over the whole tensor is taken as two
exact sweeps (`classwise`); real images are drawn anew for each iteration, not taken in turn; they train 20
networks and draw from the first five, so five are trained. Sides that the factor does not divide are
extended by the mean colour, not by grey. Their ImageNet subsets have lr_img 0.1 and 80 epochs of
pretraining. Sets are evaluated as those of all methods are: theirs has cutmix, another schedule and the best
epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared import idc_line
from methods.shared.blends import NetworkPair
from methods.shared.classwise import SGDTurns
from methods.shared.idc_line import Pretraining, TileTurns, expert_settings, initial_pixels
from methods.shared.matching import (
    ClassMatcher,
    MeanDistance,
    class_entropy,
    embedding,
    embedding_and_logits,
)


@dataclass(frozen=True)
class Config(Pretraining):
    """Settings of DANCE and of its networks; the authors have the same for all datasets."""

    iterations: int = setting(10_000, "each with two or more optimiser steps for every class", length=True)
    lr_img: float = setting(0.01, "learning rate of the images, times ipc")
    momentum: float = setting(0.5, "momentum of the images, per class step")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(128, "real images per class and iteration")
    batch_tiles: int = setting(200, "most tiles per class and step; drawn at random where there are more")
    calibrations: int = setting(1, "rounds of calibration per iteration")
    strategy: str = setting("color>crop>cutout", "augmentation of both losses")


PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {}
    for dataset in ("mnist", "fashionmnist", "svhn", "cifar10", "cifar100", "tinyimagenet", "*")
    for ipc in (1, 10, 50)
}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}

SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "iterations": 100,
        "lr_img": 0.03,
        "batch_real": 64,
        "networks": 4,
        "train_epochs": 3,
        "train_steps": 40,
    },
    "smoke": {
        "iterations": 20,
        "lr_img": 0.03,
        "batch_real": 16,
        "networks": 2,
        "train_epochs": 2,
        "train_steps": 5,
    },
}


steps_of = idc_line.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by matching in blended networks and calibration."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dance", data.name, ipc).config
    pair = NetworkPair(context, data, expert_settings(config, "ends"))
    pixels = initial_pixels(data, ipc, config.factor, context)
    optimizer = SGDTurns(pixels, data.num_classes, config.lr_img * ipc, config.momentum)
    turns = TileTurns(data, context, optimizer, config.factor, config.batch_tiles)
    matcher = ClassMatcher(context, data, pair.blend, view=embedding)
    calibrator = ClassMatcher(context, data, pair.trained, view=embedding_and_logits)

    for _ in context.steps(config.iterations, {"images": optimizer}):
        pixels.clamp_(0, 1)
        pair.draw()
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(config.strategy, data, context)
        distance = MeanDistance.to(matcher.real_features(pair.blend, batch, siamese), batch.sizes)
        losses = turns.take(partial(matcher.descend, pair.blend, siamese=siamese, class_loss=distance))
        for _ in range(config.calibrations):
            siamese = Siamese.draw(config.strategy, data, context)
            losses = losses + turns.take(
                partial(calibrator.descend, pair.trained, siamese=siamese, class_loss=class_entropy)
            )
        context.log(losses.sum())

    return Distilled.of(
        data,
        data.transform(pixels),
        method="dance",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )
