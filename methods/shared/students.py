"""Networks that are trained on the synthetic set while it is being made, as DC and CAFE do."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.augment import augment_batch
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import class_labels
from harness.core.nets import Network
from harness.core.passes import logits_forward, rows_per_piece, train_step
from harness.core.sgd import SGD


class Student:
    """A network that learns from the synthetic images by plain SGD, augmented as `strategy` says.

    lr: learning rate; batch: synthetic images per SGD step.
    """

    def __init__(
        self, net: Network, data: Dataset, context: Context, *, strategy: str, lr: float, batch: int
    ) -> None:
        self.net = net
        self.data = data
        self.context = context
        self.strategy = strategy
        self.batch = batch
        self.optimizer = SGD(net.parameters(), lr=lr)
        self.forward = context.accelerate(logits_forward(context))
        self.rows_at_once = rows_per_piece(net, data.shape)

    def begin(self) -> None:
        """Start again from random weights."""
        self.context.redraw(self.net)

    def train_epoch(self, images: Tensor) -> None:
        """One epoch over class-major synthetic images (C * ipc, ...) in shuffled batches."""
        classes = self.data.num_classes
        labels = class_labels(classes, len(images) // classes, images.device)
        generator = self.context.generator("train")
        distortion = self.context.generator("train-augment", on_cpu=True)
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for rows in order.split(self.batch):
            batch = augment_batch(images[rows], self.strategy, distortion)
            train_step(self.forward, self.net, self.optimizer, batch, labels[rows], self.rows_at_once)
