"""Evaluation: fresh networks trained on a distilled set, and tested once, after all training is done."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.core.data import Dataset, Split, sealed
from harness.core.errors import UserError
from harness.core.passes import pieces
from harness.core.regime import Regime
from harness.core.text import roughly
from harness.engine.protocol import Protocol
from harness.engine.scoring import answers
from harness.engine.training import Teacher, TrainingSet, check_teacher, train_network, training_set_of
from harness.engine.tuning import Candidate, candidates, chosen

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.distilled import Distilled

MOST_KERNEL_SECONDS = 1800.0  # by estimate, that the score of a kernel may take
KERNEL_ROWS = 2000  # test images at once

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What the networks trained on a set score; a list has one value, or one list, per network.

    accuracies, class_accuracies: in [0, 1]. negative_log_likelihoods: in nats. calibration_errors: expected
    ones, in [0, 1], see `Answers.calibration_error`. train_losses: means of the last pass. predicted,
    probabilities: (networks, tests), the class that each says and its probability. test_labels: (tests,).
    test_counts: test images of each class, in the order of the labels.
    regime: hard labels (of soft ones, the highest of each row), soft ones that lie with the set, or a
    teacher's. augmentation: the strategy that was used, "" for none. images_per_epoch: in a pass over the
    decoded set. optimizer_steps: of each network. learning_rate: the base of the schedule; tried_rates: how
    each rate of the grid did, if it was chosen from one. kernel_accuracy: of the regression that the set was
    distilled for; None if it was for none, or if that would take more than half an hour.
    """

    accuracies: list[float]
    class_accuracies: list[list[float]]
    train_losses: list[float]
    test_fingerprint: str
    test_looks: int
    decoded_images: int
    test_counts: list[int]
    regime: Regime
    augmentation: str
    images_per_epoch: int
    optimizer_steps: int
    learning_rate: float
    negative_log_likelihoods: list[float]
    calibration_errors: list[float]
    predicted: Tensor
    probabilities: Tensor
    test_labels: Tensor
    tried_rates: list[Candidate] = field(default_factory=list)
    kernel_accuracy: float | None = None


def evaluate(
    distilled: Distilled,
    dataset: Dataset,
    protocol: Protocol,
    *,
    evals: int,
    context: Context,
    teacher: Teacher | None = None,
) -> Evaluation:
    """Train `evals` fresh networks on the distilled set and test each after its last epoch.

    The test split stays sealed until all of them are trained, and is opened once. UserError if set, dataset,
    protocol and `teacher` do not go together, before anything is trained.
    """
    check_asked(distilled, protocol)
    data = distilled.view_of(dataset.to(context.device))
    check_fits(distilled, data)
    check_teacher(protocol, teacher)
    training_set = training_set_of(distilled, protocol, context.device)
    networks, losses = [], []
    with sealed("evaluation: networks are still being trained"):
        tried = candidates(training_set, data, protocol, context, teacher=teacher)
        if tried:
            training_set = dataclasses.replace(training_set, lr=chosen(tried))
        for k in range(evals):
            net = context.network(data, role=f"network-{k}")
            name = f"network {k + 1}"
            losses.append(train_network(net, training_set, protocol, context, name=name, teacher=teacher))
            networks.append(net)
    looks_before = data.test_looks
    test = data.test()
    found = [answers(net, test, context) for net in networks]
    course = protocol.course(training_set.size(data.num_classes), lr=training_set.lr)
    return Evaluation(
        accuracies=[one.accuracy for one in found],
        class_accuracies=[one.class_accuracies(data.num_classes) for one in found],
        train_losses=losses,
        test_fingerprint=test.fingerprint,
        test_looks=data.test_looks - looks_before,
        decoded_images=len(training_set.images),
        test_counts=torch.bincount(test.labels, minlength=data.num_classes).tolist(),
        regime=_regime(training_set, protocol),
        augmentation=training_set.augmentation,
        images_per_epoch=len(training_set.images),
        optimizer_steps=course.optimizer_steps,
        learning_rate=course.schedule.lr,
        negative_log_likelihoods=[one.negative_log_likelihood for one in found],
        calibration_errors=[one.calibration_error() for one in found],
        predicted=torch.stack([one.predicted for one in found]),
        probabilities=torch.stack([one.probability for one in found]),
        test_labels=test.labels.cpu(),
        tried_rates=tried,
        kernel_accuracy=kernel_accuracy(distilled, test, context.device),
    )


@torch.no_grad()
def kernel_accuracy(distilled: Distilled, test: Split, device: torch.device) -> float | None:
    """Share of the test images whose class is told by the regression that the set is the support of."""
    ridge, images = distilled.ridge, distilled.images.to(device)
    if ridge is None:
        return None
    _, channels, height, width = images.shape
    seconds = ridge.seconds(len(images) * len(test), (channels, height, width), device)
    if seconds > MOST_KERNEL_SECONDS:
        logger.warning("the kernel is not scored on the test images: that would take %s", roughly(seconds))
        return None
    labels, right = distilled.labels.to(device), 0
    for piece in pieces(len(test), KERNEL_ROWS):
        told = ridge.predict(images, labels, test.batch(piece)).argmax(dim=1)
        right += int((told == test.labels[piece]).sum())
    return right / len(test)


def _regime(training_set: TrainingSet, protocol: Protocol) -> Regime:
    """What the labels came from; a protocol that takes the set's own leaves that to the set."""
    if protocol.recipe.labels == "own":
        return "stored" if training_set.labels.ndim == 2 else "hard"
    return protocol.recipe.labels


def check_asked(distilled: Distilled, protocol: Protocol) -> None:
    """UserError if a teacher is to be asked about images that its method whitened in a way of its own."""
    if protocol.recipe.labels == "teacher" and distilled.whitened_by_method:
        raise UserError(
            f"protocol {protocol.name} asks a teacher, which has not seen images whitened as those of this "
            f"set are; ask it under another protocol, or distil it with --set {distilled.method}.zca_reg=0"
        )


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
