"""IDC: gradient matching of multi-formation images with networks that learn from real images.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022 (arXiv
2205.14959). Synthetic images S are pixels in [0, 1]; each is a grid of tiles that the multi-formation T blows
up to whole images. Let g(X) be the gradient of the mean cross entropy of images X with respect to the weights
of all convolutions. In a fresh network that is trained on real images between image steps, with one
augmentation A for each class,

    minimise  sum_c || g(A(B_c)) - g(A(T(S_c))) ||^2

over S by SGD with momentum (the gaps' absolute sum on MNIST and FashionMNIST). `idc@i` is IDC-I, without
tiles; `idc@feat` matches the class means of all blocks' outputs in place of gradients. Reported on CIFAR-10
(ConvNet): 50.6, 67.5, 74.5 % at ipc 1, 10, 50, of IDC-I 36.7, 58.3, 69.5 %, at the best epoch.

Departures from the authors' code (snu-mllab/Efficient-Dataset-Condensation `condense.py`): seeds are named;
all classes are matched together and the authors' optimiser step per class over the whole image tensor is
taken as one exact joint step (`ClasswiseSGD`); the training images of an inner iteration are drawn anew, not
taken in turn from a shuffled epoch, and the training that follows a network's last matching is left out, as
nothing comes after it; tiles are cut column by column, which gives the same images; where the factor does not
divide the sides, images are extended by the dataset's mean colour, not by grey, since sets are decoded as
normalised; of the decoders only `single` is offered, not `multi` and `bound`. Sets are evaluated as those of
all methods are: theirs has cutmix, another schedule and the best epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from harness.core.augment import augment, cutmix_batch, operations, sample_draws, usual_strategy
from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import ClassBatch, Dataset, draw_uniform
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.formation import compose
from harness.core.nets import Network
from harness.core.passes import logits_forward, rows_per_piece, train_step
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared import kernels
from methods.shared.classwise_sgd import ClasswiseSGD
from methods.shared.gradients import GradientMatcher, matched_parameters
from methods.shared.idc_line import training_tiles
from methods.shared.layers import LayerOutputs, class_means
from methods.shared.matching import ClassMatcher, Seen


@dataclass(frozen=True)
class Config:
    """Settings of IDC; the defaults are those that the authors set for CIFAR-10."""

    outer: int = setting(2000, "fresh networks", length=True)
    inner: int = setting(100, "image updates with each network", length=True)
    lr_img: float = setting(5e-3, "learning rate of the images at ipc 10 and `lr_side` pixels")
    lr_side: int = setting(
        32, "side of the images that lr_img is for; the rate grows with ipc and with the area"
    )
    lr_boost: float = setting(
        1.0, "factor on the rate, for networks and numbers of updates smaller than published"
    )
    momentum: float = setting(0.5, "momentum of the images, per class step")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(64, "real images per class and update")
    batch_tiles: int = setting(128, "most tiles per class and update; drawn at random where there are more")
    match: Literal["grad", "feat"] = setting("grad", "what is matched: gradients, or class means of features")
    metric: Literal["mse", "l1", "l1_mean", "ours"] = setting(
        "mse", "distance; features: mse or l1; `ours`: cosines"
    )
    first_block: int = setting(0, "features: blocks of the network that are matched, from this one")
    last_block: int = setting(-1, "features: last block that is matched; negative numbers count from the end")
    strategy: str = setting("color>crop>cutout", "augmentation of the matching, stages one after another")
    train_strategy: str = setting("color>crop", "augmentation of the networks' training")
    cutmix: float = setting(0.5, "probability of cutmix in a training step")
    spare_tiles: bool = setting(False, "with tiles: no cutout in the matching and no cutmix")
    n_data: int = setting(2000, "real images that a network is trained on after each update")
    train_batch: int = setting(64, "real images per training step")
    lr_net: float = setting(0.01, "learning rate of the networks")
    momentum_net: float = setting(0.9, "momentum of the networks' SGD")
    weight_decay: float = setting(5e-4, "weight decay of the networks")


VARIANTS: dict[str, dict[str, Any]] = {"i": {"factor": 1}, "feat": {"match": "feat"}}

_GREY: dict[str, Any] = {"metric": "l1", "lr_img": 1e-4, "n_data": 500}
_COMMANDS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {},
    "svhn": {"n_data": 500},
    "mnist": _GREY | {"lr_side": 28, "spare_tiles": True},
    "fashionmnist": _GREY,
    "*": {},
}
PAPER = {(dataset, ipc): row for dataset, row in _COMMANDS.items() for ipc in (1, 10, 50)}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}

SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "outer": 10,
        "inner": 10,
        "lr_boost": 30.0,
        "batch_real": 16,
        "batch_tiles": 16,
        "n_data": 128,
    },
    "smoke": {"outer": 2, "inner": 5, "batch_real": 16, "n_data": 64, "train_batch": 32},
}


class RealBatches(Protocol):
    """Where real images come from: those that synthetic images start from and those they are matched to."""

    interval: int  # updates between two calls of `refresh`, which are one step of the loop

    def initial(self, ipc: int, parts: int) -> list[Tensor]:
        """Class-major indices (C * ipc,) of real images, for each of so many parts of the initial images."""

    def refresh(self, net: Network) -> None:
        """Called before the first update with a network and after every `interval` updates."""

    def draw(self) -> ClassBatch:
        """The batch of an update."""


class RandomBatches:
    """Real images drawn at random, as IDC does."""

    interval = 1

    def __init__(self, data: Dataset, config: Config, context: Context) -> None:
        self._data = data
        self._batch_real = config.batch_real
        self._context = context

    def initial(self, ipc: int, parts: int) -> list[Tensor]:
        """A draw for each part."""
        generator = self._context.generator("init")
        return [self._data.index.balanced(ipc, generator) for _ in range(parts)]

    def refresh(self, net: Network) -> None:
        """There is nothing to refresh."""

    def draw(self) -> ClassBatch:
        """A fresh draw."""
        return self._data.index.draw(self._batch_real, self._context.generator("real"))


def steps_of(config: Config) -> Steps:
    """All updates of the images; the networks' training is not in it."""
    return Steps(config.outer * config.inner, real=config.batch_real, factor=config.factor)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by gradient matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("idc", data.name, ipc).config
    return synthesise(data, ipc, config, context, RandomBatches(data, config, context), "idc")


