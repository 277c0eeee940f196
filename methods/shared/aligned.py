"""What DATM and PAD share: trajectories as hard as the set can learn, and labels that are learned.

The logits y of the labels are learned along with the images: a student's steps minimise the cross entropy
with softmax(y). Images and first logits are chosen by the experts, the passes from which students start move
on as the set learns, and a step that misses its target by more than a threshold is not made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled, class_labels
from harness.core.errors import DataError, DivergedError, UserError
from harness.core.experts import Experts
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from methods.shared.trajectories import (
    FlatConfig,
    Segment,
    StatelessStudent,
    Step,
    Weights,
    descended,
    dot,
    draw_segment,
    draw_steps,
    squared_distance,
    strategy_of,
    whole_way,
)

_ROWS = 256  # images that an expert looks at together
_MOST_LOST = 10  # losses in a row that may be no finite number

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config(FlatConfig):
    """Settings of trajectory matching with learned labels; the defaults are what DATM's commands share."""

    iterations: int = setting(10_000, "updates of images, label logits and alpha", length=True)
    student_steps: int = setting(80, "N, SGD steps of a student")
    min_start: int = setting(0, "T-, students start after no fewer passes than this")
    first_max_start: int | None = setting(
        None, "T, what max_start is at first, from where it grows; None: it does not grow"
    )
    growth: int = setting(1000, "iterations in which first_max_start grows to max_start")
    lr_label: float = setting(2.0, "learning rate of the label logits")
    momentum_label: float = setting(0.9, "momentum of the label logits")
    threshold: float = setting(1.0, "distance to the target above which no step is made")
    initial: Literal["right", "random"] = setting(
        "right",
        "first images: those that experts classify rightly, with logits of all that do; or random ones, with "
        "logits of one expert",
    )
    constant_memory: bool = setting(
        False, "TESLA's gradient, whose memory does not grow with the steps of a student"
    )
    expert_epochs: int = setting(100, "passes over the real images that an expert makes")

    def __post_init__(self) -> None:
        """Refuse ranges of starts that do not fit."""
        super().__post_init__()
        first = self.max_start if self.first_max_start is None else self.first_max_start
        if not 0 <= self.min_start < first <= self.max_start:
            raise UserError(
                f"students cannot start after {self.min_start} to fewer than {first} passes of an "
                f"expert, growing to fewer than {self.max_start}; "
                "expected 0 <= min_start < first_max_start <= max_start"
            )
        if self.first_max_start is not None and self.growth < 1:
            raise UserError(f"starts cannot grow in {self.growth} iterations; expected growth of at least 1")


def row(
    n: int, m: int, lr_img: float, starts: tuple[int, int | None, int], lr_label: float, **rest: Any
) -> dict[str, Any]:
    """A command: N, M, learning rates of images and labels, and starts: T-, T or None, T+."""
    settings: dict[str, Any] = {"student_steps": n, "match_epochs": m, "lr_img": lr_img, "lr_label": lr_label}
    settings |= dict(zip(("min_start", "first_max_start", "max_start"), starts, strict=True))
    return settings | {"zca": True, "lr_lr": 1e-5, "batch_syn": 1000} | rest


# Lengths and rates are ours: experts make fewer and larger steps, and so do students and images.
SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "iterations": 100,
        "lr_img": 3000.0,
        "alpha0": 0.03,
        "lr_lr": 1e-5,
        "lr_label": 5.0,
        "student_steps": 10,
        "match_epochs": 1,
        "min_start": 0,
        "first_max_start": 2,
        "max_start": 3,
        "growth": 40,
        "batch_syn": 25,
        "zca": False,
        "experts": 3,
        "expert_epochs": 4,
        "expert_steps": 30,
        "expert_batch": 64,
        "expert_lr": 0.05,
        "gsam_alpha": 0.3,
    },
    "smoke": {
        "iterations": 10,
        "student_steps": 5,
        "match_epochs": 1,
        "min_start": 0,
        "first_max_start": 1,
        "max_start": 2,
        "growth": 5,
        "zca": False,
        "experts": 2,
        "expert_epochs": 2,
        "expert_steps": 10,
        "expert_batch": 32,
    },
}


def steps_of(config: Config) -> Steps:
    """The loop; the steps of its students and the training of the experts are not in it."""
    return Steps(config.iterations, augmentation=config.strategy, labels="soft")


@dataclass(frozen=True)
class Learned:
    """What is learned: images (n, ...), label logits (n, classes) and alpha."""

    images: Tensor
    logits: Tensor
    alpha: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        """All three by name."""
        return {"images": self.images, "logits": self.logits, "alpha": self.alpha}


@dataclass(frozen=True)
class SoftMatch:
    """Normalised distance of a student's end from the target, and its gradients by what is learned."""

    loss: Tensor
    by_images: Tensor
    by_logits: Tensor
    by_alpha: Tensor


# How far a student's end is from the target, as a share of the stretch.
Distance = Callable[[Weights, Segment], Tensor]


