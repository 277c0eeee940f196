"""NCFM: neural characteristic function matching, with networks between start and end of their training.

Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax
Perspective", CVPR 2025 (arXiv 2502.20653). With Phi_X(t) = mean_{x in X} exp(i <t, f(x)>) of L2-normalised
embeddings f, frequencies t ~ N(0, I) for each class, and real and synthetic images of a class under one
augmentation,

    minimise  sum_c 300 mean_t sqrt( alpha (|Phi_B| - |Phi_S|)^2 + 2 beta (|Phi_B||Phi_S| - Re Phi_B Phi_S*) )

over the multi-formation images S of each class; alpha = beta = 1/2, for which the root is |Phi_B - Phi_S|
over sqrt 2. f belongs to a random blend, parameter by parameter, of a network before and after its training.
After this matching of all classes, each class takes a step on the cross entropy of the trained network
("calibration"). Reported on CIFAR-10 (ConvNet): 49.5, 71.8, 77.4 % at ipc 1, 10, 50, with soft labels or
other refinements in at least some cells; without them and without the sampling network, as here, 65.6 and
74.2 % at ipc 10 and 50 (68.9 and 77.4 % with the sampling network).

The variant `ncfm@sampler` is the paper's reading: 1024 frequencies from a network that one ascent step on
the class's loss follows each image step with. The released configurations switch it off. Of its shape only
"a three-layer MLP" is known; that it adds to its noise, starting from no change, and its width are ours.

Departures from the authors' code (gszfwsb/NCFM `NCFM/NCFM.py`): seeds are named instead of taken from the
clock; all classes pass the networks together, and the optimiser step per class over the whole tensor is taken
as two exact sweeps (`classwise`); images are normalised before instead of after their tiles are enlarged,
which is the same for a mean and a deviation per channel; frequencies do not outlive their class, for memory;
the networks' pretraining, of which 60 epochs of SGD at 0.01 are known, takes what else it needs from IDC;
CIFAR-100 is normalised by its own statistics; distilled sets are evaluated like all others, with hard labels,
instead of by the best of 2000 epochs of AdamW with cutmix and soft labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.augment import usual_strategy
from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.experts import ExpertSettings
from harness.core.nets import Network
from harness.core.settings import Steps, setting
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.blends import NetworkPair
from methods.shared.classwise import AdamWTurns, ClassTurns, Plateau, SGDTurns
from methods.shared.idc_line import decay_epochs, initial_pixels
from methods.shared.matching import ClassLoss, ClassMatcher, Seen, class_entropy, embedding_and_logits

_LOSS_SCALE = 300.0  # of the matching loss; with AdamW it decides only its weight beside weight decay
_SMALLEST_PHASE = 1e-12


@dataclass(frozen=True)
class Config:
    """Settings of NCFM; the defaults are those that the authors' configurations share."""

    iterations: int = setting(20_000, "each with two optimiser steps for every class", length=True)
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "optimizer of the images")
    lr_img: float = setting(1e-3, "first learning rate of the images, for pixels in [0, 1]")
    weight_decay: float = setting(5e-4, "weight decay of adamw")
    momentum: float = setting(0.5, "momentum of sgd")
    plateau_patience: int = setting(500, "iterations without progress of the loss after which the rate falls")
    plateau_factor: float = setting(0.5, "factor by which the rate falls")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(1024, "real images per class and iteration")
    frequencies: int = setting(4096, "frequencies per class and iteration")
    alpha: float = setting(0.5, "weight of the gap of amplitudes")
    beta: float = setting(0.5, "weight of the gap of phases")
    calibration: float = setting(1.0, "weight of the cross entropy")
    matching_strategy: str = setting("color>crop>cutout", "augmentation of both losses")
    networks: int = setting(20, "pretrained networks")
    train_epochs: int = setting(60, "epochs of the networks' pretraining on real images")
    train_steps: int | None = setting(
        None, "SGD steps at which an epoch of the pretraining is cut off; None: whole epochs"
    )
    train_batch: int = setting(64, "real images per SGD step of the pretraining", added=True)
    train_lr: float = setting(0.01, "first learning rate of the pretraining", added=True)
    train_momentum: float = setting(0.9, "momentum of the pretraining's SGD", added=True)
    train_weight_decay: float = setting(5e-4, "weight decay of the pretraining", added=True)
    sampler: bool = setting(False, "whether a network learns which frequencies to look at")
    sampler_hidden: int = setting(128, "units of the sampler's hidden layers; unpublished")
    sampler_lr: float = setting(1e-3, "learning rate of the sampler's Adam")


