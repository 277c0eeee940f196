"""IDM: improved distribution matching, with multi-formation and a pool of networks in training.

Zhao, Li, Qin & Yu, "Improved Distribution Matching for Dataset Condensation", CVPR 2023. With a network drawn
from the pool (phi its embedding, a its running training accuracy in percent), T the multi-formation and A one
augmentation for each class,

    minimise  sum_c || mean phi(A(B_c)) - mean phi(A(T(S_c))) ||^2  +  w a CE(net(A(T(S_c))), c)

over the synthetic images S. Reported on CIFAR-10 (ConvNet): 45.6, 58.6, 67.5 % at ipc 1, 10, 50.

Departures from the authors' code (uitrbn/IDM `IDM_*.py`): seeds are named instead of taken from the clock;
all classes pass the network together and the authors' optimiser step per class is taken as one exact joint
step (`ClasswiseSGD`); the accuracy meters, which theirs resets whenever it looks at the test set, are reset
every `meter_reset_every` iterations without any look; `IDM_tiny.py` starts multi-formation from whole
images by an inverted condition, here TinyImageNet starts from tiles like the others. Networks of the pool
stay in training mode while images are matched, where theirs are in evaluation mode: the same for instance
norm, and another thing for networks with batch norm (`--arch ConvNetBN`), which no published row has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.core.augment import FULL_STRATEGY, usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import Steps, setting
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.classwise_sgd import ClasswiseSGD
from methods.shared.composition import Criterion
from methods.shared.matching import ClassMatcher, MeanDistance, distance_and_entropy
from methods.shared.pool import NetworkPool, PoolSettings
from methods.shared.starts import initial_images


@dataclass(frozen=True)
class Config(PoolSettings):
    """Settings of IDM and of its pool; the defaults are those that all of the authors' commands share."""

    iterations: int = setting(20_000, "joint image updates", length=True)
    lr_img: float = setting(0.2, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images, per class step")
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    batch_real: int = setting(256, "real images per class and iteration")
    ce_weight: float = setting(0.5, "weight of the cross entropy, times the network's accuracy in percent")
    ce_reference: int | None = setting(
        None, "if given, ce_weight is for so many features and scaled to the network's"
    )
    meter_reset_every: int = setting(100, "iterations between resets of the accuracy meters; 0: never")
    strategy: str | None = setting(
        None, "DSA operations, also in evaluation; None: the usual ones of the dataset"
    )

    def ce_weight_for(self, features: int) -> float:
        """Weight of the cross entropy for networks with so many features."""
        return self.ce_weight * features / (self.ce_reference or features)


_IPC1: dict[str, Any] = {"batch_real": 5000, "push_every": 5}
_IPC50: dict[str, Any] = {"ce_weight": 0.1, "meter_reset_every": 500}
_COMMANDS: dict[str, dict[int, dict[str, Any]]] = {
    "cifar10": {1: _IPC1, 10: {}, 50: _IPC50},
    "cifar100": {1: _IPC1, 10: {"ce_weight": 0.1, "train_steps": 50}, 50: _IPC50},
    "tinyimagenet": {
        1: {},
        10: {"meter_reset_every": 500},
        50: {"ce_weight": 0.8, "train_steps": 50, "meter_reset_every": 1000},
    },
}
PAPER = {
    (dataset, ipc): {"strategy": FULL_STRATEGY} | row
    for dataset, rows in _COMMANDS.items()
    for ipc, row in rows.items()
}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1, "ce_reference": 2048}}
PAPER |= {("*", ipc): row for ipc, row in _COMMANDS["cifar10"].items()}

# The distance is a sum over features and shrinks with the network, the cross entropy does not: the balance
# that was published for ConvNet's 2048 features asks for a smaller weight in smaller networks.
_SMALL = {"ce_reference": 2048, "push_every": 5}
SCALED = {
    "cpu": _SMALL | {"iterations": 200, "batch_real": 32, "train_steps": 2, "train_batch": 64},
    "smoke": _SMALL | {"iterations": 20, "batch_real": 16, "train_steps": 1, "train_batch": 32},
}


def steps_of(config: Config) -> Steps:
    """Updates by real images of each class; after each, networks of the pool are trained."""
    return Steps(
        config.iterations,
        real=config.batch_real,
        trained=config.trained * config.train_steps * config.train_batch,
        factor=config.factor,
        augmentation=config.strategy,
    )


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by improved distribution matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("idm", data.name, ipc).config
    return condense(data, ipc, config, context, Criterion(MeanDistance.to), "idm")


def condense(
    data: Dataset, ipc: int, config: Config, context: Context, criterion: Criterion, method: str
) -> Distilled:
    """IDM's loop with any criterion in place of the distance of means."""
    strategy = usual_strategy(data.name) if config.strategy is None else config.strategy
    images = initial_images(data, ipc, config.factor, context).requires_grad_()
    optimizer = ClasswiseSGD(images, data.num_classes, config.lr_img, config.momentum)
    pool = NetworkPool(context, data, config)
    net = pool.members[0].net
    ce_weight = config.ce_weight_for(net.feature_dim)
    matcher = ClassMatcher(context, data, net, config.factor, view=criterion.view)

    for step in context.steps(config.iterations, {"images": optimizer, "pool": pool}):
        criterion.refresh()
        member = pool.draw(step, config.meter_reset_every)
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(strategy, data, context)
        distance = criterion.distance_to(matcher.real_features(member.net, batch, siamese), batch.sizes)
        loss = partial(distance_and_entropy, distance, ce_weight * member.accuracy_percent)
        losses = matcher.descend(member.net, images, siamese, loss)
        optimizer.step()
        pool.train()
        context.log(losses.sum())

    images = optimizer.as_stopped()
    return Distilled.of(
        data, images, method=method, config=config, factor=config.factor, augmentation=strategy
    )
