"""Reference loop for speed: KIP with convolutions and no pooling, written plainly.

The kernels of all pairs at once, their derivatives by autograd, torch's own Adam, in float64 as the method.
It computes what the method computes in an iteration and exists to be timed beside it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor

from harness.core.data import Dataset

LAYERS = 3
TARGETS = 100
NEARLY = 1 - 1e-7  # cosine of an image with itself: the angle's derivative has no bound at 1


class PlainKIP(PlainLoop):
    """Regression of real images in the tangent kernel of the set."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.inducing = self.synthetic.detach().double().requires_grad_()
        own = torch.arange(self.classes, device=self.device).repeat_interleave(ipc)
        self.rows_of_labels = self.centred(own).requires_grad_()
        self.optimizer = torch.optim.Adam([self.inducing, self.rows_of_labels], lr=0.04)

    def centred(self, labels: Tensor) -> Tensor:
        """One row for each label."""
        return F.one_hot(labels, self.classes).double() - 1 / self.classes

    def step(self) -> None:
        """One iteration."""
        real, labels = self.drawn(TARGETS)
        kernel = tangent_kernel(self.inducing, self.inducing)
        kernel = kernel + 1e-6 * kernel.trace() / len(kernel) * torch.eye(len(kernel), device=self.device)
        weights = torch.linalg.solve(kernel, self.rows_of_labels)
        found = tangent_kernel(real.double(), self.inducing) @ weights
        loss = 0.5 * (found - self.centred(labels)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def tangent_kernel(rows: Tensor, columns: Tensor) -> Tensor:
    """Kernel (r, c) of images (r, ...) and (c, ...)."""
    s = (rows[:, None] * columns[None]).mean(dim=2)
    a, b = rows.square().mean(dim=1)[:, None], columns.square().mean(dim=1)[None]
    t = torch.zeros_like(s)
    for _ in range(LAYERS):
        s, a, b = (2 * smoothed(x) + 0.01 for x in (s, a, b))
        t = s + 2 * smoothed(t)
        root = (a * b).sqrt()
        angle = torch.acos((s / root).clamp(-NEARLY, NEARLY))
        share = (math.pi - angle) / (2 * math.pi)
        s, t = root * (angle.sin() / (2 * math.pi) + share * angle.cos()), t * share
        a, b = a / 2, b / 2
    s, t = s.mean(dim=(2, 3)), t.mean(dim=(2, 3))
    return 2 * s + 0.01 + 2 * t


def smoothed(x: Tensor) -> Tensor:
    """The mean over 3x3 windows of maps (r, c, H, W)."""
    return F.avg_pool2d(x.flatten(0, 1), 3, stride=1, padding=1).view(x.shape)


# The whole run, which is not made, may take more hours than a slow machine is allowed.
LOOPS = {"kip@vec": Loop(lambda data, ipc: PlainKIP(data, ipc).step, {"most_hours": 24.0})}
