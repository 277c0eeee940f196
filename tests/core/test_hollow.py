"""Going through the motions of steps: the same FLOPs as real ones, and nothing computed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import methods
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.hollow import Hollow, TooLongError, is_hollow
from harness.core.loop import StoppedEarly


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(num_classes=3, shape=(3, 16, 16), per_class=40)


def first_step_of(method: str, data: Dataset, *, hollow: bool) -> tuple[float, int, int]:
    """FLOPs and images of one step, and the number of steps there would be."""
    context = Context(arch="ConvNetW16D2", stop_after=1, compile_loops=False)
    config = methods.resolve(method, "cifar10", 2, "smoke").config
    with Hollow(120) if hollow else nullcontext(), pytest.raises(StoppedEarly) as stopped:
        methods.load(method).distill(data, 2, config=config, context=context)
    return stopped.value.flops, context.cost().images_forwarded, stopped.value.total


# How many updates a step of theirs has hangs on values: accuracies, or how many real images a cluster has.
DECIDES_BY_VALUES = {"cafe", "cafe@dsa", "cafe@paper", "dream"}
LOOPLESS = {"random", "random_packed", "whole"}


@pytest.mark.slow
@pytest.mark.parametrize("method", [*sorted(methods.discover().keys() - LOOPLESS), "idm+hdd", "random@soft"])
def test_motions_count_as_real_steps_do(method: str, data: Dataset) -> None:
    counted, real = (first_step_of(method, data, hollow=hollow) for hollow in (True, False))
    if method in DECIDES_BY_VALUES:
        assert 1 / 4 < counted[0] / real[0] < 4
    else:
        assert counted == real
    assert counted[0] > 0
    assert counted[2] == real[2]


@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d(8), torch.nn.GroupNorm(8, 8)], ids=["batch", "group"])
def test_results_beside_changed_arguments_have_their_shapes(norm: torch.nn.Module) -> None:
    """Batch norm changes its running statistics and returns three new tensors."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), norm)
    with Hollow(60):
        out = net(torch.ones(4, 3, 16, 16))
        out.sum().backward()
    assert out.shape == (4, 8, 14, 14)
    assert all(weights.grad is not None for weights in net.parameters())


def test_large_results_are_not_computed_and_small_ones_are() -> None:
    large, small = torch.ones(64, 64), torch.arange(8.0)
    with Hollow(60):
        assert is_hollow()
        product, total = large @ large, small.sum()
        large.mul_(5)
        rows = torch.tensor([3, 1])
        picked = rows.flip(0).tolist()
    assert not is_hollow()
    assert product.shape == (64, 64)
    assert not torch.equal(product, torch.full((64, 64), 64.0))
    assert torch.equal(large, torch.ones(64, 64))
    assert (float(total), picked) == (28.0, [1, 3])
    assert torch.equal(large @ large, torch.full((64, 64), 64.0))


def test_gradients_have_the_shapes_of_what_they_are_of() -> None:
    weights = torch.ones(64, 32, requires_grad=True)
    with Hollow(60):
        gradient: Tensor = torch.autograd.grad((torch.ones(16, 64) @ weights).relu().sum(), weights)[0]
    assert gradient.shape == weights.shape


def test_motions_end_in_time() -> None:
    with pytest.raises(TooLongError), Hollow(0.0):
        torch.ones(64, 64).sum()
    assert not is_hollow()
