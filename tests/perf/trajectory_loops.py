"""Reference loops for time and memory: iterations of trajectory matching written plainly, as authors do.

All weights lie in one flat vector that a student's steps replace by another; the network is called with views
of it; MTT's graph runs through all steps at once, TESLA's second pass takes the first one's vectors from a
list. Float32, no compilation, tensors in the default memory layout. There is no loop over classes that ours
could save: the figure to compare is memory.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor
from torch.func import functional_call

from harness.core.augment import FULL_STRATEGY, augment, sample_draws
from harness.core.data import Dataset

STUDENT_STEPS = 4  # at the published 30, the graph of MTT takes tens of GiB


class PlainTrajectories(PlainLoop):
    """What both loops have in common: a learned rate, and a stretch of an expert to be followed."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.net = self.fresh()
        self.targets = torch.arange(self.classes, device=self.device).repeat_interleave(ipc)
        self.start = torch.cat([parameter.detach().reshape(-1) for parameter in self.net.parameters()])
        # What some passes change; only its size matters to time and memory.
        self.end = self.start + 0.01 * torch.randn_like(self.start)
        self.length = (self.start - self.end).square().sum()
        self.rate = torch.tensor(0.001, device=self.device, requires_grad=True)
        self.image_optimizer = torch.optim.SGD([self.synthetic], lr=100.0, momentum=0.5)
        self.rate_optimizer = torch.optim.SGD([self.rate], lr=1e-5, momentum=0.5)

    def batch(self) -> tuple[Tensor, Tensor]:
        """All images in another order, augmented, with their labels."""
        order = torch.as_tensor(np.random.default_rng().permutation(len(self.targets))).to(self.device)
        draws = sample_draws(FULL_STRATEGY, len(order), self.size, torch.Generator(), one_operation=True)
        return augment(self.synthetic[order], FULL_STRATEGY, draws, align_corners=True), self.targets[order]

    def loss(self, flat: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of a network whose weights are views of a flat vector."""
        named, position = {}, 0
        for name, parameter in self.net.named_parameters():
            named[name] = flat[position : position + parameter.numel()].view(parameter.shape)
            position += parameter.numel()
        return F.cross_entropy(functional_call(self.net, named, (images,)), labels)

    def update(self) -> None:
        """One step of both optimisers."""
        self.image_optimizer.step()
        self.rate_optimizer.step()
        self.image_optimizer.zero_grad()
        self.rate_optimizer.zero_grad()


class PlainMTT(PlainTrajectories):
    """Unroll all steps, then go back through them."""

    def step(self) -> None:
        """One iteration."""
        weights = [self.start.clone().requires_grad_()]
        for _ in range(STUDENT_STEPS):
            images, labels = self.batch()
            loss = self.loss(weights[-1], images, labels)
            gradient = torch.autograd.grad(loss, weights[-1], create_graph=True)[0]
            weights.append(weights[-1] - self.rate * gradient)
        (self.missed(weights[-1]) / self.length).backward()
        self.update()

    def missed(self, weights: Tensor) -> Tensor:
        """Squared distance from the target."""
        return (weights - self.end).square().sum()


class PlainTESLA(PlainTrajectories):
    """Make all steps and keep what they used, then go through them again for the images."""

    def step(self) -> None:
        """One iteration."""
        weights, batches = [self.start.clone().requires_grad_()], []
        total = torch.zeros_like(self.start)
        for _ in range(STUDENT_STEPS):
            batches.append(self.batch())
            images, labels = batches[-1]
            gradient = torch.autograd.grad(self.loss(weights[-1], images.detach(), labels), weights[-1])[0]
            total += gradient
            weights.append((weights[-1] - self.rate.detach() * gradient).detach().requires_grad_())
        rate = self.rate.detach()
        lever = (rate * (self.end - self.start) + rate**2 * total) / self.length
        self.synthetic.grad = torch.zeros_like(self.synthetic)
        for now, (images, labels) in zip(weights, batches, strict=False):
            gradient = torch.autograd.grad(self.loss(now, images, labels), now, create_graph=True)[0]
            self.synthetic.grad += torch.autograd.grad(lever @ gradient, self.synthetic)[0]
        ((self.start - self.rate * total - self.end).square().sum() / self.length).backward()
        self.update()


class PlainFTD(PlainMTT):
    """MTT's iteration, and the moving average of the images."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.average = self.synthetic.detach().clone()

    def step(self) -> None:
        """One iteration."""
        super().step()
        self.average = 0.9995 * self.average + 0.0005 * self.synthetic.detach()


class PlainDATM(PlainMTT):
    """MTT's iteration with the softmax of logits for labels, which are learned too."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.logits = torch.randn(len(self.targets), self.classes, device=self.device, requires_grad=True)
        self.label_optimizer = torch.optim.SGD([self.logits], lr=2.0, momentum=0.9)

    def batch(self) -> tuple[Tensor, Tensor]:
        """All images in another order, augmented, with their soft labels."""
        order = torch.as_tensor(np.random.default_rng().permutation(len(self.targets))).to(self.device)
        draws = sample_draws(FULL_STRATEGY, len(order), self.size, torch.Generator(), one_operation=True)
        images = augment(self.synthetic[order], FULL_STRATEGY, draws, align_corners=True)
        return images, torch.softmax(self.logits[order], dim=1)

    def update(self) -> None:
        """One step of all three optimisers."""
        super().update()
        self.label_optimizer.step()
        self.label_optimizer.zero_grad()


class PlainPAD(PlainDATM):
    """DATM's iteration, matched in all but the first quarter of the parameters."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.kept = torch.arange(len(self.start) // 4, len(self.start), device=self.device)
        self.length = (self.start - self.end)[self.kept].square().sum()

    def missed(self, weights: Tensor) -> Tensor:
        """Squared distance from the target in the parameters that are kept."""
        return (weights - self.end)[self.kept].square().sum()


SETTINGS = {
    "student_steps": STUDENT_STEPS,
    "max_start": 1,
    "match_epochs": 1,
    "experts": 1,
    "expert_epochs": 1,
    "expert_steps": 1,
}
LOOPS = {
    "mtt": Loop(lambda data, ipc: PlainMTT(data, ipc).step, SETTINGS),
    "tesla": Loop(lambda data, ipc: PlainTESLA(data, ipc).step, SETTINGS),
    "ftd": Loop(lambda data, ipc: PlainFTD(data, ipc).step, SETTINGS),
    "datm": Loop(lambda data, ipc: PlainDATM(data, ipc).step, {**SETTINGS, "first_max_start": None}),
    "pad": Loop(
        lambda data, ipc: PlainPAD(data, ipc).step,
        {**SETTINGS, "first_max_start": None, "data_order": False},
    ),
}
