"""PAD: DATM whose experts see the easy images first, and whose match leaves out part of the parameters.

Li, Zhu, Guo, Wang, Zhao, Zhang & You, "Prioritize Alignment in Dataset Distillation", 2024 (arXiv
2408.03360). Two filters keep what a small set cannot hold out of DATM's objective. Experts are trained on the
easiest images of each class at first, then on everything, then without the easiest; and with a mask m on the
parameters

    minimise  || m (theta_N - theta*_(t+M)) ||^2 / || m (theta*_t - theta*_(t+M)) ||^2 ,

where m leaves out the first share of all parameters, the shallow layers. Difficulty is EL2N, the mean over
networks of || softmax - one-hot ||. Reported on CIFAR-10 (ConvNet, ZCA whitening): 47.2, 67.4, 77.0 % at ipc
1, 10, 50, each the best of the evaluations made along the way, where this benchmark evaluates the end.

Variants: `pad@loss` leaves out the share of the parameters with the smallest squared differences, as the
script does that is left in the repository, by the shares of its configurations; `pad@data` has the data order
without a mask, `pad@mask` the mask without the data order.

Departures from the authors' code (NUS-HPC-AI-Lab/PAD `buffer_CL.py`, `PAD.py`, `PAD_depth.py` of f1e3e28e):
those of DATM; the default follows the paper, whose script is no longer there, and its Table 7; their files of
difficulties (of unknown networks) are replaced by those of networks trained here, after twenty passes as in
Paul et al. 2021; n is the size of each class, not 5000 for every dataset, so that other datasets are filtered
at all; which easy images are left out late is published for CIFAR-10 alone, and used for all; nothing is
added to the accuracy, as was one point until November 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.curriculum import Curriculum
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.experts import Experts, train_experts
from harness.core.settings import setting
from methods.shared import aligned
from methods.shared.aligned import Jury, condense, normalised, row
from methods.shared.trajectories import (
    Segment,
    Weights,
    by_cell,
    expert_settings,
    flat_experts,
    flat_settings,
    minus,
    settled,
    strategy_of,
)

_SCORED = 1024  # images at once


@dataclass(frozen=True)
class Config(aligned.Config):
    """Settings of PAD: those of DATM, of the data order and of the mask."""

    mask: Literal["depth", "loss", "none"] = setting(
        "depth", "parameters left out: the first of all, those that differ least, or none"
    )
    depth_ratio: float = setting(0.25, "share of the parameters that mask=depth leaves out")
    loss_ratio: float = setting(0.5, "share of the parameters that mask=loss leaves out")
    data_order: bool = setting(True, "experts see the easy images first; False: all images in every pass")
    init_ratio: float = setting(0.75, "share of each class, the easiest images, that experts begin with")
    add_end: int = setting(20, "index of the expert's pass from which on everything is seen")
    remove_first: int = setting(40, "index of the pass after which some easy images are left out")
    remove_second: int = setting(60, "index of the pass after which more are left out")
    remove_ratio_first: float = setting(0.1, "share of each class left out after remove_first")
    remove_ratio_second: float = setting(0.2, "share of each class left out after remove_second")
    scorers: int = setting(10, "networks by whose errors images are easy or hard")
    scorer_epochs: int = setting(20, "passes over the real images that they make")

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to be matched or seen."""
        super().__post_init__()
        for name in ("depth_ratio", "loss_ratio", "remove_ratio_first", "remove_ratio_second"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name):g}; expected a share from 0 to below 1")
        if not 0 < self.init_ratio <= 1:
            raise UserError(f"init_ratio is {self.init_ratio:g}; expected a share above 0, at most 1")


VARIANTS = {"loss": {"mask": "loss"}, "data": {"mask": "none"}, "mask": {"data_order": False}}


def _row(depth: float, loss: float, *command: Any, **rest: Any) -> dict[str, Any]:
    """A row of the paper's Table 7, with the masked shares of the paper and of the configurations."""
    return row(*command, **rest) | {"depth_ratio": depth, "loss_ratio": loss}


_LATE = {"add_end": 40}  # CIFAR-100 and Tiny ImageNet
_TABLE = {
    "cifar10": {
        1: _row(0.0, 0.0, 80, 2, 100, (0, None, 4), 5, lr_lr=1e-7, batch_syn=10, threshold=1.1),
        10: _row(0.25, 0.5, 80, 2, 100, (0, 10, 20), 2, batch_syn=100),
        50: _row(0.25, 0.25, 80, 2, 1000, (0, 20, 40), 2, growth=2000, batch_syn=500),
        500: _row(0.5, 0.5, 80, 2, 50, (40, None, 60), 10),
        1000: _row(0.75, 0.5, 80, 2, 50, (40, None, 60), 10),
    },
    "cifar100": {
        1: _row(0.0, 0.5, 40, 3, 1000, (0, 10, 20), 10, **_LATE),
        10: _row(0.25, 0.5, 80, 2, 1000, (0, 20, 40), 10, growth=2000, **_LATE),
        50: _row(0.5, 0.0, 80, 2, 1000, (40, 60, 80), 10, growth=2000, initial="random", **_LATE),
        100: _row(0.5, 0.5, 80, 2, 50, (40, None, 80), 10, **_LATE),
    },
    "tinyimagenet": {  # with ConvNetD4
        1: _row(0.0, 0.5, 60, 2, 10_000, (0, 15, 30), 10, growth=2000, lr_lr=1e-4, batch_syn=200, **_LATE),
        10: _row(0.25, 0.5, 60, 2, 100, (0, 20, 40), 10, growth=2000, lr_lr=1e-4, batch_syn=250, **_LATE),
        50: _row(0.5, 0.5, 80, 2, 100, (20, 40, 60), 10, growth=2000, lr_lr=1e-4, batch_syn=250, **_LATE),
    },
}
PAPER = by_cell(_TABLE)

