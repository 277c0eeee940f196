"""ResNet-18 (He et al. 2016) in the small-image form of DatasetCondensation's ``networks.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from harness.core.nets.base import Features, ImageTooSmallError, Network, Problem
from harness.core.nets.pooling import HalvingPool
from harness.core.nets.stack import norm_layer


@dataclass(frozen=True)
class Style:
    """How a ResNet normalises, and whether 2x2 average pooling takes the place of strides."""

    norm: Literal["instance", "batch"]
    pooled: bool = False


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``shrink`` halves height and width."""

    def __init__(self, channels_in: int, channels: int, *, shrink: bool, style: Style) -> None:
        super().__init__()
        stride = 2 if shrink and not style.pooled else 1
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(style, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = _norm(style, channels)
        pool = [HalvingPool()] if shrink and style.pooled else []
        self.shrink = nn.Sequential(*pool)
        self.shortcut = nn.Sequential()
        if shrink or channels_in != channels:
            project = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(project, *pool, _norm(style, channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, channels_in, H, W) to (N, channels, H', W')."""
        out = self.shrink(self.relu(self.bn1(self.conv1(maps))))
        out = self.bn2(self.conv2(out)) + self.shortcut(maps)
        return self.relu(out)  # type: ignore[no-any-return]


def resnet18(problem: Problem, *, style: Style, width: int = 64) -> Network:
    """A 3x3 stem with stride 1, four stages of two basic blocks, then one linear layer.

    The strided form averages over the whole last map; of images of 32 pixels that is the window of 4x4 in the
    authors' code, which takes hardly any others. The pooled one hands that map to the classifier, which grows
    with the images. `width`: channels of the first stage, doubled in each that follows. Raises
    ImageTooSmallError.
    """
    conv1 = nn.Conv2d(problem.channels, width, 3, padding=1, bias=False)
    bn1 = _norm(style, width)
    stages = {
        "layer1": _stage(width, width, shrink=False, style=style),
        "layer2": _stage(width, 2 * width, shrink=True, style=style),
        "layer3": _stage(2 * width, 4 * width, shrink=True, style=style),
        "layer4": _stage(4 * width, 8 * width, shrink=True, style=style),
    }
    rows, columns = (_final_side(side, style) for side in problem.image_size)
    last_pool = [] if style.pooled else [nn.AvgPool2d((rows, columns))]
    features = Features(borrowed=(conv1, bn1, nn.ReLU(inplace=True), *stages.values(), *last_pool))
    positions = rows * columns if style.pooled else 1
    classifier = nn.Linear(8 * width * positions, problem.classes)
    return Network(features, {"conv1": conv1, "bn1": bn1, **stages, "classifier": classifier})


def _stage(channels_in: int, channels: int, *, shrink: bool, style: Style) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(channels_in, channels, shrink=shrink, style=style),
        BasicBlock(channels, channels, shrink=False, style=style),
    )


def _norm(style: Style, channels: int) -> nn.Module:
    return norm_layer(style.norm, channels, (0, 0))


def _final_side(side: int, style: Style) -> int:
    """Side of the last map: pooling rounds down, a strided convolution up."""
    final = side // 8 if style.pooled else -(-side // 8)
    if final < 1:
        raise ImageTooSmallError
    return final
