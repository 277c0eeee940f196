"""The rule X@soft: the set of method X with soft labels by a network whose training was stopped early.

Qin, Deng & Alvarez-Melis, "A Label is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024 (arXiv
2406.10485): random real images with such labels come near the best distilled sets, so that `random@soft` is
the floor of all methods that store soft labels. A network of the kind that learns from the set is trained on
the real images; z_e are its logits after e passes, and each training image x of the set gets

    softmax(temp * mean over networks of z_e(x)),   the fewer images there are, the smaller e.

Reported with random images, CIFAR-10 (ConvNet, ZCA): 46.3 and 62.1 % at ipc 10 and 50.

Departures from the authors' code (sunnytqin/no-distillation `softlabel/`): they choose e by the accuracy of
students on the test split; here e is the first pass after which the network is right on `label_share` times
as many of a tenth of the train images, left out of its training, as it is at the end. Its numbers come from
their chosen passes, each divided by the full accuracy. Tiles of multi-formation have a label each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset, HeldOut
from harness.core.distilled import Distilled
from harness.core.experts import Experts, ExpertSettings, train_experts
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces, rows_per_piece
from harness.core.settings import Steps, setting, values_of
from harness.core.teachers import ROWS, right_answers
from methods import SOFT, contract, resolve

_SHARES = {1: 0.65, 10: 0.82, 50: 0.93}  # of the full accuracy, from that ipc on


@dataclass(frozen=True)
class Labelling:
    """Settings of the labels."""

    label_share: float | None = setting(
        None, "share of its full accuracy at which the labelling network is stopped; None: by ipc"
    )
    label_temp: float = setting(1.0, "factor of the logits, an inverse temperature")
    label_networks: int = setting(1, "labelling networks, whose logits are averaged")
    label_swap: int = setting(
        0,
        "the so-manieth largest entry changes places with the smallest, to see what order is worth; 0: none",
    )
    label_epochs: int = setting(200, "passes over the real images in full training")
    label_steps: int | None = setting(None, "SGD steps at which a pass is cut off; None: whole passes")
    label_batch: int = setting(256, "real images per SGD step")
    label_lr: float = setting(0.01, "learning rate of the labelling network, without momentum")


PAPER: Mapping[tuple[str, int], Mapping[str, Any]] = {
    ("cifar10", ipc): {"label_lr": 5e-4} for ipc in (1, 10, 50, 100)
} | {(dataset, ipc): {} for dataset in ("cifar100", "tinyimagenet") for ipc in (1, 10, 50, 100)}

# Rates are ours: networks make fewer and larger steps.
SCALED: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"label_epochs": 12, "label_steps": 20, "label_lr": 0.1},
    "smoke": {"label_epochs": 4, "label_steps": 20, "label_batch": 64, "label_lr": 0.1},
}


@cache
def soften(name: str, base: ModuleType) -> ModuleType:
    """X@soft as a module of the same shape as a method's file; `base` is that of X."""
    method = contract.complete(base)

    def distill(
        dataset: str | Dataset, ipc: int, *, config: Any = None, context: Context | None = None
    ) -> Distilled:
        context = context or Context()
        data = context.dataset(dataset)
        config = config or resolve(name, data.name, ipc).config
        made = method.distill(data, ipc, config=config, context=context)
        return relabelled(made, data, config, context)

    def steps_of(config: Any) -> Steps:
        return dataclasses.replace(method.steps_of(config), labels="soft")

    made = ModuleType(f"methods.{name}", f"{name}: the images of {name.partition('@')[0]}, with soft labels.")
    vars(made).update(
        distill=distill,
        Config=dataclasses.make_dataclass(
            "Config",
            (),
            bases=(method.Config, Labelling),
            frozen=True,
            namespace={"__doc__": f"Settings of {name}."},
        ),
        VARIANTS={SOFT: {}},
        PAPER=_joined_rows(method.PAPER),
        BORROWED=method.BORROWED,
        UNPUBLISHED=method.UNPUBLISHED,
        SCALED={scale: {**method.SCALED.get(scale, {}), **row} for scale, row in SCALED.items()},
        IGNORES_IPC=method.IGNORES_IPC,
        REGIME="stored",
        steps_of=steps_of,
    )
    return made


