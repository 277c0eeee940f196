"""FLOPs and images of a step, against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.core.checkpoint import LoopState
from harness.core.cost import FlopCounter, counting
from harness.core.nets import Network, build

ARCHS = ["ConvNetW8", "MLP", "LeNet", "AlexNet", "ResNet18BN"]


def network(arch: str) -> Network:
    generator = torch.Generator().manual_seed(0)
    return build(arch, channels=3, image_size=(32, 32), classes=4, generator=generator, device="cpu")


def loss_of(net: Network, images: Tensor) -> Tensor:
    return F.cross_entropy(net(images), torch.zeros(len(images), dtype=torch.int64))


def forward(net: Network, images: Tensor) -> None:
    with torch.inference_mode():
        net(images)


def train(net: Network, images: Tensor) -> None:
    loss_of(net, images).backward()


def twice_backward(net: Network, images: Tensor) -> None:
    images.requires_grad_()
    slope = torch.autograd.grad(loss_of(net, images), list(net.parameters()), create_graph=True)
    torch.stack([part.square().sum() for part in slope]).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("work", [forward, train, twice_backward])
def test_flops_are_those_that_torch_counts(arch: str, work: Callable[[Network, Tensor], None]) -> None:
    images = torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as theirs:
        work(network(arch), images.clone())
    with FlopCounter() as ours:
        work(network(arch), images.clone())
    assert ours.flops == theirs.get_total_flops() > 0


def test_a_matrix_product_costs_two_operations_for_each_pair() -> None:
    with FlopCounter() as counter:
        torch.ones(2, 3) @ torch.ones(3, 5)
    assert counter.flops == 2 * 2 * 3 * 5


def test_images_are_counted_once_for_each_time_they_enter_a_network() -> None:
    net, loop = network("ConvNetW8"), LoopState(total=1)
    with counting(loop):
        net(torch.randn(2, 3, 32, 32, requires_grad=True))
        net.embed(torch.randn(3, 3, 32, 32))
    assert loop.images_per_step == 5
    assert loop.flops_per_step > 0
