"""What a trained network says of test images, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.data import HeldOut, Split
from harness.core.loop import Runtime
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces, rows_per_piece

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Answers:
    """Of one network, for each test image, on the CPU.

    predicted: (n,) int64, its class. probability: (n,) float32, of that class. likelihood: (n,) float64, log
    of the probability of the true class. labels: (n,) int64, the true classes.
    """

    predicted: Tensor
    probability: Tensor
    likelihood: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """(n,) bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is found."""
        return int(self.right.sum()) / len(self.labels)

    @property
    def negative_log_likelihood(self) -> float:
        """Mean of -log of the true class's probability, in nats."""
        return -float(self.likelihood.mean())

    def class_accuracies(self, classes: int) -> list[float]:
        """Accuracy on each class; 0 for a class without test images."""
        counts = torch.bincount(self.labels, minlength=classes).tolist()
        hits = torch.bincount(self.labels[self.right], minlength=classes).tolist()
        return [count / max(1, total) for count, total in zip(hits, counts, strict=True)]

    def calibration_error(self, bins: int = CALIBRATION_BINS) -> float:
        """Expected calibration error (Guo et al., ICML 2017) over bins of equal width in (0, 1].

        The mean over images of |accuracy - mean confidence| of the bin that each is in.
        """
        place = (self.probability.double() * bins).ceil().long().clamp(1, bins) - 1
        gap = torch.zeros(bins, dtype=torch.float64)
        gap.index_add_(0, place, self.right.double() - self.probability.double())
        return float(gap.abs().sum()) / len(self.labels)


@torch.no_grad()
def answers(net: Network, test: Split | HeldOut, context: Runtime) -> Answers:
    """What `net` says of all test images, in evaluation mode."""
    net.eval()
    forward = logits_forward(context)
    rows_at_once = rows_per_piece(net, (test.images.shape[1], test.images.shape[2], test.images.shape[3]))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for piece in pieces(len(test), rows_at_once or 256):
        found.append(_answer(forward(net, test.batch(piece)), test.labels[piece]))
    predicted, probability, likelihood = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return Answers(predicted, probability, likelihood, test.labels.cpu())


def accuracy(net: Network, test: Split | HeldOut, context: Runtime) -> float:
    """Share of the test images that `net` puts into their class, in evaluation mode."""
    return answers(net, test, context).accuracy


def _answer(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted classes, their probabilities and the logs of the true ones', for logits (n, classes)."""
    logs = logits.double().log_softmax(dim=1)
    predicted = logits.argmax(dim=1)
    probability = logs.gather(1, predicted[:, None]).exp().float().flatten()
    return predicted, probability, logs.gather(1, labels[:, None]).flatten()