def _joined_rows(table: Mapping[tuple[str, int], contract.Row]) -> dict[tuple[str, int], contract.Row]:
    """The published settings of the images and of the labels."""
    return {
        key: {**(table.get(key) or table.get(("*", key[1]), {})), **PAPER.get(key, {})}
        for key in {**table, **PAPER}
    }


def relabelled(made: Distilled, data: Dataset, config: Labelling, context: Context) -> Distilled:
    """The set with soft labels in place of its own, one for each training image."""
    data = made.view_of(data)
    learned, held_out = data.hold_out()
    experts = train_experts(context, learned, expert_settings(config, data))
    epoch = stopping_epoch(experts, held_out, share_for(config, made.ipc), context)
    images = made.decoded()[0]
    nets = [_loaded(experts, k, epoch, context, data) for k in range(config.label_networks)]
    labels = soft_labels([_logits(net, images, context) for net in nets], config.label_temp)
    return dataclasses.replace(
        made,
        labels=swapped(labels, config.label_swap),
        classes=made.hard_labels()[: len(made.images)],
        config=values_of(config),
    )


def soft_labels(logits: Sequence[Tensor], temp: float) -> Tensor:
    """Labels (n, classes) by networks that gave these logits (n, classes) each."""
    return torch.softmax(temp * torch.stack(list(logits)).mean(dim=0), dim=1)


def swapped(labels: Tensor, rank: int) -> Tensor:
    """Labels (n, classes) whose entry of that rank, 1 for the largest, changed places with the smallest."""
    if rank == 0:
        return labels
    order = labels.argsort(dim=1, descending=True)
    places = torch.stack([order[:, rank - 1], order[:, -1]], dim=1)
    return labels.scatter(1, places, labels.gather(1, places.flip(1)))


def share_for(config: Labelling, ipc: int) -> float:
    """Share of its full accuracy at which the labelling network is stopped."""
    if config.label_share is not None:
        return config.label_share
    return max((from_ipc, share) for from_ipc, share in _SHARES.items() if from_ipc <= ipc)[1]


def expert_settings(config: Labelling, data: Dataset) -> ExpertSettings:
    """How labelling networks are trained."""
    return ExpertSettings(
        count=config.label_networks,
        epochs=config.label_epochs,
        batch=config.label_batch,
        lr=config.label_lr,
        strategy=usual_strategy(data.name),
        steps_per_epoch=config.label_steps,
    )


def stopping_epoch(experts: Experts, held_out: HeldOut, share: float, context: Context) -> int:
    """The first pass after which the first network is as accurate as that share of its final accuracy."""
    epochs = experts.settings.epochs
    net = context.network(held_out, "judged").requires_grad_(False)
    right = torch.zeros(epochs, dtype=torch.int64)
    for k in context.steps(epochs, {"right": right}, name="judge", budgeted=False):
        experts.load_into(net, 0, k + 1)
        right[k] = _right(net, held_out, context)
    return int((right >= share * right[-1]).nonzero()[0]) + 1


def _right(net: Network, held_out: HeldOut, context: Context) -> int:
    """How many images a network is right about."""
    return right_answers(lambda images: _logits(net, images, context), net, held_out)


def _loaded(experts: Experts, k: int, epoch: int, context: Context, data: Dataset) -> Network:
    net = context.network(data, "labels").requires_grad_(False)
    experts.load_into(net, k, epoch)
    return net


@torch.no_grad()
def _logits(net: Network, images: Tensor, context: Context) -> Tensor:
    """Logits (n, classes) of images without augmentation."""
    _, channels, height, width = images.shape
    forward = logits_forward(context)
    rows = rows_per_piece(net.eval(), (channels, height, width)) or ROWS
    return torch.cat([forward(net, images[piece]).float() for piece in pieces(len(images), rows)])
