"""DC's own augmentation of training images in evaluation: not differentiable, one operation for each image.

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021; VICO-UoE/DatasetCondensation
`utils.augment`. DC trains on its MNIST sets under "dc:crop_scale_rotate" and on sets for networks with batch
normalisation under "dc:crop_noise"; DSA's strategies are those of `augment.py`. As there, drawing and
applying are apart.

The authors' ranges are kept as their code has them: a crop's offset is one of the first 2 * CROP_PIXELS
positions, the last one is never drawn; an angle is a whole number of degrees, ROTATE_DEGREES itself excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import UnknownNameError

PREFIX = "dc:"

CROP_PIXELS = 4
SCALE_CHANGE = 0.2
ROTATE_DEGREES = 45
NOISE_STD = 0.001


@dataclass(frozen=True)
class DCDraws:
    """Random choices for the images of a batch, on the CPU.

    operation: (n,) int64, index into the strategy's operations.
    values: by the name of an operation, what the k images that get it need, in their order: crop, row and
    column offset (k, 2); scale, factors of height and width (k, 2); rotate, degrees (k,); noise, a standard
    Gaussian field (k, C, H, W).
    """

    operation: Tensor
    values: Mapping[str, Tensor]


def operations(strategy: str) -> tuple[str, ...]:
    """Names of the operations of a strategy such as "dc:crop_noise"; none if it is not one of DC's."""
    if not strategy.startswith(PREFIX):
        return ()
    names = tuple(strategy.removeprefix(PREFIX).split("_"))
    for name in names:
        if name not in OPERATIONS:
            raise UnknownNameError("augmentation of DC", name, OPERATIONS)
    return names


def sample_draws(strategy: str, shape: tuple[int, int, int, int], generator: torch.Generator) -> DCDraws:
    """Draw the operation of each image of a batch of `shape` (n, C, H, W) and its values, on the CPU."""
    names = operations(strategy)
    operation = torch.randint(len(names), (shape[0],), generator=generator)
    counts = operation.bincount(minlength=len(names)).tolist()
    values = {
        name: _SAMPLERS[name]((count, *shape[1:]), generator)
        for name, count in zip(names, counts, strict=True)
    }
    return DCDraws(operation, values)


def augment(images: Tensor, strategy: str, draws: DCDraws) -> Tensor:
    """New images (n, C, H, W), each changed by the operation that was drawn for it."""
    mean = images.mean(dim=(0, 2, 3))
    out = images.clone()
    for k, name in enumerate(operations(strategy)):
        rows = (draws.operation == k).nonzero().flatten().to(images.device)
        if len(rows) > 0:
            out[rows] = OPERATIONS[name](images[rows], draws.values[name].to(images.device), mean)
    return out


def crop(images: Tensor, offsets: Tensor, mean: Tensor) -> Tensor:
    """Cut each image at its offset (k, 2) out of itself padded by CROP_PIXELS of the batch's mean (C,)."""
    count, channels, height, width = images.shape
    padded_size = (count, channels, height + 2 * CROP_PIXELS, width + 2 * CROP_PIXELS)
    padded = mean[:, None, None].expand(padded_size).clone()
    padded[:, :, CROP_PIXELS:-CROP_PIXELS, CROP_PIXELS:-CROP_PIXELS] = images
    rows = offsets[:, :1].long() + torch.arange(height, device=images.device)
    columns = offsets[:, 1:].long() + torch.arange(width, device=images.device)
    padded = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded_size[3]))
    return padded.gather(3, columns[:, None, None, :].expand_as(images))


def scale(images: Tensor, factors: Tensor, mean: Tensor) -> Tensor:
    """Resize each image by its factors (k, 2) to the nearest pixels, centred, with zeros around it."""
    height, width = images.shape[2:]
    # The authors' canvas is square: what is centred in it depends on the longest side.
    sizes = (factors * factors.new_tensor([height, width])).long()
    canvas = sizes.amax(dim=1).clamp(min=max(height, width))
    rows, row_inside = _resized(height, sizes[:, 0], canvas)
    columns, column_inside = _resized(width, sizes[:, 1], canvas)
    moved = images.gather(2, rows[:, None, :, None].expand_as(images))
    moved = moved.gather(3, columns[:, None, None, :].expand_as(images))
    return moved * (row_inside[:, None, :, None] & column_inside[:, None, None, :])


def rotate(images: Tensor, degrees: Tensor, mean: Tensor) -> Tensor:
    """Rotate each image by its angle (k,) by cubic splines, filled up with the mean of the channel means."""
    from scipy import ndimage  # few trials need scipy

    height, width = images.shape[2:]
    fill = float(mean.mean())
    turned = []
    for image, angle in zip(images.cpu().numpy(), degrees.tolist(), strict=True):
        whole = ndimage.rotate(image, angle, axes=(-2, -1), cval=fill)
        top, left = (whole.shape[1] - height) // 2, (whole.shape[2] - width) // 2
        turned.append(whole[:, top : top + height, left : left + width])
    return torch.from_numpy(np.stack(turned)).to(images)


def noise(images: Tensor, fields: Tensor, mean: Tensor) -> Tensor:
    """Add faint Gaussian fields (k, C, H, W)."""
    return images + NOISE_STD * fields


OPERATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "crop": crop,
    "scale": scale,
    "rotate": rotate,
    "noise": noise,
}

Sampler = Callable[[tuple[int, ...], torch.Generator], Tensor]


def _sample_offsets(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2 * CROP_PIXELS, (shape[0], 2), generator=generator)


def _sample_factors(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape[0], 2, generator=generator, dtype=torch.float64)
    return 1 - SCALE_CHANGE + 2 * SCALE_CHANGE * uniform


def _sample_degrees(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(-ROTATE_DEGREES, ROTATE_DEGREES, (shape[0],), generator=generator)


def _sample_fields(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


_SAMPLERS: dict[str, Sampler] = {
    "crop": _sample_offsets,
    "scale": _sample_factors,
    "rotate": _sample_degrees,
    "noise": _sample_fields,
}


def _resized(length: int, sizes: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """Source of each position of an axis resized to `sizes` (k,), and whether it lies inside: (k, length)."""
    shift = (canvas - length) // 2 - (canvas - sizes) // 2
    position = torch.arange(length, device=sizes.device) + shift[:, None]
    inside = (position >= 0) & (position < sizes[:, None])
    source = (position * (length / sizes.float())[:, None]).floor().long()
    return source.clamp(0, length - 1), inside
