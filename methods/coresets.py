"""What coreset methods share: features of a trained network, and the chosen images as a set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.data import Dataset, draw_uniform
from harness.errors import DataError
from methods.api import Context, Distilled, class_labels
from methods.augment import usual_strategy
from methods.passes import pieces, rows_per_piece, train_step
from methods.pool import logits_forward


@dataclass(frozen=True)
class FeatureConfig:
    """How the feature network is trained; no table says, so these are the field's usual values."""

    train_steps: int = 40_000  # SGD steps on real images; 200 epochs of CIFAR-10
    train_batch: int = 256  # real images per step
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4


SCALED = {"cpu": {"train_steps": 200, "train_batch": 128}, "smoke": {"train_steps": 20, "train_batch": 32}}


def trained_features(data: Dataset, config: FeatureConfig, context: Context) -> Tensor:
    """Embeddings (N, D) of all training images by a network trained on them, without augmentation."""
    net = context.network(data)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    forward = context.accelerate(logits_forward(context))
    rows_at_once = rows_per_piece(net, data.shape)
    for _ in context.steps(config.train_steps, {"net": net, "optimizer": optimizer}, name="train"):
        indices = draw_uniform(len(data), config.train_batch, context.generator("train"))
        images, labels = data.batch(indices), data.labels[indices]
        loss, _ = train_step(forward, net, optimizer, images, labels, rows_at_once)
        context.log(loss)

    net.eval()
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
    smallest = min(data.index.counts)
    if ipc > smallest:
        raise DataError(
            f"the smallest class of {data.name} has {smallest} images; choose an ipc of at most that"
        )
    features = trained_features(data, config, context)
    members = [row[:count] for row, count in zip(data.index.table, data.index.counts, strict=True)]
    return torch.cat([rows[choose(features[rows], ipc)] for rows in members])


def selected(data: Dataset, indices: Tensor, ipc: int, method: str, config: object) -> Distilled:
    """The set of the training images at class-major `indices` (C * ipc,)."""
    return Distilled(
        images=data.batch(indices),
        labels=class_labels(data.num_classes, ipc, data.device),
        ipc=ipc,
        dataset=data.name,
        class_names=data.class_names,
        transform=data.transform,
        method=method,
        config=dataclasses.asdict(config),  # type: ignore[call-overload]
        augmentation=usual_strategy(data.name),
    )
