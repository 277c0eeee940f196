"""Evaluation: fresh networks trained on a distilled set, and tested once, after all training is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.data import Dataset, Split, sealed
from harness.errors import UserError
from harness.loop import State
from harness.nets import Network
from harness.protocol import Protocol
from methods.augment import augment, operations, sample_draws
from methods.passes import pieces, rows_per_piece, train_step
from methods.pool import logits_forward

if TYPE_CHECKING:
    from methods.api import Context, Distilled

# Index batches of one epoch.
Batches = Callable[[], Iterable[Tensor]]
Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainingSet:
    """Images (n, C, H, W) and labels (n,) or (n, classes), with the DSA strategy to train under."""

    images: Tensor
    labels: Tensor
    strategy: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One test accuracy in [0, 1] and one last training loss per network."""

    accuracies: list[float]
    train_losses: list[float]
    test_fingerprint: str
    test_looks: int
    decoded_images: int


def evaluate(
    distilled: Distilled, dataset: Dataset, protocol: Protocol, *, evals: int, context: Context
) -> Evaluation:
    """Train `evals` fresh networks on the distilled set and test each after its last epoch.

    The test split stays sealed until all of them are trained, and is opened once.
    """
    data = dataset.to(context.device)
    check_fits(distilled, data)
    images, labels = (tensor.to(context.device) for tensor in distilled.decoded())
    training_set = TrainingSet(images, labels, distilled.augmentation)
    networks, losses = [], []
    with sealed("evaluation: networks are still being trained"):
        for k in range(evals):
            net = context.network(data, role=f"network-{k}")
            losses.append(train_network(net, training_set, protocol, context, name=f"network {k + 1}"))
            networks.append(net)
    looks_before = data.test_looks
    test = data.test()
    accuracies = [accuracy(net, test, context) for net in networks]
    return Evaluation(accuracies, losses, test.fingerprint, data.test_looks - looks_before, len(images))


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
    distort = _augmenter(training_set, context)
    optimizer = _Schedule(net, protocol)
    mean_loss = images.new_zeros(())
    net.train()
    state: State = {"net": net, "optimizer": optimizer, "loss": mean_loss}
    for epoch in context.steps(protocol.epochs_run, state, name=name, budgeted=False):
        total = images.new_zeros(())
        for batch in draw_batches():
            distorted = distort(images[batch])
            loss, _ = train_step(forward, net, optimizer.current, distorted, labels[batch], rows_at_once)
            total += loss * len(batch)
        mean_loss.copy_(total / len(images))
        context.log(mean_loss)
        optimizer.after_epoch(epoch)
    return float(mean_loss)


@torch.no_grad()
def accuracy(net: Network, test: Split, context: Context) -> float:
    """Share of the test images that `net` puts into their class, in evaluation mode."""
    net.eval()
    forward = logits_forward(context)
    rows_at_once = rows_per_piece(net, (test.images.shape[1], test.images.shape[2], test.images.shape[3]))
    hits = sum(
        (forward(net, test.batch(piece)).argmax(dim=1) == test.labels[piece]).sum()
        for piece in pieces(len(test), rows_at_once or 256)
    )
    return int(hits) / len(test)


class _Schedule:
    """The protocol's optimiser: SGD whose rate falls once, rebuilt then, so that the momentum restarts."""

    def __init__(self, net: Network, protocol: Protocol) -> None:
        self._net = net
        self._protocol = protocol
        self._epochs_done = 0
        self.current = self._build(0)

    def after_epoch(self, epoch: int) -> None:
        """Rebuild the optimiser once the protocol's epoch is over."""
        self._epochs_done = epoch + 1
        if epoch == self._protocol.decay_after:
            self.current = self._build(epoch + 1)

    def state_dict(self) -> dict[str, object]:
        """Momentum and the number of epochs done."""
        return {"epochs_done": self._epochs_done, "sgd": self.current.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Rebuild the optimiser of that epoch and restore its momentum."""
        self._epochs_done = state["epochs_done"]  # type: ignore[assignment]
        self.current = self._build(self._epochs_done)
        self.current.load_state_dict(state["sgd"])  # type: ignore[arg-type]

    def _build(self, epoch: int) -> torch.optim.SGD:
        return torch.optim.SGD(
            self._net.parameters(),
            lr=self._protocol.lr_in(epoch),
            momentum=self._protocol.momentum,
            weight_decay=self._protocol.weight_decay,
        )


def _shuffled(count: int, batch: int, context: Context) -> Batches:
    generator = context.generator("shuffle")

    def batches() -> Iterable[Tensor]:
        yield from torch.randperm(count, generator=generator, device=context.device).split(batch)

    return batches


def _augmenter(training_set: TrainingSet, context: Context) -> Augment:
    """DSA as in the authors' evaluation: one operation for the batch, parameters for each image."""
    strategy = training_set.strategy
    if not operations(strategy):
        return lambda images: images
    size = (training_set.images.shape[2], training_set.images.shape[3])
    generator = context.generator("augment", on_cpu=True)

    def distort(images: Tensor) -> Tensor:
        draws = sample_draws(strategy, len(images), size, generator, one_operation=True)
        return augment(images, strategy, draws)

    return distort