_SHORT: dict[str, Any] = {
    "add_end": 1,
    "remove_first": 2,
    "remove_second": 3,
    "scorers": 2,
    "scorer_epochs": 1,
}
SCALED = {
    scale: settings | _SHORT | {"depth_ratio": 0.25, "loss_ratio": 0.25}
    for scale, settings in aligned.SCALED.items()
}
REGIME = "stored"
PROTOCOL = "datm"
steps_of = aligned.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class, their soft labels and a learning rate.

    A dataset asked for by name is whitened if the configuration says so; one that is given is used as it is.
    """
    context = context or Context()
    data, config = settled("pad", dataset, ipc, config, context)
    experts = trained_experts(data, config, context)
    return condense(data, ipc, config, context, experts, chosen_distance(config), "pad")


def trained_experts(data: Dataset, config: Config, context: Context) -> Experts:
    """Experts by GSAM, which see the images of each class by their difficulty."""
    if not config.data_order:
        return flat_experts(data, config, context)
    strategy = strategy_of(config, data)
    recipe = replace(
        expert_settings(config, strategy), count=config.scorers, epochs=config.scorer_epochs, snapshots="last"
    )
    scorers = train_experts(context, data, recipe)
    curriculum = Curriculum(
        init_ratio=config.init_ratio,
        add_end=config.add_end,
        remove_first=config.remove_first,
        remove_second=config.remove_second,
        remove_ratio_first=config.remove_ratio_first,
        remove_ratio_second=config.remove_ratio_second,
    )
    difficulty = el2n(Jury(scorers, context.network(data, "scorer"), context), data)
    settings = replace(flat_settings(config, strategy), curriculum=curriculum)
    return train_experts(context, data, settings, difficulty=difficulty)


def el2n(jury: Jury, data: Dataset) -> Tensor:
    """Difficulty (N,) of each image: how far the networks' answers are from its label, on average."""
    scores = torch.zeros(len(data), device=data.device)
    if jury.context.rehearsing:  # where the loop's steps are timed, any order will do
        return scores
    for k in jury.context.steps(len(jury), {"scores": scores}, name="difficulty", budgeted=False):
        scores += _error_norms(jury, k, data)
    return scores / len(jury)


def _error_norms(jury: Jury, scorer: int, data: Dataset) -> Tensor:
    """How far (N,) one network's answers are from the labels."""
    parts = []
    for rows in torch.arange(len(data), device=data.device).split(_SCORED):
        answers = jury.logits(scorer, data.batch(rows)).softmax(dim=1)
        answers[torch.arange(len(rows), device=data.device), data.labels[rows]] -= 1
        parts.append(answers.norm(dim=1))
    return torch.cat(parts)


def chosen_distance(config: Config) -> aligned.Distance:
    """DATM's distance, of those parameters that the mask leaves."""
    if config.mask == "none":
        return normalised
    if config.mask == "depth":
        return partial(masked, keep=partial(deep, ratio=config.depth_ratio))
    return partial(masked, keep=partial(differing, ratio=config.loss_ratio))


def masked(end: Weights, segment: Segment, *, keep: Callable[[Tensor], Tensor]) -> Tensor:
    """The distance and the length of the stretch, both of the parameters that `keep` names alone.

    keep: places of those parameters among all, flattened in their order, given the squared differences (P,).
    """
    missed = _squares(end, segment.target)
    kept = keep(missed.detach())
    return missed[kept].sum() / _squares(segment.start, segment.target)[kept].sum()


def _squares(a: Weights, b: Weights) -> Tensor:
    """Squared differences (P,) of all parameters, flattened in their order."""
    return torch.cat([part.flatten() for part in minus(a, b)]).square()


def deep(squares: Tensor, ratio: float) -> Tensor:
    """Places of all but the first share of the parameters."""
    return torch.arange(int(ratio * len(squares)), len(squares), device=squares.device)


def differing(squares: Tensor, ratio: float) -> Tensor:
    """Places of all but the share of the parameters with the smallest squared differences."""
    return squares.argsort()[int(ratio * len(squares)) :]
