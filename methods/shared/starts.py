"""What distillation starts from: real images, in tiles or whole, or noise."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.formation import compose


def initial_images(data: Dataset, ipc: int, factor: int, context: Context) -> Tensor:
    """Class-major images (C * ipc, ...) whose tiles are shrunk random real images, a draw for each tile."""
    generator = context.generator("init")
    tiles = [data.batch(data.index.balanced(ipc, generator)) for _ in range(factor**2)]
    return compose(tiles, factor)


def starting_images(data: Dataset, ipc: int, init: str, context: Context) -> Tensor:
    """Class-major images (C * ipc, ...): random "real" images, or normal "noise"."""
    if init == "real":
        return initial_images(data, ipc, 1, context)
    generator = context.generator("init")
    return torch.randn(data.num_classes * ipc, *data.shape, generator=generator, device=data.device)
