"""Average pooling of 2x2 windows, quicker on a CPU than torch's and the same to the last bit.

Torch's kernel takes a quarter of a training step of a narrow ConvNet in plain code. Here rows are set apart
and added up in the order of that kernel, by a few passes over contiguous memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class HalvingPool(nn.AvgPool2d):
    """``nn.AvgPool2d(2)``; maps that the quicker way does not fit go through torch's kernel."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W) to their means over windows, (N, C, H // 2, W // 2)."""
        quick = (
            input.device.type == "cpu"
            and input.dtype in (torch.float32, torch.float64)
            and input.ndim == 4
            and input.shape[2] % 2 == input.shape[3] % 2 == 0
            and input.is_contiguous()
            and not torch.compiler.is_compiling()
        )
        return _Halve.apply(input) if quick else super().forward(input)


class _Halve(torch.autograd.Function):
    """The means; its derivative, which is linear as well, may be differentiated again."""

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        return _means(maps)

    @staticmethod
    def setup_context(*facts: Any) -> None:
        """Nothing is kept for the way back."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _Spread.apply(gradients[0])  # type: ignore[no-any-return]


class _Spread(torch.autograd.Function):
    """A quarter of each value for each of the four pixels that it came from."""

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        return _quarters(maps)

    @staticmethod
    def setup_context(*facts: Any) -> None:
        """Nothing is kept for the way back."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _Halve.apply(gradients[0].contiguous())  # type: ignore[no-any-return]


def _means(maps: Tensor) -> Tensor:
    n, channels, height, width = maps.shape
    rows = maps.view(-1, 2, width)
    upper, lower = rows[:, 0].reshape(-1), rows[:, 1].reshape(-1)
    total = upper[0::2] + upper[1::2]
    total += lower[0::2]
    total += lower[1::2]
    return total.mul_(0.25).view(n, channels, height // 2, width // 2)


def _quarters(maps: Tensor) -> Tensor:
    n, channels, height, width = maps.shape
    wide = (maps * 0.25).reshape(-1, 1).expand(-1, 2).reshape(-1, 1, 2 * width)
    return wide.expand(-1, 2, 2 * width).reshape(n, channels, 2 * height, 2 * width)
