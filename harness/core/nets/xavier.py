"""Fresh weights as some of the early papers draw them, instead of by PyTorch's defaults."""

from __future__ import annotations

import torch
from torch import Generator, nn


@torch.no_grad()
def draw_xavier(net: nn.Module, generator: Generator) -> None:
    """Draw all weights anew in place by Xavier's normal distribution with gain 1; biases are zero.

    Norms are reset to one and zero. The generator may live on another device than the network.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight
            fans = weight[0].numel() + weight.shape[0] * weight[0, 0].numel()
            draw = torch.empty(weight.shape, dtype=torch.float32, device=generator.device)
            weight.copy_(draw.normal_(0.0, (2 / fans) ** 0.5, generator=generator))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
            module.reset_parameters()
