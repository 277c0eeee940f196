"""Reference loops for speed: DM, IDM and BACON written plainly, class after class, as their authors do.

Python lists of class indices, one forward and one backward pass for each class, gradients of the network's
weights computed along in IDM and BACON (their networks are in training), float32, no compilation. They
compute what `methods.dm`, `methods.idm` and `methods.bacon` compute and exist to be timed beside them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from loops import Loop
from torch import Tensor

from harness.core.augment import FULL_STRATEGY, Draws, augment, sample_draws
from harness.core.data import Dataset
from harness.core.formation import decode
from harness.core.nets import Network, build


class PlainLoop:
    """What the loops have in common: the data as float images, and draws class by class."""

    def __init__(self, data: Dataset, ipc: int, batch_real: int = 256) -> None:
        self.images = data.batch(torch.arange(len(data), device=data.device))
        self.labels = data.labels
        self.device = data.device
        self.classes = data.num_classes
        self.rows = [
            [i for i, label in enumerate(data.labels.tolist()) if label == c] for c in range(self.classes)
        ]
        self.ipc = ipc
        self.batch_real = batch_real
        self.size = (data.shape[1], data.shape[2])
        self.generator = torch.Generator(data.device)
        start = torch.cat([self.images[self.draw(c, ipc)] for c in range(self.classes)])
        self.synthetic = start.clone().requires_grad_()

    def fresh(self, arch: str = "ConvNet") -> Network:
        """A random network in the ordinary memory layout."""
        return build(
            arch,
            channels=3,
            image_size=self.size,
            classes=self.classes,
            generator=self.generator,
            device=self.device,
        )

    def draw(self, c: int, n: int) -> Tensor:
        """Rows of n random images of class c."""
        return torch.as_tensor(np.random.default_rng().permutation(self.rows[c])[:n])

    def drawn(self, n: int) -> tuple[Tensor, Tensor]:
        """N random images of all classes, with their labels."""
        rows = torch.as_tensor(np.random.default_rng().permutation(len(self.labels))[:n])
        return self.images[rows], self.labels[rows.to(self.device)]

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

    def step(self) -> None:
        """Match all classes with one fresh network."""
        net = self.fresh().requires_grad_(False)
        loss = torch.tensor(0.0, device=self.device)
        for c in range(self.classes):
            real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], self.own(c))
            target = net.embed(real).detach()
            loss = loss + distance_of_means(target, net.embed(synthetic))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class PlainPool(PlainLoop):
    """One iteration of IDM or BACON: a step for each class with one network, then some training of two."""

    def __init__(
        self, data: Dataset, ipc: int, distance: Callable[[Tensor, Tensor], Tensor], train_steps: int = 10
    ) -> None:
        super().__init__(data, ipc)
        self.distance = distance
        self.optimizer = torch.optim.SGD([self.synthetic], lr=0.2, momentum=0.5)
        self.train_steps = train_steps
        self.net, *others = (self.fresh() for _ in range(3))
        self.trained = [
            (net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4))
            for net in others
        ]

    def step(self) -> None:
        """Match all classes with one network, then train others."""
        for c in range(self.classes):
            self.match(c)
        for net, optimizer in self.trained:
            for _ in range(self.train_steps):
                images, labels = self.drawn(256)
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()

    def match(self, c: int) -> None:
        """The step of one class."""
        real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2))
        target = self.net.embed(real).detach()
        features, logits = self.net.embed_and_logits(synthetic)
        labels = torch.full((len(logits),), c, device=self.device)
        loss = self.distance(target, features) + 20.0 * F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def distance_of_means(real: Tensor, synthetic: Tensor) -> Tensor:
    """DM's and IDM's distance of the embeddings (n, D) and (m, D) of a class."""
    return (real.mean(0) - synthetic.mean(0)).square().sum()


def bacon_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """BACON's distance, by way of a density."""
    density = torch.distributions.Normal(real.mean(0), real.std(0).exp())
    gap = synthetic.mean(0) - real.mean(0)
    return -density.log_prob(synthetic.mean(0)).sum() + 0.8 * 0.5 * gap.abs().sum()


LOOPS = {
    "dm": Loop(lambda data, ipc: PlainDM(data, ipc).step),
    "idm": Loop(lambda data, ipc: PlainPool(data, ipc, distance_of_means).step),
    "bacon": Loop(lambda data, ipc: PlainPool(data, ipc, bacon_distance).step),
}


def _repeated(draws: Draws, n: int) -> Draws:
    return draws.rows(torch.zeros(n, dtype=torch.int64))
