"""Compositions: the loop of one method with the distance of another, "dm+bacon", as a method like any other.

A loop is a method file with

    condense(data, ipc, config, context, criterion, method) -> Distilled

and a distance one with `distance_to(weights) -> DistanceTo` and, if it has settings, a frozen dataclass
`Weights`. A composition has the loop's settings, published and shortened ones included, and those weights;
of the distance's variants it has those that change nothing but the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.nets import Network
from methods import resolve
from methods.shared.matching import DistanceTo, Seen, embedding_and_logits

OF_THE_LOOP = ("PAPER", "UNPUBLISHED", "SCALED", "steps_of")


@dataclass(frozen=True)
class Criterion:
    """What a loop takes in place of its own distance: LOOP+DISTANCE, and loops with constraints.

    distance_to: prepares the distance to a batch of real images. extra_view: what it sees of the synthetic
    images besides embeddings and logits. refresh: called at the start of every iteration, for what is drawn
    anew.
    """

    distance_to: DistanceTo
    extra_view: Callable[[Network, Tensor], tuple[Tensor, ...]] | None = None
    refresh: Callable[[], None] = lambda: None

    def view(self, net: Network, images: Tensor) -> Seen:
        """All that the loop and the distance see of synthetic images."""
        seen = embedding_and_logits(net, images)
        return seen if self.extra_view is None else seen._replace(extra=self.extra_view(net, images))


@cache
def compose(name: str, loop: ModuleType, distance: ModuleType) -> ModuleType:
    """The composition as a module of the same shape as a method's file."""

    def distill(
        dataset: str | Dataset, ipc: int, *, config: Any = None, context: Context | None = None
    ) -> Distilled:
        context = context or Context()
        data = context.dataset(dataset)
        config = config or resolve(name, data.name, ipc).config
        distilled: Distilled = loop.condense(
            data, ipc, config, context, Criterion(distance.distance_to(config)), name
        )
        return distilled

    weights = getattr(distance, "Weights", None)
    bases = (loop.Config,) if weights is None else (loop.Config, weights)
    config_type = dataclasses.make_dataclass(
        "Config", (), bases=bases, frozen=True, namespace={"__doc__": f"Settings of {name}."}
    )
    changeable = {field.name for field in dataclasses.fields(weights)} if weights is not None else set()
    variants = getattr(distance, "VARIANTS", {})
    made = ModuleType(f"methods.{name}", f"{name}: the loop of one method, the distance of the other.")
    vars(made).update(
        {key: value for key, value in vars(loop).items() if key in OF_THE_LOOP},
        distill=distill,
        Config=config_type,
        VARIANTS={key: values for key, values in variants.items() if set(values) <= changeable},
    )
    return made
