"""Reference loops for speed: IDC and DREAM written plainly, class after class, as their authors do.

Augmentation of the concatenated batch of a class, gradients of all parameters on both sides, one optimiser
step per class over the whole image tensor, then training of the network on real images; for DREAM a
clustering of each class before it all. Float32, no compilation, tensors in the default memory layout. They
compute what `methods.idc` and `methods.dream` compute and exist to be timed beside them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor

from harness.core.augment import augment, cutmix, draw_window, sample_draws
from harness.core.data import Dataset
from harness.core.formation import decode

MATCHING, TRAINING = "color>crop>cutout", "color>crop"
TRAIN_BATCH = 64
# A quarter of what is published: the training of networks is then a fifth of an iteration instead of a half.
N_DATA = 512


class PlainIDC(PlainLoop):
    """One inner iteration of IDC: a step for each class with one network, which is then trained."""

    def __init__(self, data: Dataset, ipc: int, batch_real: int = 64) -> None:
        super().__init__(data, ipc, batch_real)
        # The authors keep pixels and normalise them where they are used.
        self.normalise = data.transform
        self.images = self.normalise.inverse(self.images)
        self.synthetic = self.normalise.inverse(self.synthetic.detach()).requires_grad_()
        self.optimizer = torch.optim.SGD([self.synthetic], lr=5e-3, momentum=0.5)
        self.net = self.fresh()
        self.net_optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(self) -> None:
        """Match all classes, then train."""
        for c in range(self.classes):
            self.match(c)
        self.train()

    def real(self, c: int) -> Tensor:
        """The real batch of class c."""
        return self.images[self.draw(c, self.batch_real)]

    def match(self, c: int) -> None:
        """The step of one class."""
        real = self.real(c)
        both = self.normalise(torch.cat([real, decode(self.own(c), 2)]))
        draws = sample_draws(MATCHING, 1, self.size, torch.Generator())
        both = augment(both, MATCHING, draws.rows(torch.zeros(len(both), dtype=torch.int64)))
        real, own = both[: len(real)], both[len(real) :]
        parameters = list(self.net.parameters())
        loss_real = F.cross_entropy(self.net(real.detach()), self.labels_of(c, len(real)))
        wanted = [gradient.detach() for gradient in torch.autograd.grad(loss_real, parameters)]
        loss_own = F.cross_entropy(self.net(own), self.labels_of(c, len(own)))
        got = torch.autograd.grad(loss_own, parameters, create_graph=True)
        loss = sum((a - b).square().sum() for a, b in zip(wanted, got, strict=True) if a.ndim == 4)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def labels_of(self, c: int, n: int) -> Tensor:
        """The label c, n times."""
        return torch.full((n,), c, device=self.device)

    def train(self) -> None:
        """Train the network until it has seen `N_DATA` images."""
        random = np.random.default_rng()
        for rows in torch.as_tensor(random.permutation(len(self.labels))[:N_DATA]).split(TRAIN_BATCH):
            draws = sample_draws(TRAINING, len(rows), self.size, torch.Generator())
            with torch.no_grad():
                images = augment(self.normalise(self.images[rows]), TRAINING, draws)
            labels = F.one_hot(self.labels[rows.to(self.device)], self.classes).float()
            if random.random() < 0.5:
                partner = torch.randperm(len(rows)).to(self.device)
                images, labels = cutmix(images, labels, partner, draw_window(self.size, torch.Generator()))
            loss = F.cross_entropy(self.net(images), labels)
            self.net_optimizer.zero_grad()
            loss.backward()
            self.net_optimizer.step()


class PlainDREAM(PlainIDC):
    """One inner iteration of DREAM that begins with a clustering."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, batch_real=128)
        self.chosen: list[Tensor] = []

    def step(self) -> None:
        """Choose real images, match all classes, then train."""
        self.chosen = [self.representatives(c) for c in range(self.classes)]
        super().step()

    def real(self, c: int) -> Tensor:
        """The images chosen for class c."""
        return self.images[self.chosen[c]]

    def representatives(self, c: int) -> Tensor:
        """Rows of the images nearest to the centroids of a class."""
        rows = torch.as_tensor(self.rows[c])
        with torch.no_grad():
            features = self.net.embed(self.normalise(self.images[rows]))
        means = features[torch.randperm(len(rows))[: self.batch_real]]
        for _ in range(100):
            nearest = torch.cdist(features, means).argmin(dim=1)
            members = [features[nearest == k] for k in range(len(means))]
            moved = torch.stack(
                [part.mean(dim=0) if len(part) else mean for part, mean in zip(members, means, strict=True)]
            )
            movement, means = float((moved - means).square().sum()), moved
            if movement < 1e-4:
                break
        return rows[torch.cdist(means, features).argmin(dim=1).cpu()]


LOOPS = {
    "idc": Loop(lambda data, ipc: PlainIDC(data, ipc).step, {"n_data": N_DATA}),
    # Published are ten updates for a clustering; one of them makes the step a tenth as long.
    "dream": Loop(lambda data, ipc: PlainDREAM(data, ipc).step, {"n_data": N_DATA, "interval": 1}),
}
