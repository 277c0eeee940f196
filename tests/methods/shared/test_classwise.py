"""Optimisers that step once for each class over the whole tensor, against torch's, class after class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods.shared.classwise import AdamWTurns, ClassTurns, Plateau, SGDTurns

CLASSES, IPC, LR = 4, 3, 0.05
TARGETS = torch.randn(CLASSES * IPC, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

TURNS: dict[str, Callable[[Tensor], ClassTurns]] = {
    "adamw": lambda images: AdamWTurns(images, CLASSES, LR, 0.1),
    "sgd": lambda images: SGDTurns(images, CLASSES, LR, 0.5),
}
TORCH: dict[str, Callable[[Tensor], torch.optim.Optimizer]] = {
    "adamw": lambda images: torch.optim.AdamW([images], lr=LR, weight_decay=0.1),
    "sgd": lambda images: torch.optim.SGD([images], lr=LR, momentum=0.5),
}


def start() -> Tensor:
    return torch.rand(TARGETS.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of_class(images: Tensor, c: int) -> Tensor:
    """A loss of a class's own images in which they all meet, with the class's weight."""
    own = slice(c * IPC, (c + 1) * IPC)
    gap = images[own].mean(dim=0) - TARGETS[own].mean(dim=0)
    return (c + 1) * (gap.square().sum() + (images[own] - TARGETS[own]).pow(4).sum())


def class_after_class(kind: str, rounds: int) -> Tensor:
    """What torch's optimiser leaves: one step on the whole tensor for each class and round."""
    images = start().requires_grad_()
    optimizer = TORCH[kind](images)
    for _ in range(rounds):
        for c in range(CLASSES):
            optimizer.zero_grad()
            loss_of_class(images, c).backward()
            optimizer.step()
    return images.detach()


def take(optimizer: ClassTurns, rounds: int) -> None:
    for _ in range(rounds):
        optimizer.approach()
        images = optimizer.images.detach().requires_grad_()
        total = torch.stack([loss_of_class(images, c) for c in range(CLASSES)]).sum()
        optimizer.depart(*torch.autograd.grad(total, images))


@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_two_sweeps_are_a_step_for_each_class(kind: str, rounds: int) -> None:
    optimizer = TURNS[kind](start())
    take(optimizer, rounds)
    torch.testing.assert_close(optimizer.images, class_after_class(kind, rounds), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", TURNS)
def test_a_step_for_each_class_is_not_one_joint_step(kind: str) -> None:
    joint = start().requires_grad_()
    optimizer = TORCH[kind](joint)
    for _ in range(3):
        total = torch.stack([loss_of_class(joint, c) for c in range(CLASSES)]).sum()
        (joint.grad,) = torch.autograd.grad(total, joint)
        optimizer.step()
    assert float((joint.detach() - class_after_class(kind, 3)).abs().max()) > 0.01


@pytest.mark.parametrize("kind", TURNS)
def test_a_restored_optimiser_goes_on_alike(kind: str) -> None:
    whole, restored = TURNS[kind](start()), TURNS[kind](torch.zeros_like(start()))
    take(whole, 2)
    whole.lr = LR / 2
    saved = whole.state_dict()
    images = restored.images
    restored.load_state_dict({**saved, "tensors": [tensor.clone() for tensor in saved["tensors"]]})
    for optimizer in (whole, restored):
        take(optimizer, 2)
    assert torch.equal(restored.images, whole.images)
    assert restored.images is images


@pytest.mark.parametrize("kind", TURNS)
def test_the_rate_may_change_between_rounds(kind: str) -> None:
    optimizer, images = TURNS[kind](start()), start().requires_grad_()
    reference = TORCH[kind](images)
    for rate in (LR, LR / 2, LR / 8):
        optimizer.lr = reference.param_groups[0]["lr"] = rate
        take(optimizer, 1)
        for c in range(CLASSES):
            reference.zero_grad()
            loss_of_class(images, c).backward()
            reference.step()
    torch.testing.assert_close(optimizer.images, images.detach(), rtol=1e-12, atol=1e-12)


def test_the_rate_falls_as_torchs_plateau_lets_it() -> None:
    generator = torch.Generator().manual_seed(2)
    losses = (torch.rand(200, generator=generator) + torch.linspace(1, 0.5, 200)).tolist()
    optimizer = SGDTurns(start(), CLASSES, LR, 0.5)
    plateau = Plateau(optimizer, 0.5, 7)
    parameter = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=LR)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, factor=0.5, patience=7)
    rates = []
    for k, loss in enumerate([*losses, float("nan"), *losses[:20]]):
        if k == 50:
            resumed = Plateau(optimizer, 0.5, 7)
            resumed.load_state_dict(plateau.state_dict())
            plateau = resumed
        plateau.step(loss)
        scheduler.step(loss)
        rates.append(optimizer.lr)
        assert optimizer.lr == reference.param_groups[0]["lr"], k
    assert len(set(rates)) > 4
