"""Reference loops for speed: IID's constraints in DM's and IDM's plain loops, class after class.

As its authors do: a product of matrices for each image's covariance, the trained ResNet18 on each class's
synthetic images by itself; float32, no compilation, the default memory layout. They compute what
`methods.iid_dm` and `methods.iid_idm` compute and exist to be timed beside them; the ResNet18 is a random
one on one side and trained for a step on the other, which costs the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainDM, PlainPool, distance_of_means
from torch import Tensor

from harness.core.data import Dataset
from harness.core.formation import decode
from harness.core.nets import Network, build

CHANNELS = 128
ONE_TRAINED_NETWORK = {"pretrained": 1, "pretrained_epochs": 1, "pretrained_steps": 1}


class PlainIIDDM(PlainDM):
    """One iteration of IID-DM."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.trained = trained_network(data)

    def step(self) -> None:
        """Match all classes with one fresh network."""
        net = self.fresh().requires_grad_(False)
        loss = torch.tensor(0.0, device=self.device)
        for c in range(self.classes):
            real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], self.own(c))
            target, features = net.embed(real).detach(), net.embed(synthetic)
            loss = loss + distance_of_means(target, features)
            loss = loss + 0.01 * covariance_gap(target, features)
            loss = loss + 0.05 * scatter(self.trained.embed(synthetic))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class PlainIIDIDM(PlainPool):
    """One iteration of IID-IDM."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, distance_of_means)
        self.teacher = trained_network(data)

    def match(self, c: int) -> None:
        """The step of one class."""
        real, synthetic = self.siamese(self.images[self.draw(c, self.batch_real)], decode(self.own(c), 2))
        target = self.net.embed(real).detach()
        features, logits = self.net.embed_and_logits(synthetic)
        labels = torch.full((len(logits),), c, device=self.device)
        loss = self.distance(target, features) + 20.0 * F.cross_entropy(logits, labels)
        loss = loss + 0.03 * covariance_gap(target, features)
        loss = loss + 0.01 * scatter(self.teacher.embed(synthetic))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def trained_network(data: Dataset) -> Network:
    """The network that tells how close the images of a class lie."""
    net = build(
        "ResNet18",
        channels=3,
        image_size=(data.shape[1], data.shape[2]),
        classes=data.num_classes,
        generator=torch.Generator(data.device),
        device=data.device,
    )
    return net.requires_grad_(False).eval()


def covariance_gap(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared gap of the mean inter-feature covariances of (n, D) and (m, D)."""
    return (covariance(real) - covariance(synthetic)).square().sum()


def covariance(features: Tensor) -> Tensor:
    """Mean over images of L L^T, a product for each."""
    maps = (features - features.mean(0)).view(len(features), CHANNELS, -1)
    return torch.bmm(maps, maps.transpose(1, 2)).mean(0)


def scatter(features: Tensor) -> Tensor:
    """Squared distances to the mean."""
    return (features - features.mean(0)).square().sum()


LOOPS = {
    "iid_dm": Loop(lambda data, ipc: PlainIIDDM(data, ipc).step, settings=ONE_TRAINED_NETWORK),
    "iid_idm": Loop(lambda data, ipc: PlainIIDIDM(data, ipc).step, settings=ONE_TRAINED_NETWORK),
}
