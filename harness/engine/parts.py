"""The small parts that a protocol is put together from: losses, optimisers, mixing, lengths, batch sizes.

They are settings alone; what they do is in `losses`, `optimisers` and `mixing`. Nothing here imports torch.
Formulas: z logits of the student, q targets (logits of a teacher or rows that lie with the set), both
(n, classes), T a temperature, p_T = softmax(q / T); every loss is a mean over the n images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

Value = TypeVar("Value")

# How results may be compared: hard labels (HL), labels stored with the set (SL), a teacher asked at every
# batch (KD). Tables never mix them.
# What a protocol trains on: "own" takes the labels as the set has them, whichever kind that is.
LabelUse = Literal["own", "hard", "stored", "teacher"]
# By which statistics a teacher's batch norms normalise: those that they remember from its training, or, in
# train mode, those of the batch, or of the half of it, that they are shown.
Statistics = Literal["remembered", "batch", "half"]


@dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(z)[class], or for rows of probabilities p: -sum p log softmax(z)."""


@dataclass(frozen=True)
class SoftCrossEntropy:
    """-sum p_T log softmax(z / T); `scaled`: times T^2, which gives the gradient back its size."""

    temperature: float = 1.0
    scaled: bool = False


@dataclass(frozen=True)
class KL:
    """sum p_T (log p_T - log softmax(z / T)), with SoftCrossEntropy's gradient; `scaled`: times T^2."""

    temperature: float = 1.0
    scaled: bool = False


@dataclass(frozen=True)
class SquaredError:
    """weight * (z - q)^2 + hard_weight * cross entropy with the class ("MSE-GT").

    The squares are averaged over classes, or added up if `summed`.
    """

    weight: float = 1.0
    hard_weight: float = 0.0
    summed: bool = False


Loss = CrossEntropy | SoftCrossEntropy | KL | SquaredError


@dataclass(frozen=True)
class SGD:
    """With momentum and decay of all parameters."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class AdamW:
    """With decoupled decay of all parameters, or of "matrices", which have two dimensions or more.

    Without decay it is Adam.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    decayed: Literal["all", "matrices"] = "all"


Optimiser = SGD | AdamW


@dataclass(frozen=True)
class Accumulation:
    """Gradients of so many batches, averaged, make one step; the rest of a pass makes one too, or is lost."""

    batches: int = 1
    rest: Literal["stepped", "lost"] = "stepped"


@dataclass(frozen=True)
class CutMix:
    """A window of another image of the batch, in that share of the batches; one window for each batch.

    Its part of the image is 1 - lambda, lambda ~ Beta(beta, beta), its centre uniform; labels are mixed by
    the area that is left after clipping, unless `mixes_labels` is False.
    """

    share: float = 1.0
    beta: float = 1.0
    mixes_labels: bool = True


@dataclass(frozen=True)
class Mixup:
    """lambda times an image and 1 - lambda times another of the batch, in that share of the batches.

    lambda ~ Beta(beta, beta), one for each batch; labels are mixed alike, unless `mixes_labels` is False.
    asked_before: whether a teacher is shown the images as they are before mixing.
    """

    share: float = 1.0
    beta: float = 0.8
    mixes_labels: bool = True
    asked_before: bool = False


Mixing = CutMix | Mixup


@dataclass(frozen=True)
class SetSize:
    """What of a set decides how long networks train on it.

    stored: its images as they are kept. decoded: the images that its tiles make. augmented: whether it is
    trained on with augmentation. learned: batches that it is cut into and steps over them, of a set that
    keeps steps; those that DD publishes where the set is not known.
    """

    classes: int
    ipc: int
    stored: int
    decoded: int
    augmented: bool = True
    learned: tuple[int, int] = (10, 30)

    @classmethod
    def of(cls, classes: int, ipc: int, factor: int = 1, *, augmented: bool = True) -> SetSize:
        """That of `ipc` stored images per class, each of factor^2 tiles."""
        stored = classes * ipc
        return cls(classes, ipc, stored, stored * factor**2, augmented)


