"""TESLA: trajectory matching whose memory does not grow with the number of student steps.

Cui, Wang, Si & Hsieh, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023
(arXiv 2211.10586). MTT's objective, written with the student's gradients g_i = grad CE(A(b_i); theta_(i-1))
and their sum G as

    || theta_t - alpha G - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2 .

A synthetic image is taken to act on the g_i of its own minibatches only, at fixed weights theta_(i-1): then
the gradient by the images of b_i is that of 2 (alpha (theta* - theta_t) + alpha^2 G) . g_i over the same
denominator, and one step after the other is differentiated. Reported on CIFAR-10 (ConvNet, ZCA whitening):
48.5, 66.4, 72.6 % at ipc 1, 10, 50, each the best of the evaluations made along the way, where this benchmark
evaluates the end; whether with soft labels is not said.

Departures from the authors' code (justincui03/tesla `distill.py`): the gradient by the images lacks the
factor 2 there (it doubles a tuple), here too, and the variant `tesla@exact` has it; seeds are named instead
of taken from the clock; the weights of the second pass are rebuilt instead of kept, which is the same up to
rounding; the CIFAR-10 command leaves out `--zca`, with which its experts and the table were made; commands
that are not published take MTT's settings; soft labels, whose code fails for all but ImageNet-1K, are in
`tesla@soft` the softmax of the logits that an expert, drawn once and at the latest target, has on the initial
images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.experts import Experts
from harness.core.nets import Network
from harness.core.passes import pieces
from harness.core.settings import Steps, setting
from methods import mtt
from methods.shared import trajectories
from methods.shared.trajectories import (
    Match,
    Segment,
    StatelessStudent,
    Step,
    condense,
    descended,
    dot,
    minus,
    settled,
    whole_way,
)

_LABELLED_AT_ONCE = 256  # images


@dataclass(frozen=True)
class Config(trajectories.Config):
    """Settings of TESLA: those of trajectory matching, and which gradient and labels."""

    iterations: int = setting(10_000, "updates of the images and of alpha", length=True)
    gradient_factor: float = setting(
        1.0, "factor on the gradient by the images; the true derivative has 2, the code 1"
    )
    teacher_label: bool = setting(False, "soft labels of an expert in place of hard ones")


VARIANTS = {"exact": {"gradient_factor": 2.0}, "soft": {"teacher_label": True}}

# The command of CIFAR-100 at ipc 50 is MTT's; of others none is published but CIFAR-10's at ipc 1.
PAPER = {
    **{cell: {**row, "zca": True} if "cifar" in cell[0] else row for cell, row in mtt.PAPER.items()},
    ("cifar10", 1): mtt.row(50, 2, 5, 1000, 1e-7, zca=True),
}
BORROWED = {cell: "mtt" for cell in mtt.PAPER if cell not in {("cifar10", 1), ("cifar100", 50)}}

SCALED = mtt.SCALED


def steps_of(config: Config) -> Steps:
    """MTT's loop; its images are stored with hard labels unless an expert labels them."""
    return dataclasses.replace(mtt.steps_of(config), labels="soft" if config.teacher_label else "hard")


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class, and a learning rate, by trajectory matching in constant memory.

    A dataset asked for by name is whitened if the configuration says so; one that is given is used as it is.
    """
    context = context or Context()
    data, config = settled("tesla", dataset, ipc, config, context)
    matching = partial(step_by_step, gradient_factor=config.gradient_factor)
    labelling = partial(teacher_labels, context, config) if config.teacher_label else None
    return condense(data, ipc, config, context, matching, "tesla", labelling=labelling)


def step_by_step(
    student: StatelessStudent,
    segment: Segment,
    images: Tensor,
    alpha: Tensor,
    steps: Sequence[Step],
    *,
    gradient_factor: float = 1.0,
) -> Match:
    """Make the steps once to learn their sum, then again to differentiate each at its fixed weights.

    No graph is kept beyond a step and the weights are rebuilt, so that memory does not depend on the number
    of steps.
    """
    pixels, rate = images.detach(), alpha.detach()
    weights, total = whole_way(student, segment.start, pixels, rate, steps)
    missed = minus(weights, segment.target)
    by_alpha = -2 * dot(missed, total) / segment.length

    # At fixed weights the distance changes with g_i as -2 alpha (theta_t - alpha G - theta*); the bracket is
    # what the student missed the target by, and the factor 2 is `gradient_factor`.
    lever = tuple(-gradient_factor * rate * gap / segment.length for gap in missed)
    by_images, weights = torch.zeros_like(pixels), segment.start
    for step in steps:
        batch = pixels[step.rows].requires_grad_()
        gradient = student.gradient(weights, batch, step, create_graph=True)
        (by_batch,) = torch.autograd.grad(dot(lever, gradient), batch)
        by_images.index_add_(0, step.rows, by_batch)
        weights = descended(weights, tuple(part.detach() for part in gradient), rate)
    return Match(dot(missed, missed) / segment.length, by_images, by_alpha)


@torch.no_grad()
def teacher_labels(
    context: Context, config: Config, net: Network, experts: Experts, images: Tensor
) -> Tensor:
    """Soft labels (n, classes): what an expert makes of images (n, ...) at the latest target of a student."""
    generator = context.generator("teacher", on_cpu=True)
    expert = int(torch.randint(len(experts), (), generator=generator))
    experts.load_into(net, expert, config.max_start - 1 + config.match_epochs)
    net.eval()
    logits = [net(images[piece]) for piece in pieces(len(images), _LABELLED_AT_ONCE)]
    net.train()
    return torch.cat(logits).softmax(dim=1)
