"""Networks between the start and the end of their training, as DANCE and NCFM match embeddings in."""

from __future__ import annotations

import torch

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.experts import ExpertSettings, train_experts


class NetworkPair:
    """A trained network and a blend of it with itself before its training, drawn anew for each iteration."""

    def __init__(self, context: Context, data: Dataset, settings: ExpertSettings) -> None:
        self._experts = train_experts(context, data, settings)
        self._generator = context.generator("pair", on_cpu=True)
        self._epochs = settings.epochs
        self.blend = context.network(data).requires_grad_(False)
        self.trained = context.network(data).requires_grad_(False)

    @torch.no_grad()
    def draw(self) -> None:
        """Draw one of the pretrained networks and the share of its first weights in the blend."""
        chosen, share = self._choice()
        self._experts.load_into(self.blend, chosen, 0)
        self._experts.load_into(self.trained, chosen, self._epochs)
        for weight, final in zip(self.blend.parameters(), self.trained.parameters(), strict=True):
            weight.lerp_(final, 1 - share)

    def _choice(self) -> tuple[int, float]:
        chosen = int(torch.randint(len(self._experts), (1,), generator=self._generator))
        return chosen, float(torch.rand(1, generator=self._generator))
