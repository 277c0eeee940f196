"""The ConvNet of dataset distillation (Gidaris & Komodakis 2018, as used by Zhao et al. 2021 and since)."""

from __future__ import annotations

from torch import nn

from harness.core.nets.base import Features, Network, Problem
from harness.core.nets.names import ConvNetSpec
from harness.core.nets.stack import Stack


def convnet(spec: ConvNetSpec, problem: Problem) -> Network:
    """``spec.depth`` blocks of 3x3 convolution, normalisation, activation and pooling, then one linear layer.

    One-channel images get padding 3 in the first convolution, so that 28x28 becomes 32x32 (code of
    DatasetCondensation, ``networks.py``).

    In widths "doubling" each block has twice the channels of the one before, and weights begin as in FRePo,
    whose norm "prebatch" stands before the convolutions of all blocks but the first.
    """
    doubling = spec.widths == "doubling"
    stack = Stack(problem)
    for block in range(spec.depth):
        widen = block == 0 and problem.channels == 1
        if spec.norm == "prebatch" and block > 0:
            stack.norm("prebatch")
        stack.conv(spec.width * 2**block if doubling else spec.width, kernel=3, padding=3 if widen else 1)
        if spec.norm != "prebatch":
            stack.norm(spec.norm)
        stack.activation(spec.activation)
        stack.pool(spec.pooling)
    net = Network(Features(*stack.layers), {"classifier": nn.Linear(stack.flat_dim, problem.classes)})
    net.initialisation = "lecun" if doubling else "uniform"
    return net
