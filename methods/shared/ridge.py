"""Kernel ridge regression, whose predictions FRePo and KIP differentiate; all of it in float64.

With K_ss the kernel among n support points, K_ts that of targets with them and Y the labels of the support,

    A = K_ss + reg tr(K_ss)/n I,    prediction = K_ts A^-1 Y
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.errors import DivergedError


def dual_weights(kernel: Tensor, labels: Tensor, reg: float) -> Tensor:
    """A^-1 Y (n, C) of a kernel (n, n) and labels (n, C).

    DivergedError if the support has degenerated so far that A cannot be inverted.
    """
    try:
        found: Tensor = torch.linalg.solve(regularised(kernel, reg), labels.double())
    except torch.linalg.LinAlgError:
        raise DivergedError(
            "the kernel of the synthetic images has no inverse any more: they have become alike or their "
            "features vanished; a lower learning rate or a larger reg may help (--set METHOD.reg=...)"
        ) from None
    return found


def regularised(kernel: Tensor, reg: float) -> Tensor:
    """A, in float64."""
    kernel = kernel.double()
    ridge = abs(reg) * kernel.diagonal().mean()
    return kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)


def centred_classes(classes: Tensor, count: int) -> Tensor:
    """Targets (n, count): one where the class is, less 1 / count everywhere; float64."""
    return torch.nn.functional.one_hot(classes, count).double() - 1 / count
