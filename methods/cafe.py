"""CAFE: alignment of the features of all layers, discrimination, and networks that learn along.

Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022. Let M_l be the squared gap,
summed over classes and elements, of the class means of layer l's maps between real images B and synthetic
images S, z the pooled last map and m_c its mean over S_c. With weights w_l,

    minimise  sum_l w_l M_l  +  w_z M_z  +  0.01 sum_{x in B} CE( (z(x) . m_c)_c , label of x )

over S: real features are told apart by the centres of the synthetic classes. w_l is 1 for the last activation
and 0.1 for all before it, however deep the network. Each of 2000 fresh networks is trained on S between
image steps: it leaves for the next once its accuracy on real query images has settled, and each training goes
on until that accuracy has moved. Reported on CIFAR-10 (ConvNet): 30.3, 46.3, 55.5 % at ipc 1, 10, 50; with
DSA, here `cafe@dsa`: 31.6, 50.9, 62.3 %. How long a network stays depends on what it sees: the FLOPs of a
run, which are counted on its first network, are an estimate for this method.

Departures from the authors' code (kaiwang960112/CAFE `distill.py`): any number of classes, channels, pixels
and layers, where theirs fixes 10 classes of 3x32x32 and three blocks; all classes' images pass the network in
pieces, and the discrimination, in which they meet, is expanded to first order about the centres, which
changes nothing but rounding; seeds are named instead of taken from the clock; a network whose accuracy never
settles, or never moves, is left after `max_image_steps` and its training after `max_epochs`, where theirs
would loop on. As in theirs, the default counts the last map twice (once more flattened), reports a cross
entropy of the real batch that has no gradient, and adds to each accuracy the value before it, divided by the
number of classes; the variant `cafe@paper` counts the map once and reads accuracies as they are.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.nets import Network
from harness.core.passes import pieces
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.layers import ClassMeans, Layers, gap_of_means
from methods.shared.matching import ClassLoss, ClassMatcher, Seen, View
from methods.shared.starts import starting_images
from methods.shared.students import Student


@dataclass(frozen=True)
class Config:
    """Settings of CAFE; the defaults are those of the authors' script."""

    iterations: int = setting(2000, "fresh networks", length=True)
    lr_img: float = setting(0.1, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images")
    lr_halved_at: tuple[float, ...] = setting(
        (0.6, 0.8, 0.9), "parts of the iterations at which lr_img is halved"
    )
    init: Literal["noise", "real"] = setting("noise", "what the synthetic images start from")
    batch_real: int = setting(256, "real images per class and image step")
    shallow_weight: float = setting(0.1, "weight of the maps of all activations but the last")
    deep_weight: float = setting(1.0, "weight of the last activation's maps")
    embedding_weight: float = setting(
        2.0, "weight of the pooled last map; the code counts it as a map and flattened"
    )
    discrimination: float = setting(0.01, "weight of telling real features apart by the synthetic centres")
    lr_net: float = setting(0.01, "learning rate of the networks, SGD without momentum")
    batch_train: int = setting(256, "synthetic images per SGD step of a network")
    batch_query: int = setting(128, "real images per class that a network's accuracy is measured on")
    window: int = setting(10, "latest accuracies of a network that are looked at")
    settled_below: float = setting(
        0.04, "lambda_1: range of the latest accuracies below which a network is left"
    )
    moved_above: float = setting(
        0.03, "lambda_2: range of the latest accuracies above which a training on S ends"
    )
    carry_over: bool = setting(
        True, "whether the previous accuracy, divided by the number of classes, is added to each"
    )
    max_image_steps: int = setting(100, "most image steps with one network")
    max_epochs: int = setting(100, "most epochs of one training on S")
    strategy: str | None = setting(
        "", 'DSA operations, also in evaluation; "": none, None: the dataset\'s usual ones'
    )


VARIANTS = {
    "dsa": {"strategy": None},
    "paper": {"embedding_weight": 1.0, "carry_over": False},
}

PAPER: dict[tuple[str, int], dict[str, Any]] = {("cifar10", 1): {}, ("*", 1): {}}

# Most of CAFE's time goes into the networks, which are watched more loosely here. The gradient is a sum over
# channels, of which a small network has fewer: the rate is higher. From noise the images would not get far.
SCALED = {
    "cpu": {
        "iterations": 12,
        "lr_img": 0.4,
        "init": "real",
        "batch_real": 32,
        "batch_query": 8,
        "window": 3,
        "max_image_steps": 10,
        "max_epochs": 10,
    },
    "smoke": {
        "iterations": 4,
        "batch_real": 16,
        "batch_query": 8,
        "window": 3,
        "max_image_steps": 10,
        "max_epochs": 3,
    },
}


@dataclass(frozen=True)
class RealSide:
    """What the loss knows of a batch of real images.

    means: class means (C, D) of each layer's maps and of the pooled last one.
    constant: (C,) each class's part of the mean cross entropy of the real images; it sums to that.
    centres: (C, D) mean synthetic embedding of each class, about which the discrimination is expanded.
    discrimination: (C,) sum of the cross entropies of each class's real images by nearness to the centres.
    slope: (C, D) gradient of the whole discrimination with respect to the centres.
    """

    means: tuple[Tensor, ...]
    constant: Tensor
    centres: Tensor
    discrimination: Tensor
    slope: Tensor


def steps_of(config: Config) -> Steps:
    """Networks, each taken for a single update; their training is not in it."""
    return Steps(config.iterations, real=config.batch_real, augmentation=config.strategy)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by aligning features of all layers."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("cafe", data.name, ipc).config
    strategy = usual_strategy(data.name) if config.strategy is None else config.strategy

    images = starting_images(data, ipc, config.init, context).requires_grad_()
    optimizer = SGD([images], lr=config.lr_img, momentum=config.momentum)
    net = context.network(data)
    student = CafeStudent(net, data, config, strategy, context)
    aligner = Aligner(net, data, config, strategy, context)

    for iteration in context.steps(config.iterations, {"images": images, "optimizer": optimizer}):
        optimizer.param_groups[0]["lr"] = image_rate(config, iteration, context.planned_steps())
        student.begin()
        latest = Window(config.window)
        for image_step in range(config.max_image_steps):
            if image_step > 0:
                student.learn(images.detach())
            losses = aligner.descend(images)
            optimizer.step()
            if latest.range_with(student.query()) < config.settled_below:
                break
        context.log(losses.sum())

    return Distilled.of(data, images, method="cafe", config=config, augmentation=strategy)


def image_rate(config: Config, iteration: int, iterations: int) -> float:
    """Learning rate of the images in one of so many iterations."""
    halvings = sum(iteration >= round(part * iterations) for part in config.lr_halved_at)
    return float(config.lr_img * 0.5**halvings)


class Window:
    """The latest values of an accuracy."""

    def __init__(self, length: int) -> None:
        self._values: deque[float] = deque(maxlen=length)

    def range_with(self, value: float) -> float:
        """Largest minus smallest value with the new one; NaN, in no bounds, until the window is full."""
        self._values.append(value)
        full = len(self._values) == self._values.maxlen
        return max(self._values) - min(self._values) if full else math.nan


class CafeStudent(Student):
    """A network that is trained on the synthetic set and asked about real images."""

    def __init__(self, net: Network, data: Dataset, config: Config, strategy: str, context: Context) -> None:
        super().__init__(net, data, context, strategy=strategy, lr=config.lr_net, batch=config.batch_train)
        self.config = config
        self.begin()

    def begin(self) -> None:
        """Start again from random weights."""
        super().begin()
        self._accuracy = 0.0

    def learn(self, images: Tensor) -> None:
        """Train on the synthetic images (C * ipc, ...), epoch after epoch, until the query accuracy moves."""
        latest = Window(self.config.window)
        for _ in range(self.config.max_epochs):
            self.train_epoch(images)
            if latest.range_with(self.query()) > self.config.moved_above:
                return

    @torch.no_grad()
    def query(self) -> float:
        """Accuracy in [0, 1], the mean over classes, on fresh real images; see `Config.carry_over`."""
        batch = self.data.index.draw(self.config.batch_query, self.context.generator("query"))
        classes = len(batch.sizes)
        shares = torch.tensor([1.0 / (size * classes) for size in batch.sizes for _ in range(size)])
        shares = shares.to(self.data.device)
        labels = self.data.labels[batch.indices]
        accuracy = torch.zeros((), device=self.data.device)
        self.net.eval()
        for piece in pieces(len(labels), self.rows_at_once):
            predicted = self.forward(self.net, self.data.batch(batch.indices[piece])).argmax(dim=1)
            accuracy += ((predicted == labels[piece]) * shares[piece]).sum()
        self.net.train()
        carried = self._accuracy / classes if self.config.carry_over else 0.0
        self._accuracy = float(accuracy) + carried
        return self._accuracy


class Aligner:
    """CAFE's loss of the synthetic images under a network, on fresh real images."""

    def __init__(self, net: Network, data: Dataset, config: Config, strategy: str, context: Context) -> None:
        self.net = net
        self.data = data
        self.config = config
        self.strategy = strategy
        self.context = context
        layers = Layers(net)
        self._matcher = ClassMatcher(
            context, data, net, view=maps_of(layers), real_view=maps_and_logits(layers)
        )

    def descend(self, images: Tensor) -> Tensor:
        """Put the gradient of the loss into `images.grad`; returns the losses (C,), which sum to it."""
        siamese = Siamese.draw(self.strategy, self.data, self.context)
        real = self.real_side(self.centres(images, siamese), siamese)
        return self._matcher.descend(self.net, images, siamese, class_loss(real, self.config))

    @torch.no_grad()
    def centres(self, images: Tensor, siamese: Siamese) -> Tensor:
        """Mean embedding (C, D) of each class's synthetic images."""
        ipc = len(images) // self.data.num_classes
        parts = []
        for group in self._matcher.groups(ipc):
            rows = slice(group.start * ipc, group.stop * ipc)
            *_, final = self._matcher.synthetic(self.net, images.detach()[rows], siamese, group).extra
            parts.append(final.mean(dim=1).flatten(1))
        return torch.cat(parts)

    @torch.no_grad()
    def real_side(self, centres: Tensor, siamese: Siamese) -> RealSide:
        """One pass over a fresh batch of real images, piece by piece."""
        batch = self.data.index.draw(self.config.batch_real, self.context.generator("real"))
        classes = len(batch.sizes)
        means = ClassMeans(batch.sizes)
        constant, discrimination = centres.new_zeros(classes), centres.new_zeros(classes)
        slope = torch.zeros_like(centres)
        for of_class, seen in self._matcher.real_pieces(self.net, batch, siamese):
            assert seen.logits is not None
            means.add(of_class, seen.extra)
            labels = of_class.to(centres.device, non_blocking=True)
            embedding = seen.embeddings
            members = F.one_hot(labels, classes).to(centres.dtype)
            scores = embedding @ centres.T
            constant += members.T @ F.cross_entropy(seen.logits, labels, reduction="none")
            discrimination += members.T @ F.cross_entropy(scores, labels, reduction="none")
            slope += (scores.softmax(dim=1) - members).T @ embedding
        return RealSide(means.result(), constant / sum(batch.sizes), centres, discrimination, slope)


def maps_of(layers: Layers) -> View:
    """The layers' maps as extra, of which the last is the embedding."""

    def view(net: Network, images: Tensor) -> Seen:
        maps = layers(net, images)
        return Seen(maps[-1].flatten(1), extra=maps)

    return view


def maps_and_logits(layers: Layers) -> View:
    """The same with the logits."""
    maps = maps_of(layers)

    def view(net: Network, images: Tensor) -> Seen:
        seen = maps(net, images)
        return seen._replace(logits=net.classifier(seen.embeddings))

    return view


def class_loss(real: RealSide, config: Config) -> ClassLoss:
    """Loss of some classes, (k,), from the maps of their synthetic images.

    The discrimination is taken to first order in the centres: value and gradient at the centres are those of
    the whole, although each class sees only its own.
    """
    before_last = len(real.means) - 2
    weights = [config.shallow_weight] * before_last + [config.deep_weight, config.embedding_weight]

    def loss(seen: Seen) -> Tensor:
        maps, classes = seen.extra, seen.classes
        alignment = gap_of_means([mean[classes] for mean in real.means], maps, weights)
        moved = maps[-1].mean(dim=1).flatten(1) - real.centres[classes]
        discrimination = real.discrimination[classes] + (real.slope[classes] * moved).sum(dim=1)
        total: Tensor = alignment + real.constant[classes] + config.discrimination * discrimination
        return total

    return loss
