"""DSA: gradient matching under differentiable Siamese augmentation.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv 2102.08259).
DC's objective (`methods/dc.py`) with an augmentation A_c, drawn anew for each class and image update, that
the real and the synthetic images of the class share:

    minimise  sum_c D( grad L(A_c(B_c); theta), grad L(A_c(S_c); theta) )

Networks are trained on augmented synthetic images, in evaluation as well, and these start from real images.
Reported on CIFAR-10 (ConvNet): 28.8, 52.1, 60.6 % at ipc 1, 10, 50.

Departures from the authors' code (VICO-UoE/DatasetCondensation `main.py`): those of `dc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import dc, resolve


@dataclass(frozen=True)
class Config(dc.Config):
    """Settings of DSA: DC's, from real images and with augmentation."""

    init: Literal["noise", "real"] = setting("real", "what the synthetic images start from")
    strategy: str | None = setting(None, "DSA operations, also in evaluation; None: the dataset's usual ones")


PAPER = dc.PAPER
SCALED = dc.SCALED
steps_of = dc.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by gradient matching under Siamese augmentation."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dsa", data.name, ipc).config
    return dc.synthesise(data, ipc, config, context, dc.GradientLoss(), "dsa")
