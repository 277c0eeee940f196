"""DATM: trajectories as hard as the set can learn, and labels learned with the images.

Guo, Wang, Cazenavette, Li, Zhang & You, "Towards Lossless Dataset Distillation via Difficulty-Aligned
Trajectory Matching", ICLR 2024 (arXiv 2310.05773). MTT's objective

    minimise  || theta_N - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2

over images, label logits y and the students' rate alpha, where a student minimises the cross entropy of
softmax(y), experts are trained by GSAM (FTD's), and t is drawn from T- <= t < T(i): small sets are given
early passes and large ones late passes, and T grows over the iterations i. Images and logits begin as real
images that experts classify rightly and the mean logits of those that do; a step whose loss is above a
threshold is not made. Reported on CIFAR-10 (ConvNet, ZCA whitening): 46.9, 66.8, 76.1 % at ipc 1, 10, 50,
each the best of the evaluations made along the way, where this benchmark evaluates the end; protocol `datm`
is the authors'.

Variant `datm@tesla`: the gradient of TESLA, in memory that does not grow with N, as the authors' second
script has it for large sets (with the factor 2 that TESLA's own code lacks).

Departures from the authors' code (NUS-HPC-AI-Lab/DATM `DATM.py`, `DATM_tesla.py`, `buffer_FTD.py`): seeds are
named instead of 0 or taken from the clock; experts are drawn independently at every iteration, not file by
file, and kept in half precision; images of a class keep the order in which they were found, theirs is that of
a Python set; where no expert is right about enough images of a class, the rest are any, labelled by all
experts, theirs stops; images or labels that diverge end the run, theirs go on skipping every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from methods.shared import aligned
from methods.shared.aligned import condense, normalised, row
from methods.shared.trajectories import by_cell, flat_experts, settled


@dataclass(frozen=True)
class Config(aligned.Config):
    """Settings of DATM."""


VARIANTS = {"tesla": {"constant_memory": True}}

_COMMANDS = {
    "cifar10": {
        1: row(80, 2, 100, (0, None, 4), 5, lr_lr=1e-7, batch_syn=10, threshold=1.1),
        10: row(80, 2, 100, (0, 10, 20), 2, batch_syn=100),
        50: row(80, 2, 1000, (0, 20, 40), 2, growth=2000, batch_syn=500),
        500: row(40, 2, 50, (40, None, 60), 10),
        1000: row(100, 2, 50, (40, None, 60), 10),
    },
    "cifar100": {
        1: row(40, 3, 1000, (0, 10, 20), 10),
        10: row(80, 2, 1000, (0, 30, 50), 10, growth=2000),
        50: row(80, 2, 1000, (20, None, 70), 10, initial="random"),
        100: row(80, 2, 50, (30, None, 70), 10),
    },
    "tinyimagenet": {  # with ConvNetD4
        1: row(40, 2, 10_000, (0, 15, 20), 10, growth=2000, lr_lr=1e-4),
        10: row(40, 2, 100, (10, None, 50), 10, lr_lr=1e-4, batch_syn=500),
        50: row(20, 2, 100, (40, None, 70), 10, lr_lr=1e-4),
    },
}
PAPER = by_cell(_COMMANDS)

SCALED = aligned.SCALED
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
    data, config = settled("datm", dataset, ipc, config, context)
    experts = flat_experts(data, config, context)
    return condense(data, ipc, config, context, experts, normalised, "datm")
