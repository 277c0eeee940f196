"""Training of one fresh network on a distilled set, by an evaluation protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core import dc_augment
from harness.core.augment import DIGIT_DATASETS, STAGE, augment_batch, operations
from harness.core.checkpoint import State
from harness.core.errors import UserError
from harness.core.learned_steps import LearnedSteps
from harness.core.nets import Network
from harness.core.passes import backward, hard, logits_forward, pieces, rows_per_piece
from harness.core.teachers import Teacher as TrainedTeacher
from harness.engine.losses import SummedLoss, Targets, summed
from harness.engine.mixing import Mix, as_rows, draw, mixed
from harness.engine.optimisers import ScheduledOptimizer
from harness.engine.parts import Mixup, SetSize, SquaredError
from harness.engine.protocol import Course, Protocol
from harness.engine.relabel import Committee, by_batch
from methods.shared.crops import draw_windows, resized_crops

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.distilled import Distilled

# Images (n, C, H, W) of a batch, as the student sees them -> logits (n, classes); it is called without
# gradients, for training batches only. A network is in evaluation mode unless the protocol says otherwise.
Teacher = Callable[[Tensor], Tensor]
# Index batches of one pass.
Batches = Callable[[], Iterable[Tensor]]
# How to mix a batch of so many images of a size (H, W); None: not at all.
Mixes = Callable[[int, tuple[int, int]], Mix | None]
Augment = Callable[[Tensor], Tensor]

CROPPED = "resized_crop"  # the stage of random resized crops, before those of a strategy
ROUNDING = 1e-3  # by which a row of probabilities may miss one


@dataclass(frozen=True)
class TrainingSet:
    """Images (n, C, H, W) and labels (n,) or (n, classes), and what to train under.

    classes: (n,) what each image is, where soft labels do not tell; None: their largest entries tell.
    strategy: augmentation, of `harness.core.augment` or, with the prefix "dc:", of `harness.core.dc_augment`.
    smallest_crop: share of the image that the smallest random resized crop has; None: images are left whole.
    lr: learning rate that was distilled along; None: the protocol's. steps: those that were learned with the
    images, of which `lr` is then the mean size. ipc, stored: images per class and in
    all, as they are kept; None: those that are here.
    """

    images: Tensor
    labels: Tensor
    strategy: str = ""
    lr: float | None = None
    ipc: int | None = None
    stored: int | None = None
    classes: Tensor | None = None
    steps: LearnedSteps | None = None
    smallest_crop: float | None = None

    @property
    def hard_labels(self) -> Tensor:
        """The class (n,) of each image."""
        return hard(self.labels) if self.classes is None else self.classes

    @property
    def augmented(self) -> bool:
        """Whether images are changed at all; UnknownNameError for an operation that does not exist."""
        return bool(self.augmentation)

    @property
    def augmentation(self) -> str:
        """What is done to images, as a strategy; "" for nothing."""
        stages = [CROPPED] if self.smallest_crop is not None else []
        if _operations(self.strategy):
            stages.append(self.strategy)
        return STAGE.join(stages)

    def size(self, classes: int) -> SetSize:
        """What decides how long networks train on it."""
        decoded = len(self.images)
        stored = decoded if self.stored is None else self.stored
        ipc = max(1, stored // classes) if self.ipc is None else self.ipc
        size = SetSize(classes, ipc, stored, decoded, self.augmented)
        if self.steps is None:
            return size
        return replace(size, learned=(len(self.steps.rows), len(self.steps)))


@dataclass(frozen=True)
class Script:
    """The chance of a training: index batches of each pass and how each batch is mixed."""

    batches: Batches
    mixes: Mixes


def training_set_of(distilled: Distilled, protocol: Protocol, device: torch.device) -> TrainingSet:
    """The decoded images on `device`, with labels, augmentation and rate that set and protocol call for.

    UserError if the protocol trains on stored soft labels, or by learned steps, and the set has none.
    """
    if protocol.needs_steps and distilled.steps is None:
        raise UserError(
            f"protocol {protocol.name} makes the steps that were learned with a set, and this one keeps none;"
            " choose another protocol, see `list protocols`"
        )
    images, labels, classes = (part.to(device) for part in (*distilled.decoded(), distilled.hard_labels()))
    strategy, recipe = distilled.augmentation, protocol.recipe
    if recipe.augmentation is not None:
        strategy = recipe.augmentation
        if distilled.dataset in DIGIT_DATASETS:
            strategy = STAGE.join(stage for stage in strategy.split(STAGE) if stage != "flip")
    steps = distilled.steps if protocol.needs_steps else None
    return TrainingSet(
        images,
        _labels(labels, classes, protocol),
        strategy,
        distilled.learned_lr if steps is None else float(steps.sizes.mean()),
        ipc=distilled.ipc,
        stored=len(distilled.images),
        classes=classes,
        steps=steps,
        smallest_crop=recipe.smallest_crop,
    )


def check_teacher(protocol: Protocol, teacher: Teacher | None) -> None:
    """UserError if the protocol asks a teacher at every batch and there is none, or none that it can ask."""
    if protocol.recipe.labels == "teacher" and teacher is None:
        raise UserError(
            f"protocol {protocol.name} asks a teacher for the labels of every batch, and none was given; "
            "pass evaluate(..., teacher=...) a network trained on the train split"
        )
    if teacher is not None:
        as_asked(teacher, protocol)


def train_network(
    net: Network,
    training_set: TrainingSet,
    protocol: Protocol,
    context: Context,
    *,
    name: str = "network",
    role: str = "",
    teacher: Teacher | None = None,
    script: Script | None = None,
) -> float:
    """Train `net` in place by the protocol; returns the mean loss of the last pass.

    `role` is put before the names of the generators, so that the training draws apart from others; `script`
    stands in for what is drawn. UserError if the protocol needs a teacher and has none.
    """
    check_teacher(protocol, teacher)
    if training_set.steps is not None:
        return follow_steps(net, training_set, training_set.steps, context, name=name)
    forward, loss_of = context.accelerate(logits_forward(context)), summed(protocol.recipe.loss)
    images = training_set.images
    rows_at_once = rows_per_piece(net, (images.shape[1], images.shape[2], images.shape[3]))
    course = protocol.course(training_set.size(net.classifier.out_features), lr=training_set.lr)
    script = script or _drawn(training_set, protocol, course, context, role)
    distort = _augmenter(training_set, context, role)
    lesson = _lessons(net, training_set, protocol, distort, script.mixes, teacher)
    optimizer = ScheduledOptimizer(net, protocol.recipe.optimiser, course)
    mean_loss = images.new_zeros(())
    net.train()
    state: State = {"net": net, "optimizer": optimizer, "loss": mean_loss}
    for _ in context.steps(course.passes, state, name=name, budgeted=False):
        total, seen = images.new_zeros(()), 0
        left = -(-(course.steps - optimizer.batches) // course.together)
        for batch in itertools.islice(script.batches(), left):
            shown, targets = lesson(batch)
            for part in pieces(len(batch), course.batch if course.together > 1 else None):
                optimizer.before_batch()
                asked = partial(_piece_loss, loss_of, targets.of(part))
                loss = backward(forward, net, shown[part], asked, rows_at_once)
                optimizer.after_batch()
                total += loss * (part.stop - part.start)
            seen += len(batch)
        optimizer.end_pass()
        mean_loss.copy_(total / seen)
        context.log(mean_loss)
    return float(mean_loss)


def follow_steps(
    net: Network, training_set: TrainingSet, steps: LearnedSteps, context: Context, *, name: str
) -> float:
    """Train `net` in place by the steps that were learned with the set, from a start that they expect.

    Returns the loss before the last step.
    """
    steps.initialise(net, context.generator("initialisation", on_cpu=True))
    forward, labels = logits_forward(context), training_set.labels
    weights: list[Tensor] = [*net.parameters()]
    last = training_set.images.new_zeros(())
    batches, sizes = steps.rows.to(labels.device), steps.sizes.tolist()
    net.train()
    for step in context.steps(len(steps), {"net": net, "loss": last}, name=name, budgeted=False):
        rows = batches[step % len(batches)]
        loss = F.cross_entropy(forward(net, training_set.images[rows]), labels[rows])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_add_(weights, gradients, alpha=-sizes[step])
        last.copy_(loss.detach())
        context.log(last)
    return float(last)


def _piece_loss(loss_of: SummedLoss, targets: Targets, logits: Tensor, piece: slice) -> Tensor:
    return loss_of(logits, targets.of(piece))


def _labels(labels: Tensor, classes: Tensor, protocol: Protocol) -> Tensor:
    """What of labels (n,) or (n, classes) and classes (n,) is trained on; UserError if that is not there."""
    use = protocol.recipe.labels
    if use == "stored" and labels.ndim == 1:
        raise UserError(
            f"protocol {protocol.name} trains on soft labels that lie with the set, and this set has hard "
            "ones alone; choose a protocol for hard labels or with a teacher, see `list protocols`"
        )
    if use in ("hard", "teacher"):
        return classes
    if labels.ndim == 1 or isinstance(protocol.recipe.loss, SquaredError) or _are_probabilities(labels):
        return labels
    if use == "own":
        return classes
    sums = labels.sum(dim=1)
    raise UserError(
        f"protocol {protocol.name} trains on probabilities, and the soft labels of this set are none (they "
        f"sum to {sums.min():.3g} ... {sums.max():.3g}); choose frepo, which takes them as they are"
    )


def _are_probabilities(rows: Tensor) -> bool:
    """Whether rows (n, classes) are distributions, up to rounding."""
    return bool((rows >= -ROUNDING).all() and ((rows.sum(dim=1) - 1).abs() <= ROUNDING).all())


def _lessons(
    net: Network,
    training_set: TrainingSet,
    protocol: Protocol,
    distort: Augment,
    mixes: Mixes,
    teacher: Teacher | None,
) -> Callable[[Tensor], tuple[Tensor, Targets]]:
    """What an index batch becomes: augmented, mixed images, and the labels of the set or of the teacher."""
    recipe, classes = protocol.recipe, net.classifier.out_features
    hard_labels = training_set.hard_labels
    asked = None if teacher is None or recipe.labels != "teacher" else as_asked(teacher, protocol)
    before = isinstance(recipe.mixing, Mixup) and recipe.mixing.asked_before
    labels_too = recipe.mixing is not None and recipe.mixing.mixes_labels and asked is None

    def lesson(batch: Tensor) -> tuple[Tensor, Targets]:
        images, rows = distort(training_set.images[batch]), training_set.labels[batch]
        unmixed = images
        mix = mixes(len(images), (images.shape[2], images.shape[3]))
        if mix is not None:
            rows = as_rows(rows, classes, images) if labels_too else rows
            images, rows = mixed(images, rows, mix, labels_too=labels_too)
        if asked is not None:
            rows = _answer(asked, unmixed if before else images, classes)
        return images, Targets(rows, hard_labels[batch])

    return lesson


def as_asked(teacher: Teacher, protocol: Protocol) -> Teacher:
    """The teacher as the protocol asks it; UserError for a function whose mode cannot be changed."""
    statistics = protocol.recipe.statistics
    if statistics == "remembered" or isinstance(teacher, Committee):
        return teacher
    net = teacher.net if isinstance(teacher, TrainedTeacher) else teacher
    if not isinstance(net, nn.Module):
        raise UserError(
            f"protocol {protocol.name} has a teacher answer by the statistics of each batch; pass "
            "evaluate(..., teacher=...) a network, not a function"
        )
    return Committee((net,), torch.ones(1)) if statistics == "half" else partial(by_batch, net)


@torch.no_grad()
def _answer(teacher: Teacher, images: Tensor, classes: int) -> Tensor:
    """A teacher's logits (n, classes); UserError if they have another shape."""
    rows = teacher(images).detach()
    if rows.shape != (len(images), classes):
        raise UserError(
            f"the teacher gave labels of shape {tuple(rows.shape)} for {len(images)} images of {classes} "
            "classes; a teacher of the same dataset is needed"
        )
    return rows.float()


