"""Reference loop for speed: an epoch of training on a distilled set, as DC's authors write it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop

from harness.core.augment import FULL_STRATEGY, augment, sample_draws
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import class_labels
from harness.engine.protocol import protocol_named
from harness.engine.training import TrainingSet, train_network

PROTOCOL = "dc-1000"


class PlainEvaluation(PlainLoop):
    """SGD over all images once, in batches of 256, each augmented by one operation."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.net = self.fresh()
        self.targets = class_labels(self.classes, ipc, self.device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(self) -> None:
        """One epoch."""
        for rows in torch.randperm(len(self.targets)).split(256):
            draws = sample_draws(FULL_STRATEGY, len(rows), self.size, torch.Generator(), one_operation=True)
            images = augment(self.synthetic.detach()[rows], FULL_STRATEGY, draws)
            loss = F.cross_entropy(self.net(images), self.targets[rows.to(self.device)])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def ours(data: Dataset, ipc: int, context: Context) -> None:
    """Train a network as evaluations do."""
    rows = data.index.balanced(ipc, context.generator("init"))
    labels = class_labels(data.num_classes, ipc, data.device)
    training_set = TrainingSet(data.batch(rows), labels, FULL_STRATEGY, ipc=ipc)
    train_network(context.network(data), training_set, protocol_named(PROTOCOL), context, name="distill")


LOOPS = {"evaluation": Loop(lambda data, ipc: PlainEvaluation(data, ipc).step, ours=ours)}
