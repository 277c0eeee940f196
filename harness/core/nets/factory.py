"""Fresh random networks, and fresh random weights in networks that exist."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from harness.core.errors import UserError
from harness.core.nets.base import ImageTooSmallError, Network, Problem
from harness.core.nets.classic import alexcifarnet, alexnet, lenet, mlp, vgg11
from harness.core.nets.convnet import convnet
from harness.core.nets.names import base_and_width, canonical, convnet_spec
from harness.core.nets.resnet import Style, resnet18

_WITHIN_TWO = math.erf(2**0.5)
_CUT_DEVIATION = 0.87962566103423978  # of a standard normal distribution that is cut off at two deviations

_ZOO: dict[str, Callable[..., Network]] = {
    "MLP": mlp,
    "LeNet": lenet,
    "AlexCifarNet": alexcifarnet,
    "AlexNet": partial(alexnet, norm="none"),
    "AlexNetBN": partial(alexnet, norm="batch"),
    "VGG11": partial(vgg11, norm="instance"),
    "VGG11BN": partial(vgg11, norm="batch"),
    "ResNet18": partial(resnet18, style=Style(norm="instance")),
    "ResNet18BN": partial(resnet18, style=Style(norm="batch")),
    "ResNet18BN_AP": partial(resnet18, style=Style(norm="batch", pooled=True)),
}


def build(
    arch: str,
    *,
    channels: int,
    image_size: tuple[int, int],
    classes: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> Network:
    """A fresh network on ``device`` in train mode, its weights drawn from ``generator`` alone.

    ``image_size`` is (height, width) in pixels. Raises UnknownNameError for an unknown ``arch`` and
    UserError for images that are too small for it.
    """
    design = _design(arch)
    problem = Problem(channels, image_size, classes)
    try:
        net = _without_weights(design, problem)
    except ImageTooSmallError:
        raise UserError(_too_small(arch, design, problem)) from None
    _allocate(net, device)
    reinitialise(net, generator)
    return net


@torch.no_grad()
def reinitialise(net: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew in place, by PyTorch's defaults, as ``build`` with the same generator would.

    Weights and biases of convolutions and linear layers are uniform within 1/sqrt(fan_in), which is what
    ``kaiming_uniform_(a=sqrt(5))`` comes to; norms are reset to one and zero, running statistics too. The
    generator may live on another device than the network. Networks that say "lecun" have weights from a
    normal distribution cut off at two deviations, with variance 1/fan_in, and biases of zero.
    """
    lecun = getattr(net, "initialisation", "uniform") == "lecun"
    for module in net.modules():
        if lecun and isinstance(module, (nn.Conv2d, nn.Linear)):
            _fill_normal(module.weight, module.weight[0].numel() ** -0.5, generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = module.weight[0].numel() ** -0.5
            _fill_uniform(module.weight, bound, generator)
            if module.bias is not None:
                _fill_uniform(module.bias, bound, generator)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
            module.reset_parameters()


def _fill_uniform(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    # A draw written straight into the parameter would depend on its device and memory format.
    draw = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
    parameter.copy_(draw.uniform_(-bound, bound, generator=generator))


def _fill_normal(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    """A normal distribution cut off at two deviations, and scaled so that `deviation` is its own then."""
    share = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
    # Of the normal distribution, the part between -2 and 2 deviations is that of erf(sqrt 2).
    share.uniform_(-_WITHIN_TWO, _WITHIN_TWO, generator=generator)
    parameter.copy_(share.erfinv_().mul_(2**0.5 * deviation / _CUT_DEVIATION))


def _design(arch: str) -> Callable[[Problem], Network]:
    spec = convnet_spec(arch)
    if spec is not None:
        return partial(convnet, spec)
    base, width = base_and_width(arch)
    return _ZOO[base] if width is None else partial(_ZOO[base], width=width)


def _without_weights(design: Callable[[Problem], Network], problem: Problem) -> Network:
    # On the meta device the layers' own initialisation costs nothing and draws nothing.
    with torch.device("meta"):
        return design(problem)


def _allocate(net: nn.Module, device: torch.device | str) -> None:
    """Bring a network from the meta device to memory that holds anything."""
    # `to_empty` does so too, but first imports the algebra of torch's compiler, which takes a second.
    for module in net.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            blank = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(blank, parameter.requires_grad))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def _too_small(arch: str, design: Callable[[Problem], Network], problem: Problem) -> str:
    """One line that says which images ``arch`` takes; both sides obey the same bound, so a square tells."""
    smallest = next(side for side in count(1) if _fits(design, problem, side))
    height, width = problem.image_size
    advice = "" if convnet_spec(arch) is None else ", or use a shallower ConvNet such as ConvNetD1"
    return (
        f"network {canonical(arch)} cannot take {height}x{width} images with {problem.channels} channel(s): "
        f"they shrink to nothing; use images of at least {smallest}x{smallest} pixels{advice}"
    )


def _fits(design: Callable[[Problem], Network], problem: Problem, side: int) -> bool:
    try:
        _without_weights(design, Problem(problem.channels, (side, side), problem.classes))
    except ImageTooSmallError:
        return False
    return True
