"""Reference loops for speed: NCFM and M3D written plainly, class after class.

For each class one pass of its real and one of its synthetic images, its loss and, in NCFM, a step of the
optimiser on the whole image tensor; float32, no compilation, tensors in the default memory layout. They
compute what `methods.ncfm` and `methods.m3d` compute and exist to be timed beside them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor

from harness.core.augment import augment, sample_draws
from harness.core.data import Dataset
from harness.core.formation import decode

MATCHING = "color>crop>cutout"


class PlainTiles(PlainLoop):
    """What both have in common: tiles, and IDC's augmentation."""

    def alike(self, real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
        """One augmentation for both batches of a class."""
        draws = sample_draws(MATCHING, 1, self.size, torch.Generator())
        rows = [draws.rows(torch.zeros(len(x), dtype=torch.int64)) for x in (real, synthetic)]
        return augment(real, MATCHING, rows[0]), augment(synthetic, MATCHING, rows[1])


class PlainNCFM(PlainTiles):
    """One iteration of NCFM: for each class a step of matching, then for each one of calibration."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, batch_real=1024)
        # The authors keep pixels and normalise them where they are used.
        self.normalise = data.transform
        self.images = self.normalise.inverse(self.images)
        self.synthetic = self.normalise.inverse(self.synthetic.detach()).requires_grad_()
        self.optimizer = torch.optim.AdamW([self.synthetic], lr=1e-3, weight_decay=5e-4)
        self.first, self.last, self.blend = (self.fresh().requires_grad_(False) for _ in range(3))

    def step(self) -> None:
        """Both losses of all classes with one pair of networks."""
        self.synthetic.data.clamp_(0, 1)
        share = float(np.random.default_rng().random())
        networks = (self.blend, self.first, self.last)
        for blend, first, last in zip(*(net.parameters() for net in networks), strict=True):
            blend.copy_(share * first + (1 - share) * last)
        for c in range(self.classes):
            self.descend(self.matching(c))
        for c in range(self.classes):
            self.descend(self.calibration(c))

    def descend(self, loss: Tensor) -> None:
        """A step of the optimiser on the whole tensor."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def matching(self, c: int) -> Tensor:
        """Gap of the characteristic functions of class c."""
        real, tiles = self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2)
        real, tiles = self.alike(self.normalise(real), self.normalise(tiles))
        target = F.normalize(self.blend.embed(real)).detach()
        features = F.normalize(self.blend.embed(tiles))
        t = torch.randn((4096, features.shape[1]), device=self.device)
        (a, b), (u, v) = (
            (torch.cos(x @ t.T).mean(0), torch.sin(x @ t.T).mean(0)) for x in (target, features)
        )
        norm_target, norm = torch.sqrt(a * a + b * b), torch.sqrt(u * u + v * v)
        amplitude = (norm_target - norm) ** 2
        phase = torch.clamp(2 * (norm_target * norm - a * u - b * v), min=1e-12)
        return 300 * torch.sqrt(0.5 * amplitude + 0.5 * phase).mean()

    def calibration(self, c: int) -> Tensor:
        """Cross entropy of class c."""
        tiles = self.normalise(decode(self.own(c), 2))
        tiles, _ = self.alike(tiles, tiles[:0])
        return F.cross_entropy(self.last(tiles), torch.full((len(tiles),), c, device=self.device))


class PlainM3D(PlainTiles):
    """One iteration of M3D: the classes' losses are summed, then one step."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=1.0, momentum=0.5)

    def step(self) -> None:
        """Match all classes with one fresh network."""
        net = self.fresh().requires_grad_(False)
        loss = torch.tensor(0.0, device=self.device)
        for c in range(self.classes):
            real, tiles = self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2)
            real, tiles = self.alike(real, tiles)
            loss = loss + discrepancy(net.embed(real).detach(), net.embed(tiles))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def discrepancy(real: Tensor, synthetic: Tensor) -> Tensor:
    """Scaled squared maximum mean discrepancy of embeddings (n, D), (m, D); the class has its own scale."""
    both = torch.cat([real, synthetic])
    squares = both.square().sum(dim=1)
    distances = (squares[:, None] + squares[None] - 2 * both @ both.T).clamp_min(0)
    n = len(real)
    scale = distances[:n, :n].mean().detach()
    kernel = torch.exp(-distances / scale)
    return scale / 2 * (kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


LOOPS = {
    "ncfm": Loop(
        lambda data, ipc: PlainNCFM(data, ipc).step, {"networks": 1, "train_epochs": 1, "train_steps": 1}
    ),
    "m3d": Loop(lambda data, ipc: PlainM3D(data, ipc).step),
}
