"""Evaluation: fresh networks trained on a distilled set, and tested once, after all training is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core import dc_augment
from harness.core.augment import DIGIT_DATASETS, STAGE, augment_batch, cutmix, cutmix_window, operations
from harness.core.checkpoint import State
from harness.core.data import Dataset, HeldOut, Split, sealed
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces, rows_per_piece, train_step
from harness.engine.protocol import Protocol, Schedule

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.distilled import Distilled

# Index batches of one epoch.
Batches = Callable[[], Iterable[Tensor]]
Augment = Callable[[Tensor], Tensor]
# Changes images and labels of a batch together.
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingSet:
    """Images (n, C, H, W) and labels (n,) or (n, classes), and what to train under.

    strategy: augmentation, of `harness.core.augment` or, with the prefix "dc:", of `harness.core.dc_augment`.
    lr: learning rate that was distilled along; None: the protocol's.
    """

    images: Tensor
    labels: Tensor
    strategy: str = ""
    lr: float | None = None

    @property
    def augmented(self) -> bool:
        """Whether the strategy holds any operation; UnknownNameError for one that does not exist."""
        return bool(dc_augment.operations(self.strategy) or operations(self.strategy))


@dataclass(frozen=True)
class Evaluation:
    """One test accuracy in [0, 1], overall and for each class, and one last training loss per network.

    test_counts: test images of each class, in the order of the labels.
    """

    accuracies: list[float]
    class_accuracies: list[list[float]]
    train_losses: list[float]
    test_fingerprint: str
    test_looks: int
    decoded_images: int
    test_counts: list[int]


def evaluate(
    distilled: Distilled, dataset: Dataset, protocol: Protocol, *, evals: int, context: Context
) -> Evaluation:
    """Train `evals` fresh networks on the distilled set and test each after its last epoch.

    The test split stays sealed until all of them are trained, and is opened once.
    """
    data = dataset.to(context.device)
    check_fits(distilled, data)
    training_set = training_set_of(distilled, protocol, context.device)
    networks, losses = [], []
    with sealed("evaluation: networks are still being trained"):
        for k in range(evals):
            net = context.network(data, role=f"network-{k}")
            losses.append(train_network(net, training_set, protocol, context, name=f"network {k + 1}"))
            networks.append(net)
    looks_before = data.test_looks
    test = data.test()
    hits = [class_hits(net, test, context) for net in networks]
    return Evaluation(
        accuracies=[sum(of_classes) / len(test) for of_classes in hits],
        class_accuracies=[_shares(of_classes, test, data.num_classes) for of_classes in hits],
        train_losses=losses,
        test_fingerprint=test.fingerprint,
        test_looks=data.test_looks - looks_before,
        decoded_images=len(training_set.images),
        test_counts=torch.bincount(test.labels, minlength=data.num_classes).tolist(),
    )


def training_set_of(distilled: Distilled, protocol: Protocol, device: torch.device) -> TrainingSet:
    """The decoded images on `device`, with the augmentation and the rate that set and protocol call for."""
    images, labels = (tensor.to(device) for tensor in distilled.decoded())
    strategy = distilled.augmentation
    if protocol.augmentation is not None:
        strategy = protocol.augmentation
        if distilled.dataset in DIGIT_DATASETS:
            strategy = STAGE.join(stage for stage in strategy.split(STAGE) if stage != "flip")
    return TrainingSet(images, labels, strategy, distilled.learned_lr)


def check_fits(distilled: Distilled, data: Dataset) -> None:
    """Refuse a set that was made for other images, classes or another normalisation; names its mistake."""
    shape = tuple(distilled.images.shape[1:])
    if shape != data.shape or distilled.class_names != data.class_names:
        raise UserError(
            f"the distilled set is for {len(distilled.class_names)} classes of {shape} images of "
            f"{distilled.dataset}; {data.name} has {data.num_classes} of {data.shape} or other class names"
        )
    ours, theirs = data.transform.state(), distilled.transform.state()
    if ours.keys() != theirs.keys() or any(
        not torch.allclose(theirs[key].to(data.device), ours[key]) for key in ours
    ):
        raise UserError(f"the distilled set was normalised otherwise than {data.name}; distil it again")


def train_network(
    net: Network,
    training_set: TrainingSet,
    protocol: Protocol,
    context: Context,
    *,
    name: str = "network",
    batches: Batches | None = None,
) -> float:
    """Train `net` in place by the protocol; returns the mean loss of the last epoch.

    `batches` yields the index batches of an epoch; by default shuffled ones of the protocol's size.
    """
    forward = context.accelerate(logits_forward(context))
    images, labels = training_set.images, training_set.labels
    rows_at_once = rows_per_piece(net, (images.shape[1], images.shape[2], images.shape[3]))
    draw_batches = batches or _shuffled(len(images), protocol.batch, context)
    distort, mix = _augmenter(training_set, context), _mixer(net, protocol, context)
    schedule = protocol.schedule(augmented=training_set.augmented, lr=training_set.lr)
    optimizer = _Optimizer(net, protocol, schedule)
    mean_loss = images.new_zeros(())
    net.train()
    state: State = {"net": net, "optimizer": optimizer, "loss": mean_loss}
    for epoch in context.steps(schedule.epochs, state, name=name, budgeted=False):
        total = images.new_zeros(())
        for batch in draw_batches():
            mixed, targets = mix(distort(images[batch]), labels[batch])
            loss, _ = train_step(forward, net, optimizer.current, mixed, targets, rows_at_once)
            total += loss * len(batch)
        mean_loss.copy_(total / len(images))
        context.log(mean_loss)
        optimizer.after_epoch(epoch)
    return float(mean_loss)


def accuracy(net: Network, test: Split | HeldOut, context: Context) -> float:
    """Share of the test images that `net` puts into their class, in evaluation mode."""
    return sum(class_hits(net, test, context)) / len(test)


@torch.no_grad()
def class_hits(net: Network, test: Split | HeldOut, context: Context) -> list[int]:
    """How many test images of each class `net` puts into it, in evaluation mode."""
    net.eval()
    forward = logits_forward(context)
    rows_at_once = rows_per_piece(net, (test.images.shape[1], test.images.shape[2], test.images.shape[3]))
    classes = net.classifier.out_features
    hits = torch.zeros(classes, dtype=torch.int64, device=test.labels.device)
    for piece in pieces(len(test), rows_at_once or 256):
        labels = test.labels[piece]
        right = forward(net, test.batch(piece)).argmax(dim=1) == labels
        hits += torch.bincount(labels[right], minlength=classes)
    return [int(count) for count in hits]


def _shares(hits: list[int], test: Split, classes: int) -> list[float]:
    """Accuracy on each class; 0 for a class without test images."""
    counts = torch.bincount(test.labels, minlength=classes).tolist()
    return [count / max(1, total) for count, total in zip(hits, counts, strict=True)]


class _Optimizer:
    """SGD whose rate follows a schedule; where that says so, rebuilt at each drop."""

    def __init__(self, net: Network, protocol: Protocol, schedule: Schedule) -> None:
        self._net = net
        self._protocol = protocol
        self._schedule = schedule
        self._epochs_done = 0
        self.current = self._build()

    def after_epoch(self, epoch: int) -> None:
        """Lower the rate if the schedule drops after this epoch."""
        self._epochs_done = epoch + 1
        if self._epochs_done not in self._schedule.drops:
            return
        if self._schedule.restarts:
            self.current = self._build()
        else:
            self.current.param_groups[0]["lr"] = self._schedule.lr_in(self._epochs_done)

    def state_dict(self) -> dict[str, object]:
        """Momentum and the number of epochs done."""
        return {"epochs_done": self._epochs_done, "sgd": self.current.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Rebuild the optimiser of that epoch and restore its momentum."""
        self._epochs_done = state["epochs_done"]  # type: ignore[assignment]
        self.current = self._build()
        self.current.load_state_dict(state["sgd"])  # type: ignore[arg-type]

    def _build(self) -> torch.optim.SGD:
        return torch.optim.SGD(
            self._net.parameters(),
            lr=self._schedule.lr_in(self._epochs_done),
            momentum=self._protocol.momentum,
            weight_decay=self._protocol.weight_decay,
        )


