"""Mixing of the images of a batch, CutMix and Mixup: what is drawn, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.augment import cutmix, cutmix_window
from harness.engine.parts import CutMix, Mixing

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Mix:
    """What is drawn for one batch.

    partner: (n,) indices of each image's partner. own: lambda, the share that an image keeps of itself before
    a window is clipped. window: rows and columns that come from the partner; None for Mixup.
    """

    partner: Tensor
    own: float
    window: Window | None = None


def draw(mixing: Mixing, count: int, size: tuple[int, int], generator: torch.Generator) -> Mix | None:
    """The draw for a batch of `count` images of `size` (H, W), on the CPU; None: it is left as it is."""
    if float(torch.rand((), generator=generator)) >= mixing.share:
        return None
    other = _beta(float(torch.rand((), generator=generator)), mixing.beta)
    window = _window(size, other, generator) if isinstance(mixing, CutMix) else None
    return Mix(torch.randperm(count, generator=generator), 1 - other, window)


def mixed(images: Tensor, rows: Tensor, mix: Mix, *, labels_too: bool) -> tuple[Tensor, Tensor]:
    """Mixed images (n, C, H, W) and label rows (n, classes), which stay as they are unless `labels_too`."""
    partner = mix.partner.to(images.device, non_blocking=True)
    if mix.window is not None:
        pasted, shared = cutmix(images, rows, partner, mix.window)
        return pasted, shared if labels_too else rows
    blended = mix.own * images + (1 - mix.own) * images[partner]
    return blended, mix.own * rows + (1 - mix.own) * rows[partner] if labels_too else rows


def as_rows(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Labels (n,) or (n, classes) as rows (n, classes) of the type of `like`."""
    return F.one_hot(labels, classes).to(like.dtype) if labels.ndim == 1 else labels


def _beta(uniform: float, parameter: float) -> float:
    """The value of Beta(parameter, parameter) that is as likely to be exceeded as the uniform one."""
    if parameter == 1:
        return uniform
    from scipy import special  # few trials need scipy

    return float(special.betaincinv(parameter, parameter, uniform))


def _window(size: tuple[int, int], area: float, generator: torch.Generator) -> Window:
    """A window of that share of the image around a uniform centre."""
    places = torch.rand(2, generator=generator).tolist()
    centre = [int(place * length) for place, length in zip(places, size, strict=True)]
    return cutmix_window(size, area, centre)