def synthesise(
    data: Dataset, ipc: int, config: Config, context: Context, batches: RealBatches, method: str
) -> Distilled:
    """IDC's loop with any choice of real images."""
    pixels = initial_pixels(data, ipc, config.factor, batches).requires_grad_()
    optimizer = ClasswiseSGD(pixels, data.num_classes, image_rate(config, ipc, data), config.momentum)
    learner = Learner(data, config, context)
    match = _MATCHERS[config.match](data, learner.net, config, context)
    starts = range(0, config.inner, batches.interval)

    state: State = {"pixels": optimizer, "net": learner.net, "optimizer": learner.optimizer}
    for step in context.steps(config.outer * len(starts), state):
        start = starts[step % len(starts)]
        if start == 0:
            optimizer.revise(lambda images: images.clamp_(0, 1))
            learner.restart()
        batches.refresh(learner.net)
        for update in range(start, min(start + batches.interval, config.inner)):
            tiles = training_tiles(pixels, data, config.factor, config.batch_tiles, context)
            leaf = tiles.detach().requires_grad_()
            siamese = Siamese.draw(matching_strategy(config), data, context)
            losses = match(leaf, batches.draw(), siamese)
            (pixels.grad,) = torch.autograd.grad(tiles, pixels, leaf.grad)
            optimizer.step()
            if update < config.inner - 1:
                learner.train()
        context.log(losses.sum())

    images = data.transform(optimizer.as_stopped())
    strategy = usual_strategy(data.name)
    return Distilled.of(
        data, images, method=method, config=config, factor=config.factor, augmentation=strategy
    )


def initial_pixels(data: Dataset, ipc: int, factor: int, batches: RealBatches) -> Tensor:
    """Class-major images (C * ipc, ...) in [0, 1] whose tiles are real images of every `factor`-th pixel."""
    parts = [data.batch(indices) for indices in batches.initial(ipc, factor**2)]
    return data.transform.inverse(compose(parts, factor, nearest=True))


def image_rate(config: Config, ipc: int, data: Dataset) -> float:
    """Learning rate of the images: proportional to ipc and to the area of an image."""
    return config.lr_boost * config.lr_img * (ipc / 10) * (data.shape[1] / config.lr_side) ** 2


def matching_strategy(config: Config) -> str:
    """Augmentation of the matching."""
    spared = config.spare_tiles and config.factor > 1
    return config.strategy.replace(">cutout", "") if spared else config.strategy