VARIANTS = {"sampler": {"sampler": True, "frequencies": 1024}}

PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {} for dataset in ("cifar10", "cifar100", "tinyimagenet", "*") for ipc in (1, 10, 50)
}
PAPER["cifar100", 10] = {"optimizer": "sgd", "lr_img": 0.01}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}

SCALED = {
    "cpu": {
        "iterations": 80,
        "lr_img": 5e-3,
        "batch_real": 32,
        "frequencies": 512,
        "networks": 4,
        "train_epochs": 3,
        "train_steps": 40,
    },
    "smoke": {
        "iterations": 20,
        "lr_img": 5e-3,
        "batch_real": 16,
        "frequencies": 64,
        "networks": 2,
        "train_epochs": 2,
        "train_steps": 5,
    },
}


def steps_of(config: Config) -> Steps:
    """The loop; the training of the networks before it is not in it."""
    return Steps(config.iterations, real=config.batch_real, factor=config.factor)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by characteristic function matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("ncfm", data.name, ipc).config
    pair = NetworkPair(context, data, expert_settings(config))
    optimizer = image_optimizer(initial_pixels(data, ipc, config.factor, context), data.num_classes, config)
    plateau = Plateau(optimizer, config.plateau_factor, config.plateau_patience)
    frequencies = frequency_source(config, pair.trained.feature_dim, context)
    gap = context.accelerate(characteristic_gap)
    matcher = ClassMatcher(
        context, data, pair.blend, config.factor, view=unit_embedding, real_view=unit_embedding
    )
    calibrator = ClassMatcher(context, data, pair.trained, config.factor, view=embedding_and_logits)

    state: State = {"images": optimizer, "plateau": plateau, "frequencies": frequencies}
    for _ in context.steps(config.iterations, state):
        optimizer.images.clamp_(0, 1)
        pair.draw()
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(config.matching_strategy, data, context)
        real = matcher.real_features(pair.blend, batch, siamese).split(list(batch.sizes))
        loss = matching_loss(real, frequencies, gap, config)
        matched = take_turns(optimizer, matcher, pair.blend, siamese, loss)
        siamese = Siamese.draw(config.matching_strategy, data, context)
        calibrated = take_turns(
            optimizer, calibrator, pair.trained, siamese, calibration_loss(config.calibration)
        )
        total = (matched + calibrated).sum()
        plateau.step(float(total))
        context.log(total)

    return Distilled.of(
        data,
        data.transform(optimizer.images),
        method="ncfm",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )


def characteristic_gap(real: Tensor, synthetic: Tensor, t: Tensor, alpha: float, beta: float) -> Tensor:
    """Gap of the characteristic functions of features (n, D) and (m, D) at frequencies (K, D), a scalar."""
    real_re, real_im = _characteristic_function(real, t)
    re, im = _characteristic_function(synthetic, t)
    real_norm, norm = (real_re.square() + real_im.square()).sqrt(), (re.square() + im.square()).sqrt()
    amplitude = (real_norm - norm).square()
    phase = 2 * (real_norm * norm - real_re * re - real_im * im)
    return (alpha * amplitude + beta * phase.clamp_min(_SMALLEST_PHASE)).sqrt().mean()


