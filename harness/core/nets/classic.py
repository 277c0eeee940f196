"""MLP, LeNet, AlexNet and VGG-11 in the small-image form of DatasetCondensation's ``networks.py``.

Layer names and their order are those of that code, so state dicts can be exchanged; AlexCifarNet is another
one's. Each function takes the problem and returns a network; the convolutional ones raise ImageTooSmallError.
"""

from __future__ import annotations

from torch import nn

from harness.core.nets.base import Features, Network, Problem
from harness.core.nets.names import Norm
from harness.core.nets.stack import Stack, activation_layer

_HIDDEN = 128
# Output channels of the convolutions; M is a max pooling.
_VGG11: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


def mlp(problem: Problem) -> Network:
    """Flattened image -> 128 -> 128 -> classes; the embedding is the second hidden layer."""
    height, width = problem.image_size
    fc_1 = nn.Linear(problem.channels * height * width, _HIDDEN)
    fc_2 = nn.Linear(_HIDDEN, _HIDDEN)
    hidden = (nn.Flatten(), fc_1, activation_layer("relu"), fc_2, activation_layer("relu"))
    fc_3 = nn.Linear(_HIDDEN, problem.classes)
    return Network(Features(borrowed=hidden), {"fc_1": fc_1, "fc_2": fc_2, "fc_3": fc_3})


def lenet(problem: Problem) -> Network:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; the embedding is the layer of 84 units."""
    stack = Stack(problem)
    for channels, padding in ((6, 2 if problem.channels == 1 else 0), (16, 0)):
        stack.conv(channels, kernel=5, padding=padding)
        stack.activation("relu")
        stack.pool("max")
    fc_1 = nn.Linear(stack.flat_dim, 120)
    fc_2 = nn.Linear(120, 84)
    hidden = (nn.Flatten(), fc_1, activation_layer("relu"), fc_2, activation_layer("relu"))
    fc_3 = nn.Linear(84, problem.classes)
    return Network(Features(*stack.layers, borrowed=hidden), {"fc_1": fc_1, "fc_2": fc_2, "fc_3": fc_3})


def alexnet(problem: Problem, *, norm: Norm) -> Network:
    """AlexNet (Krizhevsky et al. 2012) with five convolutions and a single linear layer."""
    stack = Stack(problem)
    first_padding = 4 if problem.channels == 1 else 2
    plan = ((128, 5, first_padding, True), (192, 5, 2, True), (256, 3, 1, False), (192, 3, 1, False))
    for channels, kernel, padding, pooled in (*plan, (192, 3, 1, True)):
        stack.conv(channels, kernel=kernel, padding=padding)
        stack.norm(norm)
        stack.activation("relu")
        stack.pool("max" if pooled else "none")
    return Network(Features(*stack.layers), {"fc": nn.Linear(stack.flat_dim, problem.classes)})


def alexcifarnet(problem: Problem) -> Network:
    """The network of DD and LD for CIFAR-10, after cuda-convnet's; the embedding is the layer of 192 units.

    Two convolutions of 64 channels, overlapping max pools and local response norms.
    """
    stack = Stack(problem)
    stack.conv(64, kernel=5, padding=2)
    stack.activation("relu")
    stack.pool("overlapping")
    stack.response_norm()
    stack.conv(64, kernel=5, padding=2)
    stack.activation("relu")
    stack.response_norm()
    stack.pool("overlapping")
    hidden = (nn.Flatten(), nn.Linear(stack.flat_dim, 384), activation_layer("relu"), nn.Linear(384, 192))
    fc_1, fc_2 = hidden[1], hidden[3]
    fc_3 = nn.Linear(192, problem.classes)
    features = Features(*stack.layers, borrowed=(*hidden, activation_layer("relu")))
    return Network(features, {"fc_1": fc_1, "fc_2": fc_2, "fc_3": fc_3})


def vgg11(problem: Problem, *, norm: Norm, width: int = 64) -> Network:
    """VGG-11 (Simonyan & Zisserman 2015) with a normalisation and a single linear layer.

    `width`: channels of the first convolution; the others have as many times more as in the paper.
    """
    stack = Stack(problem)
    for position, item in enumerate(_VGG11):
        if isinstance(item, str):
            stack.pool("max")
            continue
        stack.conv(item * width // 64, kernel=3, padding=3 if position == 0 and problem.channels == 1 else 1)
        stack.norm(norm)
        stack.activation("relu")
    return Network(Features(*stack.layers), {"classifier": nn.Linear(stack.flat_dim, problem.classes)})
