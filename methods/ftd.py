"""FTD: trajectory matching with experts in flat minima, and the moving average of the images.

Du, Jiang, Tan, Zhou & Li, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", CVPR
2023 (arXiv 2211.11004). A student in evaluation does not start where an expert was but where it got itself;
experts that GSAM leads along flat valleys make it matter less. The loop and its objective are MTT's,

    minimise  || theta_N - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2 ,

and the set is the moving average of the images, ema <- d ema + (1 - d) x after each update, from the first
ones on. Reported on CIFAR-10 (ConvNet, ZCA whitening): 46.8, 66.6, 73.8 % at ipc 1, 10, 50, each the best of
the evaluations made along the way, where this benchmark evaluates the end.

Variant `ftd@raw`: the last images themselves, without the average.

Departures from the authors' code (AngusDujw/FTD-distillation `buffer_FTD.py`, `distill_FTD.py`): they
evaluate the average with the network that has just been trained on the images themselves, for twice the
epochs, and keep the better score; here each set is trained on by fresh networks. Seeds are named instead of
taken from the clock; experts are drawn independently at every iteration, not file by file, and kept in half
precision; GSAM's alpha is the paper's for each cell, the script leaves it at 0.4; whitening is published in
the commands of CIFAR-10 and CIFAR-100 at ipc 10 alone, and used for all cells of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import mtt
from methods.mtt import row, unrolled
from methods.shared import aligned, trajectories
from methods.shared.trajectories import FlatConfig, begin, by_cell, flat_experts, settled


@dataclass(frozen=True)
class Config(FlatConfig):
    """Settings of FTD: those of MTT, of its experts and of the average."""

    ema_decay: float = setting(0.9995, "d, decay of the moving average of the images")
    averaged: bool = setting(True, "the set is the moving average; False: the last images")


VARIANTS = {"raw": {"averaged": False}}

_COMMANDS = {
    "cifar10": {
        1: row(50, 2, 2, 100, 1e-7, ema_decay=0.9999, zca=True),
        10: row(30, 2, 20, 100, 1e-5, alpha0=0.001, zca=True),
        50: row(30, 2, 40, 1000, 1e-5, ema_decay=0.999, gsam_alpha=1.0, zca=True),
    },
    "cifar100": {
        1: row(40, 3, 20, 1000, 1e-5, gsam_alpha=1.0, zca=True),
        10: row(20, 2, 40, 1000, 1e-5, gsam_alpha=1.0, zca=True),
        50: row(80, 2, 40, 1000, 1e-5, gsam_alpha=1.0, ema_decay=0.999, batch_syn=1000, zca=True),
    },
    "tinyimagenet": {  # with ConvNetD4
        1: row(30, 2, 10, 10_000, 1e-4, gsam_alpha=1.0, ema_decay=0.999),
        10: row(20, 2, 40, 10_000, 1e-4, gsam_alpha=1.0, ema_decay=0.999, batch_syn=500),
    },
}
PAPER = by_cell(_COMMANDS)

# MTT's, with the experts that DATM has at the same scale.
_EXPERTS = ("experts", "expert_epochs", "expert_steps", "expert_batch", "expert_lr", "gsam_alpha")
SCALED: dict[str, dict[str, Any]] = {
    scale: {**settings, "ema_decay": 0.9} | {k: v for k, v in aligned.SCALED[scale].items() if k in _EXPERTS}
    for scale, settings in mtt.SCALED.items()
}
steps_of = trajectories.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class, and a learning rate, by matching the trajectories of flat experts.

    A dataset asked for by name is whitened if the configuration says so; one that is given is used as it is.
    """
    context = context or Context()
    data, config = settled("ftd", dataset, ipc, config, context)
    run = begin(data, ipc, config, context, flat_experts(data, config, context))
    average = run.images.detach().clone()
    for _ in context.steps(config.iterations, {**run.state, "average": average}):
        run.update(unrolled)
        average.mul_(config.ema_decay).add_(run.images.detach(), alpha=1 - config.ema_decay)
    return run.distilled(average if config.averaged else run.images, "ftd")