def _characteristic_function(features: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (K,) of the mean of exp(i <t, f>)."""
    angles = features @ t.T
    return angles.cos().mean(dim=0), angles.sin().mean(dim=0)


def matching_loss(
    real: Sequence[Tensor], frequencies: GaussianFrequencies, gap: Callable[..., Tensor], config: Config
) -> ClassLoss:
    """The loss of each class, for unit embeddings of its real images (n_c, D).

    Classes are looked at in order and their gradients taken at once: frequencies and angles of one class
    only are in memory, and the source of the frequencies learns from each class before the next.
    """

    def of_class(real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
        synthetic = synthetic.detach().requires_grad_()
        loss = _LOSS_SCALE * gap(real, synthetic, frequencies.draw(), config.alpha, config.beta)
        gradient, *others = torch.autograd.grad(loss, [synthetic, *frequencies.parameters()])
        frequencies.ascend(others)
        return loss.detach(), gradient

    def loss(seen: Seen) -> Tensor:
        synthetic = seen.embeddings
        found = [of_class(r, s) for r, s in zip(real[seen.classes], synthetic, strict=True)]
        losses, gradients = (torch.stack(parts) for parts in zip(*found, strict=True))
        # Values as found, with the gradients as found: the product is zero.
        return losses + ((synthetic - synthetic.detach()) * gradients).sum(dim=(1, 2))

    return loss


def calibration_loss(weight: float) -> ClassLoss:
    """Weighted cross entropy of each class."""
    return lambda seen: weight * class_entropy(seen)


def take_turns(
    optimizer: ClassTurns, matcher: ClassMatcher, net: Network, siamese: Siamese, class_loss: ClassLoss
) -> Tensor:
    """One optimiser step for each class on its loss as it is at its turn; returns these losses (C,)."""
    optimizer.approach()
    pixels = optimizer.images.detach().requires_grad_()
    normalised = matcher.data.transform(pixels)
    seen = normalised.detach().requires_grad_()
    losses = matcher.descend(net, seen, siamese, class_loss)
    (gradient,) = torch.autograd.grad(normalised, pixels, seen.grad)
    optimizer.depart(gradient)
    return losses


class GaussianFrequencies:
    """Frequencies from N(0, I), which nothing is learnt about."""

    def __init__(self, config: Config, features: int, context: Context) -> None:
        self._shape = (config.frequencies, features)
        self._generator = context.generator("frequencies")
        self._device = context.device

    def draw(self) -> Tensor:
        """Fresh frequencies (K, D)."""
        return torch.randn(self._shape, generator=self._generator, device=self._device)

    def parameters(self) -> list[Tensor]:
        """What there is to learn."""
        return []

    def ascend(self, gradients: Sequence[Tensor]) -> None:
        """Learn from the gradients of a loss to be made larger."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes but the generator."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class LearntFrequencies(GaussianFrequencies):
    """Frequencies z + MLP(z) of normal noise z, by an MLP of three layers that seeks the largest gap."""

    def __init__(self, config: Config, features: int, context: Context) -> None:
        super().__init__(config, features, context)
        sizes = (features, config.sampler_hidden, config.sampler_hidden, features)
        layers = [nn.utils.skip_init(nn.Linear, *pair, device=context.device) for pair in pairwise(sizes)]
        context.redraw(nn.Sequential(*layers), "sampler")
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self._mlp = nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2])
        self._adam = torch.optim.Adam(self._mlp.parameters(), lr=config.sampler_lr, maximize=True)

    def draw(self) -> Tensor:
        """Fresh frequencies (K, D), through which gradients flow to the parameters."""
        noise = super().draw()
        frequencies: Tensor = noise + self._mlp(noise)
        return frequencies

    def parameters(self) -> list[Tensor]:
        """Weights and biases."""
        return list(self._mlp.parameters())

    def ascend(self, gradients: Sequence[Tensor]) -> None:
        """One step of Adam uphill."""
        for parameter, gradient in zip(self._mlp.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"mlp": self._mlp.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self._mlp.load_state_dict(state["mlp"])
        self._adam.load_state_dict(state["adam"])


def frequency_source(config: Config, features: int, context: Context) -> GaussianFrequencies:
    """Frequencies for embeddings of so many features."""
    return (LearntFrequencies if config.sampler else GaussianFrequencies)(config, features, context)


def image_optimizer(images: Tensor, classes: int, config: Config) -> ClassTurns:
    """The optimiser of images (C * ipc, ...) that the configuration names."""
    if config.optimizer == "sgd":
        return SGDTurns(images, classes, config.lr_img, config.momentum)
    return AdamWTurns(images, classes, config.lr_img, config.weight_decay)


def expert_settings(config: Config) -> ExpertSettings:
    """The pretraining: IDC's networks, whose rate falls after two and five sixths of the epochs."""
    epochs = config.train_epochs
    return ExpertSettings(
        count=config.networks,
        epochs=epochs,
        batch=config.train_batch,
        lr=config.train_lr,
        momentum=config.train_momentum,
        weight_decay=config.train_weight_decay,
        decay_epochs=decay_epochs(epochs),
        decay=0.2,
        strategy="color>crop",
        steps_per_epoch=config.train_steps,
        snapshots="ends",
    )


def unit_embedding(net: Network, images: Tensor) -> Seen:
    """Embeddings of unit length."""
    return Seen(F.normalize(net.embed(images)))
