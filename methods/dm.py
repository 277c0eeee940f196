"""DM: distribution matching with fresh random networks.

Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv 2110.04181). At every
iteration a new random network phi and, for each class, one augmentation A are drawn;

    minimise  sum_c || mean_{x in B_c} phi(A(x)) - mean_{s in S_c} phi(A(s)) ||^2

over the synthetic images S by SGD with momentum. Reported on CIFAR-10 (ConvNet): 26.0, 48.9, 63.0 % at
ipc 1, 10, 50.

Departures from the authors' code (VICO-UoE/DatasetCondensation `main_DM.py`): seeds are named instead of
taken from the clock; all classes pass the network together, which changes nothing but rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.composition import Criterion
from methods.shared.matching import ClassMatcher, MeanDistance
from methods.shared.starts import initial_images


@dataclass(frozen=True)
class Config:
    """Settings of DM; the defaults are those of the authors' CIFAR-10 command."""

    iterations: int = setting(20_000, "image updates, one fresh network each", length=True)
    lr_img: float = setting(1.0, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images")
    batch_real: int = setting(256, "real images per class and iteration")
    strategy: str | None = setting(
        None, "DSA operations, also in evaluation; None: the usual ones of the dataset"
    )


_ROWS = {1: {}, 10: {}, 50: {}, 100: {"lr_img": 10.0}}
PAPER = {
    (dataset, ipc): row
    for dataset in ("mnist", "cifar10", "cifar100", "tinyimagenet", "*")
    for ipc, row in _ROWS.items()
}

SCALED = {"cpu": {"iterations": 300, "batch_real": 32}, "smoke": {"iterations": 20, "batch_real": 16}}


def steps_of(config: Config) -> Steps:
    """Updates by real images of each class; no network is trained."""
    return Steps(config.iterations, real=config.batch_real, augmentation=config.strategy)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by distribution matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dm", data.name, ipc).config
    return condense(data, ipc, config, context, Criterion(MeanDistance.to), "dm")


def condense(
    data: Dataset,
    ipc: int,
    config: Config,
    context: Context,
    criterion: Criterion,
    method: str,
    factor: int = 1,
) -> Distilled:
    """DM's loop with any criterion, on stored images of factor x factor tiles."""
    strategy = usual_strategy(data.name) if config.strategy is None else config.strategy
    images = initial_images(data, ipc, factor, context).requires_grad_()
    optimizer = SGD([images], lr=config.lr_img, momentum=config.momentum)
    net = context.network(data).requires_grad_(False)
    matcher = ClassMatcher(context, data, net, factor, view=criterion.view)

    for _ in context.steps(config.iterations, {"images": images, "optimizer": optimizer}):
        criterion.refresh()
        context.redraw(net)
        siamese = Siamese.draw(strategy, data, context)
        batch = data.index.draw(config.batch_real, context.generator("real"))
        distance = criterion.distance_to(matcher.real_features(net, batch, siamese), batch.sizes)
        losses = matcher.descend(net, images, siamese, distance)
        optimizer.step()
        context.log(losses.sum())

    return Distilled.of(data, images, method=method, config=config, factor=factor, augmentation=strategy)