def normalised(end: Weights, segment: Segment) -> Tensor:
    """MTT's distance."""
    return squared_distance(end, segment.target) / segment.length


def condense(
    data: Dataset,
    ipc: int,
    config: Config,
    context: Context,
    experts: Experts,
    distance: Distance,
    method: str,
) -> Distilled:
    """Update images, label logits and alpha so that students that learn from them follow the experts."""
    net = context.network(data)
    jury = Jury(experts, net, context)
    rows, logits = begin(jury, data, ipc, config, context)
    alpha = torch.tensor(config.alpha0, device=data.device, requires_grad=True)
    learned = Learned(data.batch(rows).requires_grad_(), logits.requires_grad_(), alpha)
    optimizer = optimizer_of(learned, config)
    student = StatelessStudent(context, net, logits, strategy_of(config, data))
    matching = step_by_step if config.constant_memory else unrolled
    made, lost = torch.zeros(()), torch.zeros(())  # steps in all; losses in a row that are no number

    state: State = {**learned.parts, "optimizer": optimizer, "made": made, "lost": lost}
    for iteration in context.steps(config.iterations, state):
        segment = draw_segment(experts, config, context, starts(config, iteration))
        steps = draw_steps(learned.images, student.strategy, config, context)
        match = matching(student, segment, learned, steps, distance)
        loss = float(match.loss)
        if loss <= config.threshold:  # never of NaN; momentum rests too
            learned.images.grad, alpha.grad = match.by_images, match.by_alpha
            learned.logits.grad = match.by_logits
            optimizer.step()
            made += 1
        if math.isfinite(loss):
            context.log(loss)
            lost.zero_()
        else:
            lost += 1
            check_finite(learned, int(lost), method)

    check_finite(learned, int(lost), method)
    if not made:
        logger.warning("no step of %s was made: each missed its target by more than the threshold", method)
    return Distilled.of(
        data,
        learned.images,
        labels=learned.logits.detach().softmax(dim=1),
        method=method,
        config=config,
        augmentation=student.strategy,
        learned_lr=alpha.item(),
    )


def optimizer_of(learned: Learned, config: Config) -> SGD:
    """SGD on all that is learned, each at rates and momenta of its own."""
    groups = [
        {"params": [learned.logits], "lr": config.lr_label, "momentum": config.momentum_label},
        {"params": [learned.images], "lr": config.lr_img},
        {"params": [learned.alpha], "lr": config.lr_lr},
    ]
    return SGD(groups, momentum=config.momentum)


