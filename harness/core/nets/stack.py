"""Plain stacks of convolutions: a builder that knows the shape after each layer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.nets.base import ImageTooSmallError, Problem
from harness.core.nets.names import GROUPS, Activation, Norm, Pooling
from harness.core.nets.pooling import HalvingPool


class RecentBatchNorm(nn.BatchNorm2d):
    """Batch norm whose running statistics are nine tenths the last batch's, as FRePo sets it.

    The running variance is that of the batch itself, where PyTorch's is the estimate over n - 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.9)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W), normalised by their own statistics in train mode, else by the running ones."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            variance, mean = torch.var_mean(input, dim=(0, 2, 3), correction=0)
            for running, new in ((self.running_mean, mean), (self.running_var, variance)):
                assert running is not None
                running.lerp_(new, 0.9)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


def activation_layer(kind: Activation) -> nn.Module:
    """An activation, in place where its backward does not need the input."""
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind == "leakyrelu":
        return nn.LeakyReLU(0.01, inplace=True)
    return nn.Sigmoid() if kind == "sigmoid" else nn.SiLU()


def norm_layer(kind: Norm, channels: int, size: tuple[int, int]) -> nn.Module:
    """A normalisation with affine parameters for maps (N, channels, *size).

    The field's instance norm is a group norm with one channel a group: no running statistics, so train
    and eval modes agree.
    """
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "prebatch":
        return RecentBatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(GROUPS, channels)
    if kind == "layer":
        return nn.LayerNorm((channels, *size))
    return nn.Identity()


class Stack:
    """Layers in order with the (channels, height, width) that leave the last of them."""

    def __init__(self, problem: Problem) -> None:
        self.layers: list[nn.Module] = []
        self.channels = problem.channels
        self.size = problem.image_size

    @property
    def flat_dim(self) -> int:
        """Length of the flattened map."""
        return self.channels * self.size[0] * self.size[1]

    def conv(self, channels: int, *, kernel: int, padding: int) -> None:
        """Append a square convolution with stride 1 and bias."""
        self.layers.append(nn.Conv2d(self.channels, channels, kernel, padding=padding))
        self.channels = channels
        self._resize(self.size[0] + 2 * padding - kernel + 1, self.size[1] + 2 * padding - kernel + 1)

    def norm(self, kind: Norm) -> None:
        """Append a normalisation; ``none`` appends nothing, which the authors' layer numbers count on."""
        if kind != "none":
            self.layers.append(norm_layer(kind, self.channels, self.size))

    def activation(self, kind: Activation) -> None:
        """Append an activation."""
        self.layers.append(activation_layer(kind))

    def response_norm(self) -> None:
        """Append cuda-convnet's normalisation of each value by those of the channels around it."""
        self.layers.append(nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1.0))

    def pool(self, kind: Pooling | Literal["overlapping"]) -> None:
        """Append a 2x2 pooling with stride 2; ``none`` appends nothing, ``overlapping`` a 3x3 max pool."""
        if kind == "overlapping":
            self.layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            self._resize((self.size[0] + 1) // 2, (self.size[1] + 1) // 2)
        elif kind != "none":
            self.layers.append(HalvingPool() if kind == "avg" else nn.MaxPool2d(2))
            self._resize(self.size[0] // 2, self.size[1] // 2)

    def _resize(self, height: int, width: int) -> None:
        if min(height, width) < 1:
            raise ImageTooSmallError
        self.size = (height, width)
