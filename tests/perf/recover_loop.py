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


class PlainGVBSM(PlainRecovery):
    """One iteration of G-VBSM in one network; the images of all classes are one batch."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, crops=False)
        self.labels = self.labels.repeat_interleave(ipc)
        self.images = torch.cat([images.detach() for images in self.sets]).requires_grad_()
        self.optimizer = torch.optim.Adam([self.images], lr=0.05, betas=(0.5, 0.9))
        self.averages: dict[int, list[Tensor]] = {}
        self.wanted = {id(module): self.statistics(module, x) for module, x in self.inputs(data)}

    def inputs(self, data: Dataset) -> list[tuple[nn.Module, Tensor]]:
        """What comes into each layer of some real images."""
        noted: list[tuple[nn.Module, Tensor]] = []
        hooks = [
            module.register_forward_pre_hook(lambda module, x: noted.append((module, x[0])))
            for module in self.net.modules()
            if self.looks_at(module)
        ]
        self.wanted = {}
        self.net(data.batch(torch.arange(100, device=data.device)))
        for hook in hooks:
            hook.remove()
        return noted

    def looks_at(self, module: nn.Module) -> bool:
        """Batch norms and convolutions."""
        return isinstance(module, (nn.BatchNorm2d, nn.Conv2d))

    def statistics(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """Means and variances of channels, and of places in a grid of patches."""
        found = [x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)]
        if isinstance(module, nn.Conv2d):
            patches = F.unfold(x, 4, stride=4).unflatten(1, (x.shape[1], 16))
            found += [patches.mean(dim=(0, 1, 2)), patches.var(dim=(0, 1, 2), unbiased=False)]
        return found

    def note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """The gap of running averages; a convolution's is left out now and then."""
        if not self.wanted or (isinstance(module, nn.Conv2d) and torch.rand(()) < 0.4):
            return
        own = self.statistics(module, inputs[0])
        before = self.averages.get(id(module), [torch.zeros_like(x) for x in own])
        moved = [0.8 * old + 0.2 * new for old, new in zip(before, own, strict=True)]
        self.averages[id(module)] = [x.detach() for x in moved]
        gaps = [torch.norm(a - b, 2) for a, b in zip(self.wanted[id(module)], moved, strict=True)]
        self.seen.append(torch.stack(gaps).sum())

    def step(self) -> None:
        """One update of all images."""
        self.seen.clear()
        self.optimizer.zero_grad()
        shown = torch.roll(self.images, (2, 3), (2, 3))
        logits = self.net(shown)
        statistics = 10 * self.seen[0] + sum(self.seen[1:])
        apart = sum(spread(shown[self.labels == c]) for c in range(self.classes))
        (F.cross_entropy(logits, self.labels) + 0.01 * statistics + apart).backward()
        self.optimizer.step()
        self.images.data = torch.minimum(torch.maximum(self.images.data, self.low), self.high)


def spread(images: Tensor) -> Tensor:
    """The density of one class."""
    rows = images.flatten(1)
    spectrum = torch.linalg.eigvalsh(rows @ rows.T)
    flat = (spectrum.detach() / 4).softmax(dim=0)
    return F.kl_div(spectrum.log_softmax(dim=0), flat, reduction="sum")


LOOPS = {
    "sre2l": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=False).step, SHORT),
    "cda": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT),
    "sre2l_pp": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT | {"mipc": 20}),
    "fadrm": Loop(lambda data, ipc: PlainRecovery(data, ipc, crops=True).step, SHORT | {"mipc": 20}),
    "g_vbsm": Loop(lambda data, ipc: PlainGVBSM(data, ipc).step, SHORT | {"more_networks": ()}),
}
