"""Reference loops for speed: DANCE, TGDD, DSDM and HDD written plainly, class after class.

For each class one pass of its real and one of its synthetic images in each network, and a step of the
optimiser on the whole image tensor (in HDD one for all); float32, no compilation, default memory layout.
DSDM's covariances are formed, as its authors form them. They compute what the methods of these names compute
and exist to be timed beside them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from ncfm_loop import PlainTiles
from plain_loop import PlainLoop, distance_of_means
from torch import Tensor

from harness.core.data import Dataset
from harness.core.formation import decode
from harness.core.nets import Network

FEW = {"networks": 1, "train_epochs": 1, "train_steps": 1}


class PlainTurns(PlainTiles):
    """What the three of IDC's line have in common: pixels, and a step for each class."""

    def __init__(self, data: Dataset, ipc: int, batch_real: int, lr: float) -> None:
        super().__init__(data, ipc, batch_real=batch_real)
        self.normalise = data.transform
        self.images = self.normalise.inverse(self.images)
        self.synthetic = self.normalise.inverse(self.synthetic.detach()).requires_grad_()
        self.optimizer = torch.optim.SGD([self.synthetic], lr=lr, momentum=0.5)
        self.first, self.second = (self.fresh().requires_grad_(False) for _ in range(2))

    def descend(self, loss: Tensor) -> None:
        """A step of the optimiser on the whole tensor."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def both(self, c: int) -> tuple[Tensor, Tensor]:
        """Real images and tiles of class c, augmented alike."""
        real, tiles = self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2)
        return self.alike(self.normalise(real), self.normalise(tiles))

    def entropy(self, net: Network, tiles: Tensor, c: int) -> Tensor:
        """Cross entropy of class c."""
        return F.cross_entropy(net(tiles), torch.full((len(tiles),), c, device=self.device))


class PlainDANCE(PlainTurns):
    """One iteration of DANCE: for each class a step of matching, then for each one of calibration."""

    def step(self) -> None:
        """Both losses of all classes with one pair of networks."""
        self.synthetic.data.clamp_(0, 1)
        for c in range(self.classes):
            real, tiles = self.both(c)
            target = self.first.embed(real).detach()
            self.descend(distance_of_means(target, self.first.embed(tiles)))
        for c in range(self.classes):
            tiles = self.normalise(decode(self.own(c), 2))
            tiles, _ = self.alike(tiles, tiles[:0])
            self.descend(self.entropy(self.second, tiles, c))


class PlainTGDD(PlainTurns):
    """One iteration of TGDD: a step for each class on both losses."""

    def step(self) -> None:
        """All classes with two states of a network."""
        self.synthetic.data.clamp_(0, 1)
        for c in range(self.classes):
            real, tiles = self.both(c)
            target = self.first.embed(real).detach()
            loss = distance_of_means(target, self.first.embed(tiles))
            self.descend(loss + self.entropy(self.second, tiles, c))


class PlainDSDM(PlainTurns):
    """One iteration of DSDM: a step for each class, then the prototypes."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, 256, 0.1)
        self.past = torch.zeros(self.classes, self.first.feature_dim, device=self.device)

    def step(self) -> None:
        """All classes with one network."""
        self.synthetic.data.clamp_(0, 1)
        for c in range(self.classes):
            real, tiles = self.both(c)
            target, features = self.first.embed(real).detach(), self.first.embed(tiles)
            size = features.shape[1]
            gap = (features.T.cov() - target.T.cov()).square().sum() / size
            past = (features.mean(0) - self.past[c]).square().sum() / size
            self.descend(distance_of_means(target, features) + 50 * gap + 0.2 * past)
        with torch.no_grad():
            for c in range(self.classes):
                tiles = self.normalise(decode(self.own(c), 2))
                tiles, _ = self.alike(tiles, tiles[:0])
                self.past[c] = 0.99 * self.past[c] + 0.01 * self.first.embed(tiles).mean(0)


class PlainHDD(PlainLoop):
    """One iteration of HDD: the classes' losses are summed, then one step."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=1.0, momentum=0.5)

    def step(self) -> None:
        """Match all classes with one fresh network."""
        net = self.fresh().requires_grad_(False)
        loss = torch.tensor(0.0, device=self.device)
        for c in range(self.classes):
            real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], self.own(c))
            centres = [hyperbolic_centre(x) for x in (net.embed(real).detach(), net.embed(synthetic))]
            cosh = -lorentz(*centres)
            loss = loss + 20 * torch.log(cosh + (cosh**2 - 1).clamp(min=1e-15).sqrt())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def hyperbolic_centre(features: Tensor) -> Tensor:
    """Centroid of embeddings (n, D) on the hyperboloid of curvature -1."""
    f = features.double()
    length = f.norm(dim=1, keepdim=True).clamp(min=1e-4)
    space = torch.sinh(length.clamp(max=10)) * f / length
    points = torch.cat([(1 + space.square().sum(1, keepdim=True)).sqrt(), space], dim=1)
    mean = points.mean(0)
    return mean / lorentz(mean, mean).abs().clamp(min=1e-8).sqrt()


def lorentz(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two points."""
    return (a[1:] * b[1:]).sum() - a[0] * b[0]


LOOPS = {
    "dance": Loop(lambda data, ipc: PlainDANCE(data, ipc, 128, 0.01 * ipc).step, FEW),
    "tgdd": Loop(lambda data, ipc: PlainTGDD(data, ipc, 128, 0.01 * ipc).step, FEW),
    # The prototypes pull from the second step on, in both.
    "dsdm": Loop(lambda data, ipc: PlainDSDM(data, ipc).step, {**FEW, "prototype_after": 0}),
    "hdd": Loop(lambda data, ipc: PlainHDD(data, ipc).step),
}
