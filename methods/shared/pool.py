"""A queue of networks of different ages, trained on real images: the network pool of IDM and BACON.

Zhao et al., "Improved Distribution Matching for Dataset Condensation" (CVPR 2023), section 3.3; queue and
meters as in uitrbn/IDM `IDM_cifar10.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset, draw_uniform
from harness.core.nets import Network
from harness.core.passes import logits_forward, rows_per_piece, train_step
from harness.core.settings import setting
from harness.core.sgd import SGD


@dataclass(frozen=True)
class PoolSettings:
    """How the pool grows and learns; defaults of the authors' scripts."""

    pool_start: int = setting(3, "networks in the pool before the first iteration", added=True)
    pool_capacity: int = setting(100, "networks in the full pool, which the oldest one leaves")
    push: int = setting(1, "fresh networks at each growth of the pool", added=True)
    push_every: int = setting(30, "iterations between fresh networks")
    trained: int = setting(2, "networks of the pool trained after each iteration", added=True)
    train_steps: int = setting(10, "SGD steps of each trained network after each iteration")
    train_batch: int = setting(256, "real images per SGD step, all classes mixed, not augmented")
    lr_net: float = setting(0.01, "learning rate of the networks", added=True)
    momentum_net: float = setting(0.9, "momentum of the networks' SGD", added=True)
    weight_decay: float = setting(5e-4, "weight decay of the networks", added=True)


class Member:
    """One network with its own optimiser and its accuracy meter."""

    def __init__(self, net: Network, settings: PoolSettings) -> None:
        self.net = net
        self.optimizer = SGD(
            net.parameters(),
            lr=settings.lr_net,
            momentum=settings.momentum_net,
            weight_decay=settings.weight_decay,
        )
        self.hits = torch.zeros((), dtype=torch.int64, device=next(net.parameters()).device)
        self.seen = 0

    @property
    def accuracy_percent(self) -> Tensor:
        """Training accuracy since the last reset, 0..100, a scalar; 0 for a network not trained since."""
        return 100.0 * self.hits.double() / max(1, self.seen)

    def reset_meter(self) -> None:
        """Forget the accuracy."""
        self.hits.zero_()
        self.seen = 0


class NetworkPool:
    """Networks from fresh to old; all draws come from the context's generators "net", "pool" and "train"."""

    def __init__(self, context: Context, data: Dataset, settings: PoolSettings) -> None:
        self.context = context
        self.data = data
        self.settings = settings
        self.members = [self._fresh() for _ in range(settings.pool_start)]
        self._forward = context.accelerate(logits_forward(context))
        self._rows_at_once = rows_per_piece(self.members[0].net, data.shape)

    def draw(self, step: int, meter_reset_every: int) -> Member:
        """The network of an iteration; before, meters are reset and fresh networks pushed when it is time."""
        if meter_reset_every and step > 0 and step % meter_reset_every == 0:
            self.reset_meters()
        if step % self.settings.push_every == 0:
            self.grow()
        return self.pick()

    def grow(self) -> None:
        """Push fresh networks at the end, dropping the oldest when the pool is full."""
        for _ in range(self.settings.push):
            if len(self.members) == self.settings.pool_capacity:
                del self.members[0]
            self.members.append(self._fresh())

    def pick(self) -> Member:
        """A network drawn uniformly, to match embeddings with."""
        return self.members[int(self._draw(1)[0])]

    def train(self) -> None:
        """Train some networks, drawn without replacement, on real images, and meter their accuracy."""
        for position in self._draw(self.settings.trained).tolist():
            for _ in range(self.settings.train_steps):
                generator = self.context.generator("train")
                indices = draw_uniform(len(self.data), self.settings.train_batch, generator)
                self.train_member(self.members[position], indices)

    def train_member(self, member: Member, indices: torch.Tensor) -> torch.Tensor:
        """One SGD step of one network on the given real images; returns the loss before it."""
        images, labels = self.data.batch(indices), self.data.labels[indices]
        loss, hits = train_step(
            self._forward, member.net, member.optimizer, images, labels, self._rows_at_once
        )
        member.hits += hits
        member.seen += len(indices)
        return loss

    def reset_meters(self) -> None:
        """Forget all accuracies, as the authors' scripts do whenever they evaluate."""
        for member in self.members:
            member.reset_meter()

    def state_dict(self) -> dict[str, Any]:
        """All networks, optimisers and meters."""
        return {
            "members": [
                {
                    "net": member.net.state_dict(),
                    "optimizer": member.optimizer.state_dict(),
                    "hits": member.hits,
                    "seen": member.seen,
                }
                for member in self.members
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all members; the pool takes the saved size."""
        self.members = [self._fresh() for _ in state["members"]]
        for member, saved in zip(self.members, state["members"], strict=True):
            member.net.load_state_dict(saved["net"])
            member.optimizer.load_state_dict(saved["optimizer"])
            member.hits.copy_(saved["hits"])
            member.seen = saved["seen"]

    def _fresh(self) -> Member:
        return Member(self.context.network(self.data), self.settings)

    def _draw(self, n: int) -> torch.Tensor:
        generator = self.context.generator("pool", on_cpu=True)
        return torch.randperm(len(self.members), generator=generator)[:n]
