"""Evaluation protocols: how a network is trained on a distilled set, under a name and a version.

`dc-1000` is the evaluation of the DC family (VICO-UoE/DatasetCondensation `utils.evaluate_synset`), which
DSA, DM, IDM and BACON share: E + 1 epochs, the rate divided by ten after epoch index E // 2 + 1 together
with a fresh optimiser (the momentum restarts), DSA augmentation drawn per image, accuracy after the last
epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UnknownNameError

PROTOCOL_VERSION = "1.0"


@dataclass(frozen=True)
class Protocol:
    """Settings of one evaluation; `epochs` is the field's E, of which E + 1 are run."""

    name: str
    summary: str
    epochs: int
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 256
    decay: float = 0.1

    @property
    def epochs_run(self) -> int:
        """Number of passes over the distilled set: the authors' loop includes both 0 and E."""
        return self.epochs + 1

    @property
    def decay_after(self) -> int:
        """Epoch index after which the rate falls and the optimiser is rebuilt."""
        return self.epochs // 2 + 1

    def lr_in(self, epoch: int) -> float:
        """Learning rate in epoch index `epoch`."""
        return self.lr if epoch <= self.decay_after else self.lr * self.decay


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("dc-1000", "the field's: SGD 0.01, 1001 epochs, DSA", epochs=1000),
        Protocol("dc-cpu", "dc-1000 cut to 151 epochs for the cpu scale", epochs=150),
        Protocol("dc-smoke", "dc-1000 cut to 21 epochs for smoke runs", epochs=20),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; UnknownNameError lists the choices."""
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