def starts(config: Config, iteration: int) -> range:
    """After how many passes a student may start at an iteration."""
    first, last = config.first_max_start, config.max_start
    if first is None:
        return range(config.min_start, last)
    return range(config.min_start, min(last, first + (last - first) * iteration // config.growth))


def check_finite(learned: Learned, lost: int, method: str) -> None:
    """DivergedError if a step has left anything that is no finite number, or if too many losses are none.

    A single such loss is a student that lost its way, as one that is above the threshold.
    """
    rates = {"images": "lr_img", "logits": "lr_label", "alpha": "lr_lr"}
    names = {"images": "images", "logits": "labels", "alpha": "students' learning rates"}
    for name, part in learned.parts.items():
        if not bool(torch.isfinite(part).all()):
            raise DivergedError(
                f"{method} diverged: its {names[name]} are no longer finite numbers; lower {rates[name]} "
                f"(--set {method}.{rates[name]}=...)"
            )
    if lost >= _MOST_LOST:
        raise DivergedError(
            f"{method} diverged: its loss was no finite number {lost} times in a row; lower lr_img, lr_label "
            f"or alpha0 (--set {method}.lr_img=...)"
        )


def unrolled(
    student: StatelessStudent,
    segment: Segment,
    learned: Learned,
    steps: Sequence[Step],
    distance: Distance,
) -> SoftMatch:
    """Make the steps and differentiate the distance to the target through all of them, labels included."""
    student = replace(student, labels=learned.logits.softmax(dim=1))
    weights = segment.start
    for step in steps:
        gradient = student.gradient(weights, learned.images[step.rows], step, create_graph=True)
        weights = tuple(weight - learned.alpha * g for weight, g in zip(weights, gradient, strict=True))
    loss = distance(weights, segment)
    return SoftMatch(loss.detach(), *torch.autograd.grad(loss, tuple(learned.parts.values())))


def step_by_step(
    student: StatelessStudent,
    segment: Segment,
    learned: Learned,
    steps: Sequence[Step],
    distance: Distance,
) -> SoftMatch:
    """TESLA's gradient: each step is differentiated at its fixed weights, images and labels alike.

    As in `tesla.step_by_step`, memory does not depend on the number of steps; at fixed weights the derivative
    is exact, factor 2 included.
    """
    pixels, logits, rate = (part.detach() for part in learned.parts.values())
    fixed = replace(student, labels=logits.softmax(dim=1))
    end, total = whole_way(fixed, segment.start, pixels, rate, steps)
    end = tuple(weight.requires_grad_() for weight in end)
    loss = distance(end, segment)
    by_end = torch.autograd.grad(loss, end)

    lever = tuple(-rate * part for part in by_end)
    by_images, by_logits, weights = torch.zeros_like(pixels), torch.zeros_like(logits), segment.start
    for step in steps:
        batch, leaf = pixels[step.rows].requires_grad_(), logits.clone().requires_grad_()
        labelled = replace(student, labels=leaf.softmax(dim=1))
        gradient = labelled.gradient(weights, batch, step, create_graph=True)
        by_batch, by_leaf = torch.autograd.grad(dot(lever, gradient), (batch, leaf))
        by_images.index_add_(0, step.rows, by_batch)
        by_logits.add_(by_leaf)
        weights = descended(weights, tuple(part.detach() for part in gradient), rate)
    return SoftMatch(loss.detach(), by_images, by_logits, -dot(by_end, total))


@dataclass(frozen=True)
class Jury:
    """The experts after their last pass, who judge images in the weights of one network."""

    experts: Experts
    net: Network
    context: Context

    def __len__(self) -> int:
        return len(self.experts)

    @torch.no_grad()
    def logits(self, expert: int, images: Tensor) -> Tensor:
        """What an expert makes of images (n, ...): (n, classes)."""
        self.experts.load_into(self.net, expert, self.experts.settings.epochs)
        self.net.eval()
        forward = logits_forward(self.context)
        found = [forward(self.net, images[piece]) for piece in pieces(len(images), _ROWS)]
        self.net.train()
        return torch.cat(found)


def begin(jury: Jury, data: Dataset, ipc: int, config: Config, context: Context) -> tuple[Tensor, Tensor]:
    """Which real images (C * ipc,) the set begins with, class after class, and their label logits."""
    generator = context.generator("init")
    if config.initial == "random":
        rows = data.index.balanced(ipc, generator)
        expert = int(torch.randint(len(jury), (), generator=context.generator("teacher", on_cpu=True)))
        return rows, jury.logits(expert, data.batch(rows))
    drawn = data.index.draw(len(data), generator)
    orders = drawn.indices.split(list(drawn.sizes))
    rows = rightly_classified(jury, data, orders, ipc)
    return rows, mean_logits(jury, data.batch(rows), class_labels(data.num_classes, ipc, data.device))


def rightly_classified(jury: Jury, data: Dataset, orders: Sequence[Tensor], ipc: int) -> Tensor:
    """The first images (C * ipc,), in the order (n,) of each class, that an expert classifies rightly.

    Where one expert's do not suffice, those that the next one is right about are added, and at last any; the
    next class goes on with the expert that was asked last.
    """
    expert, chosen = 0, []
    for c, order in enumerate(orders):
        if len(order) < ipc:
            raise DataError(
                f"class {c} has {len(order)} images, fewer than the {ipc} asked for; "
                f"choose an ipc of at most {len(order)}"
            )
        found = order[:0]
        asked = dict.fromkeys((expert, *range(1, len(jury)), *range(len(jury))))
        for expert in asked:
            rest = order[~torch.isin(order, found)]
            found = torch.cat([found, _first_right(jury, expert, data, rest, ipc - len(found))])
            if len(found) == ipc:
                break
        rest = order[~torch.isin(order, found)]
        chosen += [found, rest[: ipc - len(found)]]
    return torch.cat(chosen)


def _first_right(jury: Jury, expert: int, data: Dataset, rows: Tensor, wanted: int) -> Tensor:
    """The first so many of rows (n,) that an expert classifies rightly, or as many as there are."""
    found = rows[:0]
    for piece in _growing(len(rows), wanted):
        part = rows[piece]
        right = jury.logits(expert, data.batch(part)).argmax(dim=1) == data.labels[part]
        found = torch.cat([found, part[right]])
        if len(found) >= wanted:
            break
    return found[:wanted]


def _growing(rows: int, wanted: int) -> Iterator[slice]:
    """Slices that cover `rows` rows, the first ones small: mostly few are needed."""
    begin, size = 0, min(_ROWS, max(16, 2 * wanted))
    while begin < rows:
        yield slice(begin, min(begin + size, rows))
        begin, size = begin + size, min(_ROWS, 2 * size)


def mean_logits(jury: Jury, images: Tensor, classes: Tensor) -> Tensor:
    """Mean logits (n, classes) of the experts that are right about an image (n, ...); of all if none is."""
    of_right, of_all, votes = (images.new_zeros(len(images), 1) for _ in range(3))
    for expert in range(len(jury)):
        logits = jury.logits(expert, images)
        right = (logits.argmax(dim=1) == classes)[:, None]
        of_right, of_all, votes = of_right + right * logits, of_all + logits, votes + right
    return torch.where(votes > 0, of_right / votes.clamp(min=1), of_all / len(jury))
