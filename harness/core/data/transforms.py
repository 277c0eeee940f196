"""From stored pixels to what a network sees, and back: mean/std normalisation or ZCA whitening.

Both are plain values that a distilled file carries along (`state`), so that whoever loads it can decode it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

_CHUNK = 4096


def _to_unit(images: Tensor) -> Tensor:
    """float32 pixels in [0, 1] from uint8 ones; floating-point images already are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@dataclass(frozen=True, eq=False)
class Normalization:
    """(x - mean) / std per channel; `mean` and `std` are float32 of shape (C,), in [0, 1] units."""

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        """Raise ValueError for statistics that do not fit together."""
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise ValueError(f"mean and std must both be (C,), got {shapes}")

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalization:
        """Build from one number per channel; raises ValueError for a std that is not positive."""
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {tuple(std)}")
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))

    @classmethod
    def fit(cls, images: Tensor) -> Normalization:
        """Mean and population std over all pixels of uint8 images (N, C, H, W), by counting values."""
        counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
        values = torch.arange(256, device=images.device, dtype=torch.float64) / 255
        shares = counts.double() / counts.sum(1, keepdim=True)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        # One grey level at least, so that a channel without contrast stays finite.
        return cls(mean.float(), variance.sqrt().clamp_min(1 / 255).float())

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float images from uint8 or [0, 1] float ones, (n, C, H, W)."""
        return (_to_unit(images) - self.mean[:, None, None]) / self.std[:, None, None]

    def inverse(self, images: Tensor) -> Tensor:
        """Back to [0, 1] space, not clamped, (n, C, H, W)."""
        return images * self.std[:, None, None] + self.mean[:, None, None]

    def to(self, device: torch.device | str) -> Normalization:
        """The same on `device`."""
        return Normalization(self.mean.to(device), self.std.to(device))

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `from_state` rebuilds it."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Normalization:
        """Rebuild from `state()`."""
        return cls(state["mean"], state["std"])


@dataclass(frozen=True, eq=False)
class ZCA:
    """Whitening of flattened images of D = C*H*W pixels: (x - mean) @ whiten.

    With covariance U diag(s) U^T of the train images in [0, 1], whiten = U diag(1/sqrt(s + eps)) U^T and
    `unwhiten` is its inverse, as kornia's ZCAWhitening that the MTT line of code uses with eps 0.1; no
    mean/std normalisation is applied before. Shapes: mean (D,), whiten and unwhiten (D, D), float32.
    """

    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor

    @classmethod
    def fit(cls, images: Tensor, eps: float = 0.1) -> ZCA:
        """Fit on N >= 2 uint8 or [0, 1] float images (N, C, H, W), in float64, chunked to bound memory."""
        chunks = torch.split(images.flatten(1), _CHUNK)
        totals = [_to_unit(chunk).sum(0, dtype=torch.float64) for chunk in chunks]
        mean = torch.stack(totals).sum(0) / len(images)
        covariance = mean.new_zeros(len(mean), len(mean))
        for chunk in chunks:
            centred = _to_unit(chunk).double() - mean
            covariance.addmm_(centred.T, centred, alpha=1 / (len(images) - 1))
        variances, directions = torch.linalg.eigh(covariance)
        # Rounding may leave a variance that is truly zero slightly negative.
        scale = (variances.clamp_min(0) + eps).sqrt()
        whiten, unwhiten = (directions / scale) @ directions.T, (directions * scale) @ directions.T
        return cls(mean.float(), whiten.float(), unwhiten.float())

    def __call__(self, images: Tensor) -> Tensor:
        """Whitened float images from uint8 or [0, 1] float ones, (n, C, H, W)."""
        return ((_to_unit(images).flatten(1) - self.mean) @ self.whiten).view(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Back to [0, 1] space, not clamped, (n, C, H, W)."""
        return (images.flatten(1) @ self.unwhiten + self.mean).view(images.shape)

    def to(self, device: torch.device | str) -> ZCA:
        """The same on `device`."""
        return ZCA(self.mean.to(device), self.whiten.to(device), self.unwhiten.to(device))

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `from_state` rebuilds it."""
        return {"mean": self.mean, "whiten": self.whiten, "unwhiten": self.unwhiten}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> ZCA:
        """Rebuild from `state()`."""
        return cls(state["mean"], state["whiten"], state["unwhiten"])


@dataclass(frozen=True, eq=False)
class RegularisedZCA:
    """Whitening as FRePo and KIP have it: of z = (x - mean) / std, the result is (z - centre) @ whiten.

    With C the covariance of the D entries of z over n train images and U diag(s) U^T = C + reg tr(C)/D I,
    whiten = U diag(1/sqrt(s)) U^T. FRePo centres z on its mean image. KIP does not, but first takes from each
    image its own mean and divides it by its norm: `norm` is the usual one of these, which `inverse` gives
    images back in place of their own; 0 where images are not so divided. Shapes: mean and std (channels,),
    centre (D,), whiten and unwhiten (D, D), norm (1,), all float32.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    whiten: Tensor
    unwhiten: Tensor
    norm: Tensor

    @classmethod
    def fit(cls, images: Tensor, scaling: Normalization, reg: float, *, unit_norm: bool) -> RegularisedZCA:
        """Fit on images as `scaling` takes them, in float64, chunked; `unit_norm`: as KIP, else as FRePo."""
        chunks = torch.split(images, _CHUNK)
        norm = torch.zeros(1, dtype=torch.float64, device=images.device)
        if unit_norm:
            norm += sum(_own_norms(_exactly(scaling, chunk)).sum() for chunk in chunks) / len(images)
        flat = [_flat(_exactly(scaling, chunk), unit_norm=unit_norm) for chunk in chunks]
        centre = torch.stack([chunk.sum(0) for chunk in flat]).sum(0) / len(images)
        centre = torch.zeros_like(centre) if unit_norm else centre
        covariance = centre.new_zeros(len(centre), len(centre))
        for chunk in flat:
            covariance.addmm_((chunk - centre).T, chunk - centre, alpha=1 / len(images))
        ridge = reg * covariance.diagonal().mean()
        variances, directions = torch.linalg.eigh(covariance)
        scale = (variances.clamp_min(0) + ridge).sqrt()
        # The authors leave those of directions alone that so few images cannot span.
        scale[: max(0, len(scale) - len(images))] = 1
        whiten, unwhiten = (directions / scale) @ directions.T, (directions * scale) @ directions.T
        parts = (centre, whiten, unwhiten, norm)
        return cls(scaling.mean, scaling.std, *(part.float() for part in parts))

    @cached_property
    def unit_norm(self) -> bool:
        """Whether images are divided by their norms; asked once, since a device is waited for."""
        return bool(self.norm > 0)

    @property
    def scaling(self) -> Normalization:
        """What comes before the whitening."""
        return Normalization(self.mean, self.std)

    def __call__(self, images: Tensor) -> Tensor:
        """Whitened float images from uint8 or [0, 1] float ones, (n, C, H, W)."""
        flat = _flat(self.scaling(images), unit_norm=self.unit_norm)
        return ((flat - self.centre) @ self.whiten).view(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Back to [0, 1] space, not clamped, (n, C, H, W); of images divided by their norms nearly so."""
        flat = images.flatten(1) @ self.unwhiten + self.centre
        flat = flat * self.norm if self.unit_norm else flat
        return self.scaling.inverse(flat.view(images.shape))

    def to(self, device: torch.device | str) -> RegularisedZCA:
        """The same on `device`."""
        return RegularisedZCA(**{name: tensor.to(device) for name, tensor in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `from_state` rebuilds it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> RegularisedZCA:
        """Rebuild from `state()`."""
        return cls(**state)


def _exactly(scaling: Normalization, images: Tensor) -> Tensor:
    """Images as `scaling` has them, in float64."""
    mean, std = (part.double()[:, None, None] for part in (scaling.mean, scaling.std))
    return (_to_unit(images).double() - mean) / std


def _own_norms(images: Tensor) -> Tensor:
    """Norm (n,) of each image less its own mean."""
    flat = images.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(flat - flat.mean(dim=1, keepdim=True), dim=1)
    return norms


def _flat(images: Tensor, *, unit_norm: bool) -> Tensor:
    """Flattened images (n, D), if `unit_norm` each less its mean and divided by its norm."""
    flat = images.flatten(1)
    if not unit_norm:
        return flat
    flat = flat - flat.mean(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return flat / norms.clamp_min(torch.finfo(flat.dtype).tiny)


Transform: TypeAlias = Normalization | ZCA | RegularisedZCA


def transform_from_state(state: dict[str, Tensor]) -> Transform:
    """Rebuild whichever transform the `state()` came from."""
    if "centre" in state:
        return RegularisedZCA.from_state(state)
    return ZCA.from_state(state) if "whiten" in state else Normalization.from_state(state)
