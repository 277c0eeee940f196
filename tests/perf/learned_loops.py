"""Reference loops for speed: DD, LD and FRePo written plainly, networks that learn from the set by autograd.

Torch's own Adam, float32 but for FRePo's kernel, no compilation. They compute what the methods compute in an
iteration and exist to be timed beside them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor
from torch.func import functional_call

from harness.core.data import Dataset
from harness.core.nets import Network

BATCH_REAL = 1024
UNROLLED = 5  # at the published 30 the graph takes tens of GiB


class PlainDD(PlainLoop):
    """Steps of learned sizes, each on a batch of its own, from a fresh network."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        each = ipc // UNROLLED
        shape = (UNROLLED, self.classes * each, *data.shape)
        self.batches = torch.randn(shape, device=self.device).requires_grad_()
        self.targets = torch.arange(self.classes, device=self.device).repeat_interleave(each)
        self.raw = torch.full((UNROLLED,), -4.0, device=self.device).requires_grad_()
        self.optimizer = torch.optim.Adam([self.batches, self.raw], lr=0.01, betas=(0.5, 0.999))

    def step(self) -> None:
        """One iteration."""
        net = self.fresh()
        names = [name for name, _ in net.named_parameters()]
        weights = list(net.parameters())
        for t in range(UNROLLED):
            logits = functional_call(net, dict(zip(names, weights, strict=True)), (self.batches[t],))
            loss = F.cross_entropy(logits, self.targets)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            size = F.softplus(self.raw)[t]
            weights = [weight - size * part for weight, part in zip(weights, gradients, strict=True)]
        real, labels = self.drawn(BATCH_REAL)
        end = functional_call(net, dict(zip(names, weights, strict=True)), (real,))
        self.optimizer.zero_grad()
        F.cross_entropy(end, labels).backward()
        self.optimizer.step()


class PlainLD(PlainLoop):
    """Labels learn through a step of the network, then the network makes a step of its own."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        count = self.classes * ipc
        self.rows_of_labels = torch.full((count, self.classes), 1 / self.classes, device=self.device)
        self.rows_of_labels.requires_grad_()
        self.label_optimizer = torch.optim.Adam([self.rows_of_labels], lr=1e-3)
        self.net = self.fresh()
        self.net_optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def step(self) -> None:
        """One iteration."""
        rows = torch.as_tensor(np.random.default_rng().permutation(len(self.rows_of_labels))[:50])
        images, labels = self.synthetic.detach()[rows], self.rows_of_labels[rows]
        named = dict(self.net.named_parameters())
        inner = F.cross_entropy(self.net(images), labels)
        gradients = torch.autograd.grad(inner, list(named.values()), create_graph=True)
        moved = {
            name: weight - 0.01 * part for (name, weight), part in zip(named.items(), gradients, strict=True)
        }
        real, classes = self.drawn(BATCH_REAL)
        loss = F.cross_entropy(functional_call(self.net, moved, (real,)), classes)
        self.rows_of_labels.grad = torch.autograd.grad(loss, self.rows_of_labels)[0]
        self.label_optimizer.step()
        self.rows_of_labels.data.clamp_(0, 1)
        self.rows_of_labels.data /= self.rows_of_labels.data.sum(dim=1, keepdim=True)
        for weight, part in zip(named.values(), gradients, strict=True):
            weight.grad = part.detach()
        self.net_optimizer.step()


class PlainFRePo(PlainLoop):
    """Regression of a real batch on the features of the set, and a step of a network of the pool."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        hot = F.one_hot(torch.arange(self.classes, device=self.device).repeat_interleave(ipc), self.classes)
        self.rows_of_labels = (hot - 1 / self.classes).float().requires_grad_()
        self.pool = [self.member() for _ in range(10)]
        self.moments = [[torch.zeros_like(x), torch.zeros_like(x)] for x in self.learned]
        self.made = 0

    @property
    def learned(self) -> tuple[Tensor, Tensor]:
        """Images and labels."""
        return self.synthetic, self.rows_of_labels

    def member(self) -> tuple[Network, torch.optim.Adam]:
        """A network whose width doubles, and its Adam."""
        net = self.fresh("ConvNetPBDW")
        return net, torch.optim.Adam(net.parameters(), lr=3e-4)

    def step(self) -> None:
        """One iteration."""
        net, optimizer = self.pool[int(np.random.default_rng().integers(len(self.pool)))]
        net.eval()
        real, classes = self.drawn(BATCH_REAL)
        targets = F.one_hot(classes, self.classes) - 1 / self.classes
        support = net.embed(torch.cat([self.synthetic, self.synthetic.flip(3)])).double()
        with torch.no_grad():
            asked = net.embed(real).double()
        kernel = support @ support.T
        kernel = kernel + 1e-6 * kernel.trace() / len(kernel) * torch.eye(len(kernel), device=self.device)
        labels = torch.cat([self.rows_of_labels, self.rows_of_labels]).double()
        found = asked @ support.T @ torch.linalg.solve(kernel, labels)
        largest = self.rows_of_labels.topk(2, dim=1).values
        margin = (largest[:, 0] - largest[:, 1]).clamp(max=1 / self.classes).mean()
        loss = 0.5 * (found - targets).square().sum(dim=1).mean() - margin
        self.lamb(torch.autograd.grad(loss, self.learned))
        net.train()
        optimizer.zero_grad()
        wanted = self.rows_of_labels.detach()
        (0.5 * (net(self.synthetic.detach()) - wanted).square().sum(dim=1).mean()).backward()
        optimizer.step()

    @torch.no_grad()
    def lamb(self, gradients: tuple[Tensor, ...]) -> None:
        """A step of LAMB on images and labels."""
        self.made += 1
        for tensor, gradient, moments in zip(self.learned, gradients, self.moments, strict=True):
            moments[0] = 0.9 * moments[0] + 0.1 * gradient
            moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
            mean, square = moments[0] / (1 - 0.9**self.made), moments[1] / (1 - 0.999**self.made)
            direction = mean / (square.sqrt() + 1e-6)
            tensor -= 3e-4 * tensor.norm() / direction.norm() * direction


LOOPS = {
    "dd": Loop(lambda data, ipc: PlainDD(data, ipc).step, {"unrolled": UNROLLED}),
    "ld": Loop(lambda data, ipc: PlainLD(data, ipc).step, {"validate_every": 0}),
    "frepo": Loop(lambda data, ipc: PlainFRePo(data, ipc).step, {"zca_reg": 0.0}),
}
