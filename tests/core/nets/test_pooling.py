"""The quicker average pooling is torch's to the last bit, its derivatives too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad

from harness.core.nets.pooling import HalvingPool

OURS, TORCHS = HalvingPool(), nn.AvgPool2d(2)


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_means_and_gradients_have_the_same_bits(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    n, channels, height, width = shape
    values = maps(n, channels, 2 * height, 2 * width, dtype=dtype)
    wanted = maps(n, channels, height, width, dtype=dtype)
    found = []
    for pool in (OURS, TORCHS):
        leaf = values.clone().requires_grad_()
        out = pool(leaf)
        found.append((out, *torch.autograd.grad(out, leaf, wanted)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (2, 3, 8, 7), (3, 8, 8)])
def test_maps_that_do_not_fit_go_through_torchs_kernel(shape: tuple[int, ...]) -> None:
    assert torch.equal(OURS(maps(*shape)), TORCHS(maps(*shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_do_other_layouts_and_types(dtype: torch.dtype) -> None:
    values = maps(2, 3, 8, 8).to(dtype).to(memory_format=torch.channels_last)
    assert torch.equal(OURS(values), TORCHS(values))
    assert torch.equal(OURS(values.contiguous()), TORCHS(values.contiguous()))


def test_gradients_may_be_differentiated_again() -> None:
    """As by methods that go through a network's own gradients; also by torch's functions of functions."""
    weights, values = maps(1, 3, 8, 8, dtype=torch.float64), maps(2, 3, 8, 8, dtype=torch.float64)
    twice = []
    for pool in (OURS, TORCHS):

        def energy(weights: Tensor, pool: nn.Module = pool) -> Tensor:
            out: Tensor = functional_call(pool, {}, ((values * weights).tanh(),))
            return out.square().sum()

        leaf = weights.clone().requires_grad_()
        (first,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
        by_leaf = torch.autograd.grad(first.square().sum(), leaf)[0]
        by_function = grad(lambda x, energy=energy: grad(energy)(x).square().sum())(weights)
        torch.testing.assert_close(by_function, by_leaf)
        twice.append(by_leaf)
    torch.testing.assert_close(*twice)
    assert torch.autograd.gradcheck(OURS, (values.requires_grad_(),))
    assert torch.autograd.gradgradcheck(OURS, (values,))
