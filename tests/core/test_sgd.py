"""Our SGD makes torch's steps, bit for bit, whatever happens between them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.core.sgd import SGD

RATES = st.floats(1e-4, 2.0)
SHAPES = [(3, 2, 3, 3), (3,), (), (5, 4)]
# What one step of a run may be: a fresh gradient for some of the parameters, perhaps another learning rate.
STEPS = st.lists(
    st.tuples(st.lists(st.booleans(), min_size=4, max_size=4), st.none() | RATES), min_size=1, max_size=6
)
SETTINGS = st.fixed_dictionaries(
    {
        "lr": RATES,
        "momentum": st.just(0.0) | st.floats(0.1, 0.99),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    }
)

Wanted = Iterable[tuple[list[bool], float | None]]


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def groups_of(tensors: list[Tensor], grouped: bool) -> list[Any]:
    return [{"params": tensors[:1], "lr": 0.3}, {"params": tensors[1:]}] if grouped else tensors


def take(optimizer: Any, tensors: list[Tensor], steps: Wanted, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for moving, rate in steps:
        for tensor, moves in zip(tensors, moving, strict=True):
            gradient = torch.randn(tensor.shape, generator=generator)
            tensor.grad = gradient if moves else None
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return [tensor.detach().numpy().tobytes() for tensor in ours] == [
        tensor.detach().numpy().tobytes() for tensor in theirs
    ]


@settings(deadline=None)
@given(wanted=SETTINGS, steps=STEPS, grouped=st.booleans())
def test_steps_are_those_of_torch_to_the_last_bit(
    wanted: dict[str, float], steps: Wanted, grouped: bool
) -> None:
    ours, theirs = parameters(), parameters()
    take(SGD(groups_of(ours, grouped), **wanted), ours, steps)
    take(torch.optim.SGD(groups_of(theirs, grouped), **wanted), theirs, steps)
    assert same(ours, theirs)


@pytest.mark.slow
@settings(deadline=None)
@given(wanted=SETTINGS, before=STEPS, after=STEPS)
@pytest.mark.parametrize("saver", [SGD, torch.optim.SGD])
def test_a_state_of_either_is_gone_on_from(
    saver: Any, wanted: dict[str, float], before: Wanted, after: Wanted
) -> None:
    whole = parameters()
    first = saver(whole, **wanted)
    take(first, whole, before)
    resumed = [tensor.detach().clone().requires_grad_() for tensor in whole]
    second = SGD(resumed, lr=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take(first, whole, after, seed=2)
    take(second, resumed, after, seed=2)
    assert same(whole, resumed)


def test_a_state_is_a_copy_once_it_is_loaded() -> None:
    (tensor, *_), wanted = parameters(), {"lr": 0.1, "momentum": 0.9}
    first, second = SGD([tensor], **wanted), SGD([tensor], **wanted)
    take(first, [tensor], [([True], None)])
    second.load_state_dict(first.state_dict())
    take(second, [tensor], [([True], None)])
    (kept,) = first.state.values()
    (moved,) = second.state.values()
    assert not torch.equal(kept, moved)


def test_gradients_are_forgotten_or_zeroed() -> None:
    tensors = parameters()
    optimizer = SGD(tensors, lr=0.1)
    tensors[0].grad = torch.ones_like(tensors[0])
    optimizer.zero_grad(set_to_none=False)
    assert [tensor.grad is None for tensor in tensors] == [False, True, True, True]
    assert not bool(tensors[0].grad.any())
    optimizer.zero_grad()
    assert all(tensor.grad is None for tensor in tensors)
