"""DC: dataset condensation with gradient matching.

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021 (arXiv 2006.05929). In a fresh
random network theta, and again after each of its trainings on the synthetic set S, real images B_c and
synthetic images S_c of each class are to give the same gradient of the cross entropy L:

    minimise  sum_c D( grad L(B_c; theta), grad L(S_c; theta) ),    D = sum over rows of  1 - cos

over S by SGD with momentum; a row belongs to one output channel of a layer, biases and norms do not count.
Reported on CIFAR-10 (ConvNet): 28.3, 44.9, 53.9 % at ipc 1, 10, 50.

Departures from the authors' code (VICO-UoE/DatasetCondensation `main.py`): seeds are named instead of taken
from the clock; real images pass the network in pieces, which changes nothing but rounding; ipcs without a
published number of loops get those of the next smaller one that has, where theirs stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.nets import Network
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.gradients import GradientMatcher, Gradients, matched_parameters
from methods.shared.starts import starting_images
from methods.shared.students import Student


@dataclass(frozen=True)
class Config:
    """Settings of DC; the defaults are those that all of the authors' commands share."""

    iterations: int = setting(1000, "fresh networks", length=True)
    outer: int = setting(10, "image updates with each network")
    inner: int = setting(50, "epochs of a network's training on the synthetic set between two updates")
    lr_img: float = setting(0.1, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images")
    init: Literal["noise", "real"] = setting("noise", "what the synthetic images start from")
    batch_real: int = setting(256, "real images per class and update")
    metric: Literal["ours", "mse", "cos"] = setting("ours", "distance of gradients")
    lr_net: float = setting(0.01, "learning rate of the networks, SGD without momentum")
    batch_train: int = setting(256, "synthetic images per SGD step of a network")
    batch_statistics: int = setting(
        16, "real images per class that set the statistics of batch normalisation", added=True
    )
    strategy: str | None = setting(
        "", 'DSA operations, also in evaluation; "": none, None: the dataset\'s usual ones'
    )


_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # by ipc


def loops(changed: dict[int, tuple[int, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Published settings, the same for all datasets; `changed` has other numbers of `_LOOPS`."""
    return {
        (dataset, ipc): {"outer": outer, "inner": inner}
        for dataset in ("mnist", "fashionmnist", "svhn", "cifar10", "cifar100", "*")
        for ipc, (outer, inner) in (_LOOPS | changed).items()
    }


PAPER = loops({})

# In so few updates images that start from noise do not get far where there are several of a class.
SCALED: dict[str, dict[str, Any]] = {
    "cpu": {"iterations": 20, "outer": 5, "inner": 5, "batch_real": 32, "lr_img": 0.5, "init": "real"},
    "smoke": {"iterations": 3, "outer": 2, "inner": 1, "batch_real": 16},
}


def steps_of(config: Config) -> Steps:
    """Iterations, each taken for a single update: `outer` and the networks' training are not in it."""
    return Steps(config.iterations, real=config.batch_real, augmentation=config.strategy)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by gradient matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dc", data.name, ipc).config
    return synthesise(data, ipc, config, context, GradientLoss(), "dc")


class GradientLoss:
    """What an image update minimises: the distances of each class's gradients."""

    def targets(self, real: Sequence[Gradients], iteration: int, update: int) -> Sequence[Gradients]:
        """The gradients to be matched, from those of each class's real images."""
        return real


def synthesise(
    data: Dataset, ipc: int, config: Config, context: Context, loss: GradientLoss, method: str
) -> Distilled:
    """DC's loop with any loss of gradients; a strategy makes it DSA's."""
    strategy = usual_strategy(data.name) if config.strategy is None else config.strategy
    images = starting_images(data, ipc, config.init, context).requires_grad_()
    optimizer = SGD([images], lr=config.lr_img, momentum=config.momentum)
    net = context.network(data)
    student = Student(net, data, context, strategy=strategy, lr=config.lr_net, batch=config.batch_train)
    matcher = GradientMatcher(context, data, net)
    parameters = matched_parameters(net, biases=config.metric != "ours", classifier=True)

    for iteration in context.steps(config.iterations, {"images": images, "optimizer": optimizer}):
        student.begin()
        for update in range(config.outer):
            settle_statistics(net, data, config.batch_statistics, context)
            siamese = Siamese.draw(strategy, data, context)
            batch = data.index.draw(config.batch_real, context.generator("real"))
            real = matcher.real_gradients(net, parameters, batch, siamese)
            targets = loss.targets(real, iteration, update)
            losses = matcher.descend(net, parameters, images, siamese, targets, config.metric)
            optimizer.step()
            if update < config.outer - 1:
                train(student, images.detach(), config.inner)
        context.log(losses.sum())

    return Distilled.of(
        data, images, method=method, config=config, augmentation=evaluation_strategy(strategy, data.name)
    )


def train(student: Student, images: Tensor, epochs: int) -> None:
    """Some epochs on the synthetic images, batch statistics moving."""
    student.net.train()
    for _ in range(epochs):
        student.train_epoch(images)


def evaluation_strategy(strategy: str, dataset: str) -> str:
    """What training on the set calls for: the DSA it was made with, on MNIST DC's own, else nothing."""
    return strategy or ("dc:crop_scale_rotate" if dataset == "mnist" else "")


@torch.no_grad()
def settle_statistics(net: Network, data: Dataset, per_class: int, context: Context) -> None:
    """Set statistics of batch normalisation by one pass of real images, then hold them fixed."""
    normalisations = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if not normalisations:
        return
    net.train()
    batch = data.index.draw(per_class, context.generator("statistics"))
    net(data.batch(batch.indices))
    for module in normalisations:
        module.eval()
