"""MTT: matching training trajectories, differentiated through all steps of a student.

Cazenavette, Wang, Torralba, Efros & Zhu, "Dataset Distillation by Matching Training Trajectories", CVPR 2022
(arXiv 2203.11932). At every iteration a network theta_t, trained for t < T+ passes over the real images, is
drawn; a student starts there and makes N steps theta_i = theta_(i-1) - alpha grad CE(A(b_i); theta_(i-1)) on
minibatches b_i of the synthetic set, each augmented by an A of its own;

    minimise  || theta_N - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2

over the synthetic images and the learning rate alpha, which training on them then uses. Reported on CIFAR-10
(ConvNet, with ZCA whitening at ipc 1 and 10): 46.3, 65.3, 71.6 % at ipc 1, 10, 50, each the best of the
evaluations made along the way, where this benchmark evaluates the end.

Departures from the authors' code (GeorgeCazenavette/mtt-distillation `buffer.py`, `distill.py`): seeds are
named instead of taken from the clock; experts are drawn independently at every iteration, as theirs are when
all buffers are loaded, and not file by file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from methods.shared import trajectories
from methods.shared.trajectories import (
    Match,
    Segment,
    StatelessStudent,
    Step,
    by_cell,
    condense,
    settled,
    squared_distance,
)


@dataclass(frozen=True)
class Config(trajectories.Config):
    """Settings of MTT."""


def row(n: int, m: int, start: int, lr_img: float, lr_lr: float, **rest: Any) -> dict[str, Any]:
    """A command: N, M, T+, learning rates of the images and of alpha."""
    settings = {"student_steps": n, "match_epochs": m, "max_start": start, "lr_img": lr_img, "lr_lr": lr_lr}
    return settings | rest


_ZCA: dict[str, Any] = {"zca": True}
_COMMANDS: dict[str, dict[int, dict[str, Any]]] = {
    "cifar10": {
        1: row(50, 2, 2, 100, 1e-7) | _ZCA,
        10: row(30, 2, 20, 100, 1e-5, alpha0=0.001) | _ZCA,
        50: row(30, 2, 40, 1000, 1e-5, alpha0=0.001),
    },
    "cifar100": {
        1: row(20, 3, 20, 1000, 1e-5) | _ZCA,
        10: row(20, 2, 20, 1000, 1e-5),
        50: row(80, 2, 40, 1000, 1e-5, batch_syn=125) | _ZCA,
    },
    "tinyimagenet": {  # with ConvNetD4
        1: row(10, 2, 10, 10_000, 1e-4),
        10: row(20, 2, 40, 10_000, 1e-4, batch_syn=200),
        50: row(20, 2, 40, 10_000, 1e-4, batch_syn=300),
    },
}
PAPER = by_cell(_COMMANDS)

# Rates and lengths are ours: experts make fewer and larger steps, and so do students and images.
SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "iterations": 100,
        "lr_img": 3000.0,
        "alpha0": 0.03,
        "lr_lr": 1e-5,
        "student_steps": 10,
        "match_epochs": 1,
        "max_start": 3,
        "batch_syn": 25,
        "zca": False,
        "experts": 4,
        "expert_epochs": 3,
        "expert_steps": 45,
        "expert_batch": 128,
        "expert_lr": 0.05,
    },
    "smoke": {
        "iterations": 10,
        "student_steps": 5,
        "match_epochs": 1,
        "max_start": 2,
        "zca": False,
        "experts": 2,
        "expert_epochs": 2,
        "expert_steps": 10,
        "expert_batch": 32,
    },
}
steps_of = trajectories.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class, and a learning rate, by matching training trajectories.

    A dataset asked for by name is whitened if the configuration says so; one that is given is used as it is.
    """
    context = context or Context()
    data, config = settled("mtt", dataset, ipc, config, context)
    return condense(data, ipc, config, context, unrolled, "mtt")


def unrolled(
    student: StatelessStudent, segment: Segment, images: Tensor, alpha: Tensor, steps: Sequence[Step]
) -> Match:
    """Make the steps and differentiate the distance to the target through all of them."""
    weights = segment.start
    for step in steps:
        gradient = student.gradient(weights, images[step.rows], step, create_graph=True)
        weights = tuple(weight - alpha * g for weight, g in zip(weights, gradient, strict=True))
    loss = squared_distance(weights, segment.target) / segment.length
    by_images, by_alpha = torch.autograd.grad(loss, (images, alpha))
    return Match(loss.detach(), by_images, by_alpha)
