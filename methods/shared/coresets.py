"""What coresets share: a network trained on real images, its features, and the chosen images as a set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import Dataset, draw_uniform
from harness.core.distilled import Distilled
from harness.core.errors import DataError
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces, rows_per_piece, train_step
from harness.core.settings import setting
from harness.core.sgd import SGD


@dataclass(frozen=True)
class FeatureConfig:
    """How the feature network is trained; no table says, so these are the field's usual values."""

    train_steps: int = setting(40_000, "SGD steps on real images; 200 epochs of CIFAR-10", length=True)
    train_batch: int = setting(256, "real images per SGD step")
    lr: float = setting(0.01, "learning rate of the feature network")
    momentum: float = setting(0.9, "momentum of its SGD")
    weight_decay: float = setting(5e-4, "weight decay of its SGD")


SCALED = {"cpu": {"train_steps": 200, "train_batch": 128}, "smoke": {"train_steps": 20, "train_batch": 32}}


@dataclass(frozen=True)
class TrainingBatches:
    """Which images each training step sees, and who is told of it.

    draw: indices (b,) of the images of step 0, 1, ...
    watch: told the indices (b,) of each step and the classes (b,) that the network took them for before it.
    state: what the two change from step to step.
    """

    draw: Callable[[int], Tensor]
    watch: Callable[[Tensor, Tensor], None] = lambda indices, predictions: None
    state: State = field(default_factory=dict)


def train_network(
    data: Dataset, config: FeatureConfig, context: Context, batches: TrainingBatches
) -> Network:
    """A network trained on real images, without augmentation."""
    net = context.network(data)
    optimizer = SGD(
        net.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    forward = context.accelerate(logits_forward(context))
    predictions: list[Tensor] = []

    def watched(net: Network, images: Tensor) -> Tensor:
        logits = forward(net, images)
        predictions.append(logits.detach().argmax(dim=1))
        return logits

    rows_at_once = rows_per_piece(net, data.shape)
    state = {"net": net, "optimizer": optimizer, **batches.state}
    for step in context.steps(config.train_steps, state, name="train"):
        indices = batches.draw(step)
        images, labels = data.batch(indices), data.labels[indices]
        loss, _ = train_step(watched, net, optimizer, images, labels, rows_at_once)
        batches.watch(indices, torch.cat(predictions))
        predictions.clear()
        context.log(loss)
    return net


def trained_features(data: Dataset, config: FeatureConfig, context: Context) -> Tensor:
    """Embeddings (N, D) of all training images by a network trained on random batches of them."""
    generator = context.generator("train")
    batches = TrainingBatches(draw=lambda step: draw_uniform(len(data), config.train_batch, generator))
    net = train_network(data, config, context, batches).eval()
    rows_at_once = rows_per_piece(net, data.shape)
    features = torch.empty(len(data), net.feature_dim, device=data.device)
    for _ in context.steps(1, {"features": features}, name="embed", budgeted=False):
        with torch.no_grad():
            for piece in pieces(len(data), rows_at_once or config.train_batch):
                features[piece] = net.embed(data.batch(piece))
    return features


def select_by_class(
    data: Dataset,
    ipc: int,
    config: FeatureConfig,
    context: Context,
    choose: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Class-major indices (C * ipc,) of training images that `choose` picks from each class's features."""
    refuse_scarcity(data, ipc)
    return choose_by_class(data, ipc, trained_features(data, config, context), choose)


def choose_by_class(
    data: Dataset, ipc: int, values: Tensor, choose: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Class-major indices (C * ipc,) of training images by `choose` from each class's values (n, ...)."""
    members = [row[:count] for row, count in zip(data.index.table, data.index.counts, strict=True)]
    return torch.cat([rows[choose(values[rows], ipc)] for rows in members])


def refuse_scarcity(data: Dataset, ipc: int) -> None:
    """Raise DataError, before any work, if a class has fewer than `ipc` images."""
    smallest = min(data.index.counts)
    if ipc > smallest:
        raise DataError(
            f"the smallest class of {data.name} has {smallest} images; choose an ipc of at most that"
        )


def selected(data: Dataset, indices: Tensor, method: str, config: object) -> Distilled:
    """The set of the training images at class-major `indices` (C * ipc,)."""
    strategy = usual_strategy(data.name)
    return Distilled.of(data, data.batch(indices), method=method, config=config, augmentation=strategy)