def _drawn(
    training_set: TrainingSet, protocol: Protocol, course: Course, context: Context, role: str
) -> Script:
    """Index batches and mixing as the protocol has them, from the context's generators."""
    recipe, count, mixing = protocol.recipe, len(training_set.images), protocol.recipe.mixing
    if recipe.order == "stored":
        batches = partial(_in_order, count, course, context.device)
    else:
        batches = partial(_shuffled, count, course, context.generator(f"{role}shuffle"))
    if mixing is None:
        return Script(batches, lambda count, size: None)
    generator = context.generator(f"{role}{type(mixing).__name__.lower()}", on_cpu=True)
    return Script(batches, lambda count, size: draw(mixing, count, size, generator))


def _shuffled(count: int, course: Course, generator: torch.Generator) -> list[Tensor]:
    return _split(torch.randperm(count, generator=generator, device=generator.device), course)


def _in_order(count: int, course: Course, device: torch.device) -> list[Tensor]:
    return _split(torch.arange(count, device=device), course)


def _split(order: Tensor, course: Course) -> list[Tensor]:
    """The batches of a pass; where the course has one fewer, what is left over joins the last.

    So does an image that would be labelled alone, by statistics of its own.
    """
    batches = list(order.split(course.batch * course.together))
    alone = course.together > 1 and len(batches[-1]) == 1
    if len(batches) > (1 if alone else course.batches):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _augmenter(training_set: TrainingSet, context: Context, role: str) -> Augment:
    """Random resized crops, if there are to be any, and augmentation as in the authors' evaluations."""
    distort = _distortion(training_set, context, role)
    if training_set.smallest_crop is None:
        return distort
    smallest, generator = training_set.smallest_crop, context.generator(f"{role}crop", on_cpu=True)

    def crop(images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        windows = draw_windows(len(images), size, generator, smallest=smallest)
        return distort(resized_crops(images, windows, size))

    return crop


def _operations(strategy: str) -> tuple[str, ...]:
    """Of a strategy of either kind; UnknownNameError for one that does not exist."""
    return dc_augment.operations(strategy) or operations(strategy)


def _distortion(training_set: TrainingSet, context: Context, role: str) -> Augment:
    """The operations of a strategy.

    DSA and IDC draw one operation for the batch and its parameters for each image, DC both for each image.
    """
    strategy = training_set.strategy
    if not _operations(strategy):
        return lambda images: images
    _, channels, height, width = training_set.images.shape
    generator = context.generator(f"{role}augment", on_cpu=True)

    def distort(images: Tensor) -> Tensor:
        return augment_batch(images, strategy, generator)

    def distort_as_dc(images: Tensor) -> Tensor:
        shape = (len(images), channels, height, width)
        return dc_augment.augment(images, strategy, dc_augment.sample_draws(strategy, shape, generator))

    return distort_as_dc if dc_augment.operations(strategy) else distort