class Learner:
    """The network that images are matched in: fresh at first, then trained on real images."""

    def __init__(self, data: Dataset, config: Config, context: Context) -> None:
        self.net = context.network(data)
        self.optimizer = SGD(
            self.net.parameters(), config.lr_net, config.momentum_net, weight_decay=config.weight_decay
        )
        self._data, self._config, self._context = data, config, context
        self._forward = context.accelerate(logits_forward(context))
        self._rows_at_once = rows_per_piece(self.net, data.shape)
        self._cutmix = 0.0 if config.spare_tiles and config.factor > 1 else config.cutmix

    def restart(self) -> None:
        """Take a fresh network, whose optimiser remembers nothing."""
        self._context.redraw(self.net)
        self.optimizer.state.clear()

    def train(self) -> None:
        """Train until `n_data` real images are seen."""
        batch = self._config.train_batch
        seen = -(-self._config.n_data // batch) * batch
        for indices in draw_uniform(len(self._data), seen, self._context.generator("train")).split(batch):
            images, labels = self.distorted(indices)
            train_step(self._forward, self.net, self.optimizer, images, labels, self._rows_at_once)

    def distorted(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented real images (n, C, H, W) and their labels, (n,), or (n, classes) after cutmix."""
        data, generator = self._data, self._context.generator("distort", on_cpu=True)
        images, labels = data.batch(indices), data.labels[indices]
        size = (data.shape[1], data.shape[2])
        if operations(self._config.train_strategy):
            draws = sample_draws(self._config.train_strategy, len(images), size, generator)
            images = augment(images, self._config.train_strategy, draws)
        return cutmix_batch(images, labels, data.num_classes, self._cutmix, generator)


# Puts the gradient of the summed class losses into `.grad` of tiles (C * m, ...) and returns the losses (C,).
Match = Callable[[Tensor, ClassBatch, Siamese], Tensor]


def gradient_match(data: Dataset, net: Network, config: Config, context: Context) -> Match:
    """Distance of the gradients of all convolutions' weights."""
    matcher = GradientMatcher(context, data, net)
    parameters = matched_parameters(net, biases=False, classifier=False)

    def match(tiles: Tensor, batch: ClassBatch, siamese: Siamese) -> Tensor:
        real = matcher.real_gradients(net, parameters, batch, siamese)
        return matcher.descend(net, parameters, tiles, siamese, real, config.metric)

    return match


def feature_match(data: Dataset, net: Network, config: Config, context: Context) -> Match:
    """Distance of the class means of the blocks' outputs, summed over blocks."""
    view = Blocks(net, config.first_block, config.last_block)
    matcher = ClassMatcher(context, data, net, view=view, real_view=view)
    distance = _FEATURE_DISTANCES[config.metric]

    def match(tiles: Tensor, batch: ClassBatch, siamese: Siamese) -> Tensor:
        real = ((of, seen.extra) for of, seen in matcher.real_pieces(net, batch, siamese))
        means = class_means(real, batch.sizes)

        def loss(seen: Seen) -> Tensor:
            pairs = zip(means, seen.extra, strict=True)
            return torch.stack(
                [distance(mean[seen.classes], view.mean(dim=1).flatten(1)) for mean, view in pairs]
            ).sum(dim=0)

        return matcher.descend(net, tiles, siamese, loss)

    return match


_MATCHERS = {"grad": gradient_match, "feat": feature_match}


def absolute_distance(real_mean: Tensor, synthetic_mean: Tensor) -> Tensor:
    """Sum of absolute gaps of means (k, D)."""
    return (real_mean - synthetic_mean).abs().sum(dim=-1)


_FEATURE_DISTANCES = {"mse": kernels.mean_distance, "l1": absolute_distance}


class Blocks(LayerOutputs):
    """A view of a network: outputs of its blocks `first` to `last`, included; a block starts at a weight."""

    def __init__(self, net: Network, first: int, last: int) -> None:
        layers = net.features.layers
        weighted = [any(p.ndim > 1 for p in layer.parameters()) for layer in layers]
        starts = [position for position, has_weight in enumerate(weighted) if has_weight]
        ends = [layers[position - 1] for position in starts[1:]] + [layers[-1]]
        matched = ends[first : last % len(ends) + 1]
        if not matched:
            raise UserError(f"blocks {first} to {last} are none of the network's {len(ends)}")
        super().__init__(matched)

    def __call__(self, net: Network, images: Tensor) -> Seen:
        """Embeddings, and as extra the maps (N, ...) of each block."""
        outputs, final = self.of(net, images)
        return Seen(final.flatten(1), extra=outputs)
