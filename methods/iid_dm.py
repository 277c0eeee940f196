"""IID-DM: distribution matching with constraints on features and on the images of a class.

Deng et al., "Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation", CVPR 2024 (arXiv
2404.00563). DM's objective for each class c, a fresh random network phi at every iteration, and two terms,

    || mean phi(A(B_c)) - mean phi(A(S_c)) ||^2 + a || G(B_c) - G(S_c) ||_F^2
                                                + b sum_s || psi(A(s)) - mean psi(A(S_c)) ||^2,

where G is the covariance of phi's channels and psi a network trained on the real images (`shared/iid.py`);
a = 0.01, b = 0.05. At ipc 1 both terms vanish and IID-DM is DM. Reported on CIFAR-10 (ConvNet): 55.1, 65.1 %
at ipc 10, 50.

Departures from the authors' code (VincenDen/IID `main_DM_IID.py`): seeds are named instead of taken from the
clock; all classes pass the network together, and the covariance is summed over images in one product of
matrices, which changes nothing but rounding. The paper bounds the last term by a threshold and an
exponential; the code does not, and neither does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import dm, resolve
from methods.shared import iid


@dataclass(frozen=True)
class Config(dm.Config, iid.Constraints):
    """Settings of IID-DM: DM's, and those of the constraints."""

    covariance_weight: float = setting(0.01, "a, weight of the gap between inter-feature covariances")
    centralisation_weight: float = setting(0.05, "b, weight of the scatter of a class's synthetic images")


PAPER: dict[tuple[str, int], dict[str, Any]] = {
    (dataset, ipc): {} for dataset in ("cifar10", "*") for ipc in (10, 50)
}

# The distance is a sum over channels and the gap of covariances one over their pairs: with 32 channels in
# place of 128 the published balance asks for a weight of the covariances four times as large. A few small
# networks stand in for the thousand of the paper; having learnt little of the classes, they pull lightly.
_SMALL = {
    "covariance_weight": 0.04,
    "centralisation_weight": 0.002,
    "pretrained": 3,
    "pretrained_arch": "ConvNetW16",
    "pretrained_epochs": 1,
}
SCALED = {
    "cpu": dm.SCALED["cpu"] | _SMALL | {"pretrained_steps": 60},
    "smoke": dm.SCALED["smoke"] | _SMALL | {"pretrained_steps": 10},
}
steps_of = dm.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by constrained distribution matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("iid_dm", data.name, ipc).config
    criterion = iid.constrained(config, data, context)
    return dm.condense(data, ipc, config, context, criterion, "iid_dm")
