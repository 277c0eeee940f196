"""DCC: gradient matching with a contrastive signal.

Lee, Chun, Jung, Yun & Yoon, "Dataset Condensation with Contrastive Signals", ICML 2022 (arXiv 2202.02916). DC
looks at the gradients of one class at a time and learns what all images of a class have in common; here the
classes' gradients are averaged before they are compared,

    minimise  D( mean_c grad L(B_c; theta), grad L(S; theta) )

over the synthetic images S, with DC's distance D and loops. Until network `outer_warmup`, in its first
`inner_warmup` updates, DC's objective is used. With Siamese augmentation, here `dcc@dsa`, the paper calls it
DSAC. Reported on CIFAR-10 (ConvNet): 32.9, 49.4, 61.6 % at ipc 1, 10, 50; DSAC 34.0, 54.5, 64.2 %.

Departures from the authors' code (Saehyung-Lee/DCC `main.py`): those of `dc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import dc, resolve
from methods.shared.gradients import Gradients, mean_gradients


@dataclass(frozen=True)
class Config(dc.Config):
    """Settings of DCC: DC's, from real images, and when the signal sets in."""

    init: Literal["noise", "real"] = setting("real", "what the synthetic images start from")
    outer_warmup: int = setting(250, "networks whose first updates match class by class")
    inner_warmup: int = setting(10, "first updates of a network that match class by class")


VARIANTS: dict[str, dict[str, Any]] = {"dsa": {"strategy": None}}

PAPER = dc.loops({1: (10, 5)})

SCALED = {
    "cpu": dc.SCALED["cpu"] | {"outer_warmup": 3},
    "smoke": dc.SCALED["smoke"] | {"outer_warmup": 1},
}
steps_of = dc.steps_of


class ContrastiveLoss(dc.GradientLoss):
    """Distances of each class's gradients at first, later the distance of their means."""

    def __init__(self, config: Config) -> None:
        self.outer_warmup, self.inner_warmup = config.outer_warmup, config.inner_warmup

    def targets(self, real: Sequence[Gradients], iteration: int, update: int) -> Sequence[Gradients]:
        """The gradients of each class, or one for all of them."""
        warming_up = iteration < self.outer_warmup and update < self.inner_warmup
        return real if warming_up else [mean_gradients(real)]


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by gradient matching with a contrastive signal."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dcc", data.name, ipc).config
    return dc.synthesise(data, ipc, config, context, ContrastiveLoss(config), "dcc")
