"""Evaluation protocols: how a network is trained on a distilled set, under a name and a version.

`dc-1000` is the evaluation of the DC family (VICO-UoE/DatasetCondensation `utils.evaluate_synset`), which
DC, DSA, DM, IDM, BACON, MTT and others share: E + 1 epochs, the rate divided by ten after epoch index
E // 2 + 1 together with a fresh optimiser (the momentum restarts), the augmentation that the set calls for,
accuracy after the last epoch. E is 1000 for sets that call for augmentation and 300 for those that do not.

`idc-1000` is that of IDC and DREAM (snu-mllab/Efficient-Dataset-Condensation `train.train`): batches of 64,
the rate divided by five at 2/3 and at 5/6 of the epochs, an augmentation of its own and CutMix. The authors
report the best epoch on the test set; here, as everywhere, it is the last. Their exceptions are left out: no
CutMix on MNIST with multi-formation, nor on SVHN at ipc 1 without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.core.errors import DivergedError, UnknownNameError

PROTOCOL_VERSION = "1.0"


@dataclass(frozen=True)
class Schedule:
    """Epochs of one training and the learning rate in each; epoch indices count from 0.

    From each epoch of `drops` on the rate is `decay` times the one before. `restarts` says whether the
    optimiser is then built afresh, so that its momentum restarts.
    """

    epochs: int
    lr: float
    drops: tuple[int, ...]
    decay: float
    restarts: bool

    def lr_in(self, epoch: int) -> float:
        """Learning rate in epoch index `epoch`."""
        return float(self.lr * self.decay ** sum(drop <= epoch for drop in self.drops))


@dataclass(frozen=True)
class Decline:
    """A family's rule for the learning rate: where it drops for E epochs, and by which factor.

    The loop of `extra_epochs` 1 runs over 0..E, both included.
    """

    drops: Callable[[int], tuple[int, ...]]
    decay: float
    restarts: bool
    extra_epochs: int = 0


DC = Decline(lambda epochs: (epochs // 2 + 2,), decay=0.1, restarts=True, extra_epochs=1)
IDC = Decline(lambda epochs: (2 * epochs // 3, 5 * epochs // 6), decay=0.2, restarts=False)


@dataclass(frozen=True)
class Protocol:
    """Settings of one evaluation; `epochs` is the field's E.

    plain_epochs: E for sets that call for no augmentation; None: the same.
    augmentation: strategy in place of the one that the set calls for; None: that one.
    cutmix: share of the batches that are mixed by CutMix.
    """

    name: str
    summary: str
    epochs: int
    plain_epochs: int | None = None
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 256
    decline: Decline = DC
    augmentation: str | None = None
    cutmix: float = 0.0

    def schedule(self, *, augmented: bool = True, lr: float | None = None) -> Schedule:
        """Schedule for a set that is `augmented` or not; `lr`: the rate that was distilled along, if any."""
        if lr is not None and not (lr > 0 and math.isfinite(lr)):
            raise DivergedError(
                f"the distilled set asks for training at the learning rate {lr:g} that was distilled along, "
                "which is not positive; distil it again with a lower rate of the rate"
            )
        epochs = self.epochs if augmented or self.plain_epochs is None else self.plain_epochs
        decline = self.decline
        return Schedule(
            epochs=epochs + decline.extra_epochs,
            lr=self.lr if lr is None else lr,
            drops=decline.drops(epochs),
            decay=decline.decay,
            restarts=decline.restarts,
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("dc-1000", "the field's: SGD 0.01, 1001 epochs, DSA", epochs=1000, plain_epochs=300),
        Protocol("dc-cpu", "dc-1000 cut to 151 epochs for the cpu scale", epochs=150, plain_epochs=45),
        Protocol("dc-smoke", "dc-1000 cut to 21 epochs for smoke runs", epochs=20, plain_epochs=6),
        Protocol(
            "idc-1000",
            "that of IDC and DREAM: SGD 0.01, 1000 epochs, CutMix; last epoch, not the best",
            epochs=1000,
            batch=64,
            decline=IDC,
            augmentation="flip>color>crop_scale_rotate",
            cutmix=0.5,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; UnknownNameError lists the choices."""
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
