"""TGDD: distribution matching along the training of networks, with a constraint by a later state of each.

Ran, Pu, Liu, Bi & Xiao, "TGDD: Trajectory Guided Dataset Distillation with Balanced Distribution", 2025
(arXiv 2512.02469). Networks are trained on the real images beforehand, and kept after each of E epochs. Each
iteration draws one of them after e0 ~ U{0..E} epochs, and after e1 ~ U{e0..min(e0 + n - 1, E)}. With f the
embedding of the first, g the second, T the multi-formation and one augmentation A for each class, a step for
each class

    minimises  || mean f(A(B_c)) - mean f(A(T(S_c))) ||^2  +  a CE(g(A(T(S_c))), c)

over the synthetic images S by SGD with momentum; n = 7, a = 1. Reported figures: none that could be traced.

Departures from the authors' code (FlyFinley/TGDD `TGDD.py`, whose defaults are all that it says of
settings): seeds are named; all classes pass the networks together, and the optimiser step per class over the
whole tensor is taken as two exact sweeps (`classwise`); real images are drawn anew for each iteration, not
taken in turn. Sides that the factor does not divide are extended by the mean colour, not by grey. Sets are
evaluated as those of all methods are: theirs has cutmix, another schedule and the best epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.experts import train_experts
from harness.core.settings import setting
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared import idc_line
from methods.shared.classwise import SGDTurns
from methods.shared.idc_line import Pretraining, TileTurns, expert_settings, initial_pixels
from methods.shared.matching import ClassMatcher, MeanDistance, class_entropy, embedding, embedding_and_logits


@dataclass(frozen=True)
class Config(Pretraining):
    """Settings of TGDD and of its networks: the defaults of the authors' code."""

    iterations: int = setting(10_000, "each with an optimiser step for every class", length=True)
    lr_img: float = setting(0.01, "learning rate of the images, times ipc")
    momentum: float = setting(0.5, "momentum of the images, per class step")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(128, "real images per class and iteration")
    batch_tiles: int = setting(200, "most tiles per class and step; drawn at random where there are more")
    interval: int = setting(7, "n, the later state of a network is fewer epochs older than this")
    alpha: float = setting(1.0, "a, weight of the cross entropy in the later state")
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
        "networks": 2,
        "train_epochs": 6,
        "train_steps": 40,
        "interval": 2,
    },
    "smoke": {
        "iterations": 20,
        "lr_img": 0.03,
        "batch_real": 16,
        "networks": 2,
        "train_epochs": 2,
        "train_steps": 5,
        "interval": 2,
    },
}


steps_of = idc_line.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by matching along trajectories."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("tgdd", data.name, ipc).config
    states = TwoStates(context, data, config)
    pixels = initial_pixels(data, ipc, config.factor, context)
    optimizer = SGDTurns(pixels, data.num_classes, config.lr_img * ipc, config.momentum)
    turns = TileTurns(data, context, optimizer, config.factor, config.batch_tiles)
    matcher = ClassMatcher(context, data, states.earlier, view=embedding)
    constrainer = ClassMatcher(context, data, states.later, view=embedding_and_logits)

    for _ in context.steps(config.iterations, {"images": optimizer}):
        pixels.clamp_(0, 1)
        states.draw()
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(config.strategy, data, context)
        distance = MeanDistance.to(matcher.real_features(states.earlier, batch, siamese), batch.sizes)

        def descend(tiles: Tensor, siamese: Siamese = siamese, distance: MeanDistance = distance) -> Tensor:
            entropies = constrainer.descend(states.later, tiles, siamese, class_entropy)
            assert tiles.grad is not None
            pull = config.alpha * tiles.grad
            losses = matcher.descend(states.earlier, tiles, siamese, distance)
            tiles.grad += pull
            return losses + config.alpha * entropies

        context.log(turns.take(descend).sum())

    return Distilled.of(
        data,
        data.transform(pixels),
        method="tgdd",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )


class TwoStates:
    """An earlier and a later state of one pretrained network, drawn anew for each iteration."""

    def __init__(self, context: Context, data: Dataset, config: Config) -> None:
        self._experts = train_experts(context, data, expert_settings(config, "all"))
        self._generator = context.generator("states", on_cpu=True)
        self._last = config.train_epochs
        self._interval = config.interval
        self.earlier = context.network(data).requires_grad_(False)
        self.later = context.network(data).requires_grad_(False)

    def draw(self) -> None:
        """Draw a network and two numbers of epochs."""
        chosen = self._uniform(0, len(self._experts) - 1)
        early = self._uniform(0, self._last)
        late = self._uniform(early, min(early + self._interval - 1, self._last))
        self._experts.load_into(self.earlier, chosen, early)
        self._experts.load_into(self.later, chosen, late)

    def _uniform(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator))