def _shuffled(count: int, batch: int, context: Context) -> Batches:
    generator = context.generator("shuffle")

    def batches() -> Iterable[Tensor]:
        yield from torch.randperm(count, generator=generator, device=context.device).split(batch)

    return batches


def _augmenter(training_set: TrainingSet, context: Context) -> Augment:
    """Augmentation as in the authors' evaluations.

    DSA and IDC draw one operation for the batch and its parameters for each image, DC both for each image.
    """
    strategy = training_set.strategy
    if not training_set.augmented:
        return lambda images: images
    _, channels, height, width = training_set.images.shape
    generator = context.generator("augment", on_cpu=True)

    def distort(images: Tensor) -> Tensor:
        return augment_batch(images, strategy, generator)

    def distort_as_dc(images: Tensor) -> Tensor:
        shape = (len(images), channels, height, width)
        return dc_augment.augment(images, strategy, dc_augment.sample_draws(strategy, shape, generator))

    return distort_as_dc if dc_augment.operations(strategy) else distort


def _mixer(net: Network, protocol: Protocol, context: Context) -> Mix:
    """CutMix in the protocol's share of the batches: one window and one pairing for each, as in IDC."""
    if protocol.cutmix == 0:
        return lambda images, labels: (images, labels)
    classes = net.classifier.out_features
    generator = context.generator("cutmix", on_cpu=True)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if float(torch.rand((), generator=generator)) >= protocol.cutmix:
            return images, labels
        window = _draw_window((images.shape[2], images.shape[3]), generator)
        partner = torch.randperm(len(images), generator=generator).to(images.device)
        rows = F.one_hot(labels, classes).to(images.dtype) if labels.ndim == 1 else labels
        return cutmix(images, rows, partner, window)

    return mix


def _draw_window(size: tuple[int, int], generator: torch.Generator) -> tuple[slice, slice]:
    """A window of uniform area and centre."""
    area = float(torch.rand((), generator=generator))
    places = torch.rand(2, generator=generator).tolist()
    centre = [int(place * length) for place, length in zip(places, size, strict=True)]
    return cutmix_window(size, area, centre)
