"""Reference loops for speed: SRe2L and its kin written plainly, one set of one image a class after the other.

Hooks on the network's layers, a fresh Adam for each set, float32, no compilation, as the authors' scripts do.
They compute what the methods compute in an iteration and exist to be timed beside them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from torch import Tensor, nn

from harness.core.data import Dataset
from harness.core.nets import Network, build

SHORT = {"teacher_epochs": 1, "teacher_steps": 1}


class PlainRecovery:
    """One iteration of SRe2L for every set; the images of all sets are together the set of so many images."""

    def __init__(self, data: Dataset, ipc: int, *, crops: bool) -> None:
        self.classes, self.crops = data.num_classes, crops
        self.labels = torch.arange(self.classes, device=data.device)
        self.net = self.network(data).eval().requires_grad_(False)
        self.seen: list[Tensor] = []
        for module in self.net.modules():
            if self.looks_at(module):
                module.register_forward_hook(self.note)
        zeros = torch.zeros(1, data.shape[0], 1, 1, device=data.device)
        self.low, self.high = data.transform(zeros), data.transform(zeros + 1)
        size = (self.classes, *data.shape)
        self.sets = [torch.randn(size, device=data.device).requires_grad_() for _ in range(ipc)]
        self.optimizers = [torch.optim.Adam([images], lr=0.1, betas=(0.5, 0.9)) for images in self.sets]

    def network(self, data: Dataset) -> Network:
        """A random ConvNet with batch norm in the ordinary memory layout."""
        return build(
            "ConvNetBN",
            channels=3,
            image_size=(data.shape[1], data.shape[2]),
            classes=data.num_classes,
            generator=torch.Generator(data.device),
            device=data.device,
        )

    def looks_at(self, module: nn.Module) -> bool:
        """Batch norms alone."""
        return isinstance(module, nn.BatchNorm2d)

    def note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """The gap of a batch norm."""
        x = inputs[0]
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        gap = torch.norm(module.running_var - variance, 2) + torch.norm(module.running_mean - mean, 2)
        self.seen.append(gap)

    def shown(self, images: Tensor) -> Tensor:
        """A crop, a mirroring and a roll."""
        if self.crops:
            images = F.interpolate(images[:, :, 3:25, 5:24], (32, 32), mode="bilinear", align_corners=False)
            images = images.flip(3)
        return torch.roll(images, (2, 3), (2, 3))

    def step(self) -> None:
        """Every set once."""
        for images, optimizer in zip(self.sets, self.optimizers, strict=True):
            self.seen.clear()
            optimizer.zero_grad()
            logits = self.net(self.shown(images))
            statistics = 10 * self.seen[0] + sum(self.seen[1:])
            (F.cross_entropy(logits, self.labels) + 0.01 * statistics).backward()
            optimizer.step()
            images.data = torch.minimum(torch.maximum(images.data, self.low), self.high)


LOOPS = {
    "sre2l": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=False).step, SHORT),
    "cda": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT),
    "sre2l_pp": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT | {"mipc": 20}),
    "fadrm": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT | {"mipc": 20}),
}
