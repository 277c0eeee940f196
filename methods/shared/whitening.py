"""Whitening that a method asks for by itself, with a regulariser, as FRePo and KIP do."""

from __future__ import annotations

from harness.core.data import Dataset, Normalization, RegularisedZCA
from harness.core.errors import UserError


def whitened(data: Dataset, reg: float, *, unit_norm: bool = False) -> Dataset:
    """The dataset through a `RegularisedZCA` of its train images; as it is where `reg` is 0.

    The set that is distilled from it carries the transform, and is evaluated through it. UserError for a
    dataset that `--zca` has whitened already.
    """
    if reg == 0:
        return data
    if not isinstance(data.transform, Normalization):
        raise UserError(
            "the images are whitened already, and this method whitens them in its own way; drop --zca, or "
            "type --set METHOD.zca_reg=0"
        )
    scaling = Normalization.fit(data.images)
    return data.seen_through(RegularisedZCA.fit(data.images, scaling, reg, unit_norm=unit_norm))
