"""Reference loops for speed: DC, DSA and DCC written plainly, as their authors do.

Lists of class indices, gradients of all parameters on both sides, the distances of all classes in one graph
that is differentiated at the end, then epochs of the network on the synthetic images; float32, no
compilation, the ordinary memory layout. They compute what `methods.dc` and its kin compute.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor

from harness.core.data import Dataset
from harness.core.nets import Network

SETTINGS = {"outer": 2, "inner": 2}  # of the 10 updates and 50 epochs, as many as tell


class PlainDC(PlainLoop):
    """One network: image updates, with epochs on the synthetic images between them."""

    def __init__(self, data: Dataset, ipc: int, *, siamese: bool = False, contrast: bool = False) -> None:
        super().__init__(data, ipc)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=0.1, momentum=0.5)
        self.augmented = siamese
        self.contrast = contrast

    def step(self) -> None:
        """All updates with one fresh network."""
        net = self.fresh()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for update in range(SETTINGS["outer"]):
            loss = self.matching_loss(net)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if update < SETTINGS["outer"] - 1:
                self.train(net, optimizer)

    def matching_loss(self, net: Network) -> Tensor:
        """Distances of the gradients of all classes, or of their sum."""
        parameters = list(net.parameters())
        loss = torch.tensor(0.0, device=self.device)
        wanted_of_all, shown_of_all = [torch.zeros_like(p) for p in parameters], []
        for c in range(self.classes):
            real, synthetic = self.images[self.draw(c, self.batch_real)], self.own(c)
            if self.augmented:
                real, synthetic = self.siamese(real, synthetic)
            entropy = F.cross_entropy(net(real), self.labelled(real, c))
            wanted = [g.detach() for g in torch.autograd.grad(entropy, parameters)]
            if self.contrast:
                wanted_of_all = [a + b / self.classes for a, b in zip(wanted_of_all, wanted, strict=True)]
                shown_of_all.append(synthetic)
            else:
                entropy = F.cross_entropy(net(synthetic), self.labelled(synthetic, c))
                got = torch.autograd.grad(entropy, parameters, create_graph=True)
                loss = loss + distance(wanted, got)
        if self.contrast:
            labels = torch.cat([self.labelled(shown, c) for c, shown in enumerate(shown_of_all)])
            entropy = F.cross_entropy(net(torch.cat(shown_of_all)), labels)
            loss = distance(wanted_of_all, torch.autograd.grad(entropy, parameters, create_graph=True))
        return loss

    def train(self, net: Network, optimizer: torch.optim.Optimizer) -> None:
        """Epochs of the network on the synthetic images."""
        images = self.synthetic.detach().clone()
        labels = torch.arange(self.classes, device=self.device).repeat_interleave(self.ipc)
        for _ in range(SETTINGS["inner"]):
            for rows in torch.randperm(len(images)).split(256):
                optimizer.zero_grad()
                F.cross_entropy(net(images[rows]), labels[rows.to(self.device)]).backward()
                optimizer.step()

    def labelled(self, images: Tensor, c: int) -> Tensor:
        """The label of each image of class c."""
        return torch.full((len(images),), c, device=self.device)


def distance(real: list[Tensor], synthetic: tuple[Tensor, ...]) -> Tensor:
    """Sum over layers and rows of 1 - cos."""
    total = synthetic[0].new_zeros(())
    for r, s in zip(real, synthetic, strict=True):
        if r.ndim > 1:
            r, s = r.reshape(len(r), -1), s.reshape(len(s), -1)
            total = total + (1 - (r * s).sum(1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)).sum()
    return total


LOOPS = {
    "dc": Loop(lambda data, ipc: PlainDC(data, ipc).step, SETTINGS),
    "dsa": Loop(lambda data, ipc: PlainDC(data, ipc, siamese=True).step, SETTINGS),
    "dcc": Loop(lambda data, ipc: PlainDC(data, ipc, contrast=True).step, SETTINGS | {"outer_warmup": 0}),
}
