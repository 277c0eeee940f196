"""Reference loop for speed: CIM written plainly, class after class.

Anchors pass the observer anew in every iteration, one residual and one torch AdamW for each class, float32,
no compilation. It computes what the method computes in an iteration and exists to be timed beside it.
"""

from __future__ import annotations

import torch
from loops import Loop
from plain_loop import PlainLoop

from harness.core.augment import augment, sample_draws
from harness.core.data import Dataset
from harness.core.formation import compose, decode

FACTOR = 2
STRATEGY = "flip>crop>cutout"


class PlainCIM(PlainLoop):
    """Tiles of each class come nearer to their originals in the features of one network."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        tiles = FACTOR**2
        self.anchors = [self.images[self.draw(c, ipc * tiles)] for c in range(self.classes)]
        self.mosaics = [compose(list(anchors.chunk(tiles)), FACTOR) for anchors in self.anchors]
        self.residuals = [torch.zeros_like(mosaic, requires_grad=True) for mosaic in self.mosaics]
        self.optimizers = [torch.optim.AdamW([residual], lr=0.01) for residual in self.residuals]
        self.observer = self.fresh("ConvNetBN").eval().requires_grad_(False)

    def step(self) -> None:
        """Every class once."""
        parts = zip(self.anchors, self.mosaics, self.residuals, self.optimizers, strict=True)
        for anchors, mosaic, residual, optimizer in parts:
            draws = sample_draws(STRATEGY, len(anchors), self.size, torch.Generator())
            tiles = decode(mosaic + residual, FACTOR)
            wanted = self.observer.embed(augment(anchors, STRATEGY, draws)).detach()
            found = self.observer.embed(augment(tiles, STRATEGY, draws))
            optimizer.zero_grad()
            (found - wanted).abs().mean(dim=1).sum().backward()
            optimizer.step()


LOOPS = {"cim": Loop(lambda data, ipc: PlainCIM(data, ipc).step, {"teacher_epochs": 1, "teacher_steps": 1})}
