"""Random packed: random real images in the tiles of multi-formation, the floor of methods that store tiles.

IDM, BACON and IDC store factor x factor shrunk images in the room of one. Part of what they gain over
`random` is that alone: factor^2 times as many training images, at a lower resolution. This baseline has the
same storage and does not distil. With the same seed it is what `idm` and `bacon` start from. No paper reports
it; every tile is a draw of its own, so that an image may stand in two tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import Steps, setting
from methods import resolve
from methods.shared.starts import initial_images


@dataclass(frozen=True)
class Config:
    """Settings of random packed."""

    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")


# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}


def steps_of(config: Config) -> Steps:
    """No loop; each image is a grid of tiles."""
    return Steps(0, factor=config.factor)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Pack factor^2 random training images into each of `ipc` stored images per class."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("random_packed", data.name, ipc).config
    return Distilled.of(
        data,
        initial_images(data, ipc, config.factor, context),
        method="random_packed",
        config=config,
        factor=config.factor,
        augmentation=usual_strategy(data.name),
    )