@dataclass(frozen=True)
class ByIpc:
    """Pairs (ipc, value), the smallest first: the value of the largest ipc reached, else the first."""

    values: tuple[tuple[int, int], ...]

    def at(self, size: SetSize) -> int:
        """The value for a set."""
        return _reached(self.values, size.ipc)


@dataclass(frozen=True)
class ByClasses:
    """Pairs (classes, value or values by ipc), read like ByIpc."""

    values: tuple[tuple[int, int | ByIpc], ...]

    def at(self, size: SetSize) -> int:
        """The value for a set."""
        return _at(_reached(self.values, size.classes), size)


@dataclass(frozen=True)
class Extent:
    """How long a training is: `steps` batches of at most `batch` images, `batches` in a pass over the set.

    length: E of the schedule; stride: batches for each of its positions.
    """

    batch: int
    batches: int
    steps: int
    length: int
    stride: int


@dataclass(frozen=True)
class Epochs:
    """E passes over the decoded images, and what the rule adds; `plain`: E for sets without augmentation."""

    epochs: int | ByIpc
    plain: int | None = None

    def extent(self, size: SetSize, batch: int, extra: int, *, merged: bool) -> Extent:
        """For a set, batches of so many images and positions that the rule adds."""
        epochs = _at(self.epochs, size)
        if self.plain is not None and not size.augmented:
            epochs = self.plain
        batches = batches_of(size.decoded, batch, merged=merged)
        return Extent(batch, batches, (epochs + extra) * batches, epochs, batches)


@dataclass(frozen=True)
class MatchedSteps:
    """As many steps as E epochs of the STORED images have, however many images they are decoded to.

    The batches of such an epoch are made equally large, and those of the decoded images are no larger: sets
    of one size see equally many images, whatever their tiles. E does not depend on augmentation either.
    """

    epochs: int | ByIpc

    def extent(self, size: SetSize, batch: int, extra: int, *, merged: bool) -> Extent:
        """For a set, batches of so many images and positions that the rule adds."""
        stride = batches_of(size.stored, batch, merged=merged)
        batch = -(-size.stored // stride)
        batches = batches_of(size.decoded, batch, merged=merged)
        epochs = _at(self.epochs, size)
        return Extent(batch, batches, (epochs + extra) * stride, epochs, stride)


@dataclass(frozen=True)
class StepsByImages:
    """Pairs (stored images, optimiser steps), read like ByIpc; the rule counts steps."""

    values: tuple[tuple[int, int], ...]

    def extent(self, size: SetSize, batch: int, extra: int, *, merged: bool) -> Extent:
        """For a set, batches of so many images and positions that the rule adds."""
        steps = _reached(self.values, size.stored)
        batches = batches_of(size.decoded, batch, merged=merged)
        return Extent(batch, batches, steps + extra, steps, 1)


@dataclass(frozen=True)
class LearnedLength:
    """As many steps as were learned with the set, each over one of the batches that it is cut into."""

    def extent(self, size: SetSize, batch: int, extra: int, *, merged: bool) -> Extent:
        """For a set; its own batches and steps, whatever else is asked."""
        batches, steps = size.learned
        return Extent(-(-size.decoded // batches), batches, steps, steps, 1)


Length = Epochs | MatchedSteps | StepsByImages | LearnedLength


def batches_of(images: int, batch: int, *, merged: bool) -> int:
    """How many batches a pass has; `merged`: a single image left over joins the batch before it."""
    whole, rest = divmod(images, batch)
    if rest == 1 and merged and whole > 0:
        return whole
    return whole + (rest > 0)


def _at(value: int | ByIpc, size: SetSize) -> int:
    return value if isinstance(value, int) else value.at(size)


def _reached(values: tuple[tuple[int, Value], ...], key: int) -> Value:
    """The value of the largest key that is not above the given one, else the first."""
    found = values[0][1]
    for least, value in values:
        if least <= key:
            found = value
    return found
