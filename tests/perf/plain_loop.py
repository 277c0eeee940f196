"""Reference loops for speed: DM and BACON written plainly, class after class, the way their authors do.

Python lists of class indices, one forward and one backward pass for each class, gradients of the network's
weights computed along in BACON (its networks are in training), float32, no compilation. They compute what
`methods.dm` and `methods.bacon` compute and exist to be timed beside them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data import Dataset
from harness.nets import Network
from methods.augment import FULL_STRATEGY, Draws, augment, sample_draws
from methods.formation import decode


class PlainLoop:
    """What both loops have in common: the data as float images, and draws class by class."""

    def __init__(self, data: Dataset, ipc: int, batch_real: int = 256) -> None:
        self.images = data.batch(torch.arange(len(data)))
        self.labels = data.labels
        self.classes = data.num_classes
        self.rows = [
            [i for i, label in enumerate(data.labels.tolist()) if label == c] for c in range(self.classes)
        ]
        self.ipc = ipc
        self.batch_real = batch_real
        self.size = (data.shape[1], data.shape[2])
        start = torch.cat([self.images[self.draw(c, ipc)] for c in range(self.classes)])
        self.synthetic = start.clone().requires_grad_()

    def draw(self, c: int, n: int) -> Tensor:
        """Rows of n random images of class c."""
        return torch.as_tensor(np.random.default_rng().permutation(self.rows[c])[:n])

    def siamese(self, real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
        """One augmentation for both batches of a class."""
        draws = sample_draws(FULL_STRATEGY, 1, self.size, torch.Generator())
        return tuple(augment(x, FULL_STRATEGY, _repeated(draws, len(x))) for x in (real, synthetic))

    def own(self, c: int) -> Tensor:
        """The synthetic images of class c."""
        return self.synthetic[c * self.ipc : (c + 1) * self.ipc]


class PlainDM(PlainLoop):
    """One iteration of DM: the classes' losses are summed, then one step."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=1.0, momentum=0.5)

    def step(self, net: Network) -> None:
        """Match all classes with one network."""
        net.requires_grad_(False)
        loss = torch.tensor(0.0)
        for c in range(self.classes):
            real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], self.own(c))
            target = net.embed(real).detach()
            loss = loss + (target.mean(0) - net.embed(synthetic).mean(0)).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class PlainBACON(PlainLoop):
    """One iteration of BACON: a step for each class, then some training of two networks."""

    def __init__(self, data: Dataset, ipc: int, train_steps: int = 10) -> None:
        super().__init__(data, ipc)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=0.2, momentum=0.5)
        self.train_steps = train_steps

    def step(self, net: Network, trained: list[tuple[Network, torch.optim.Optimizer]]) -> None:
        """Match all classes with one network, then train others."""
        for c in range(self.classes):
            real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2))
            target = net.embed(real).detach()
            features, logits = net.embed_and_logits(synthetic)
            gap = features.mean(0) - target.mean(0)
            density = torch.distributions.Normal(target.mean(0), target.std(0).exp())
            loss = -density.log_prob(features.mean(0)).sum() + 0.8 * 0.5 * gap.abs().sum()
            loss = loss + 20.0 * F.cross_entropy(logits, torch.full((len(logits),), c))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        for other, optimizer in trained:
            for _ in range(self.train_steps):
                rows = torch.as_tensor(np.random.default_rng().permutation(len(self.labels))[:256])
                optimizer.zero_grad()
                F.cross_entropy(other(self.images[rows]), self.labels[rows]).backward()
                optimizer.step()


def _repeated(draws: Draws, n: int) -> Draws:
    return draws.rows(torch.zeros(n, dtype=torch.int64))
