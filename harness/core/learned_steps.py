"""Steps of training that were learned with a set: which images each of them sees, and how far it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.nets.xavier import draw_xavier


@dataclass(frozen=True)
class LearnedSteps:
    """Plain gradient steps in their order; step t takes the images of row t mod S, at once.

    rows: (S, m) int64, images of the set. sizes: (T,) float32, positive. seed: of the one initialisation that
    they are for; None: any by Xavier's normal distribution.
    """

    rows: Tensor
    sizes: Tensor
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse step sizes that no training could take."""
        if not bool((torch.isfinite(self.sizes) & (self.sizes > 0)).all()):
            raise UserError("learned step sizes are to be positive numbers; distil the set again")

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.sizes)

    def initialise(self, net: Network, generator: torch.Generator) -> None:
        """Draw a network's weights as the steps expect them, from the generator or from their own seed."""
        draw_xavier(net, generator if self.seed is None else torch.Generator().manual_seed(self.seed))

    def reordered(self, order: Tensor) -> LearnedSteps:
        """The same steps over images that were put in that order (n,)."""
        return replace(self, rows=order.argsort()[self.rows])

    def words(self) -> str:
        """What they are, for people."""
        low, high = float(self.sizes.min()), float(self.sizes.max())
        start = "" if self.seed is None else " from one initialisation"
        return f"the order of {len(self)} steps{start} and their sizes ({low:.3g} to {high:.3g})"

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps of them beside `facts`."""
        return {"steps.rows": self.rows, "steps.sizes": self.sizes}

    def facts(self) -> dict[str, Any]:
        """What a file keeps of them beside `tensors`."""
        return {"initialisation": "xavier", "seed": self.seed}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> LearnedSteps:
        """Those of a file; ValueError for an initialisation that is not known here."""
        if facts["initialisation"] != "xavier":
            raise ValueError(f"unknown initialisation {facts['initialisation']!r}")
        return cls(tensors["steps.rows"], tensors["steps.sizes"], facts["seed"])
