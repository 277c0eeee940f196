"""Differentiable Siamese augmentation (DSA) as pure functions of explicit draws.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021; operations and
ranges as in VICO-UoE/DatasetCondensation `utils.DiffAugment` (METHODS: one operation is chosen per call and
applied to the whole batch). Sampling (`sample_draws`) and application (`augment`) are separate: the real and
the synthetic images of a class are augmented alike by being given the same draws.

A strategy names the operations to choose from, "color_crop_flip". Stages that follow one another, each with a
choice of its own, are joined by ">": IDC's pipeline (snu-mllab/Efficient-Dataset-Condensation
`misc/augment.py`) mirrors and colours always and then chooses one of three, "flip>color>crop_scale_rotate".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import UnknownNameError

FULL_STRATEGY = "color_crop_cutout_flip_scale_rotate"
NO_FLIP_STRATEGY = "color_crop_cutout_scale_rotate"
# Mirror images of digits are not digits; the DSA authors leave flip out for these.
DIGIT_DATASETS = ("digits", "mnist", "svhn")

CROP_RATIO = 0.125
CUTOUT_RATIO = 0.5
SCALE_RATIO = 1.2
ROTATE_DEGREES = 15.0
VALUES_PER_DRAW = 3
STAGE = ">"  # between the stages of a strategy


@dataclass(frozen=True)
class Draws:
    """Random choices for n rows (images, or classes whose images share a row), kept on the CPU.

    operation: (n,) int64, index into the strategy's operations.
    values: (n, 3) float32, read by the operation of the row: color (three uniform draws: brightness,
    saturation, contrast), crop (row and column shift in pixels), cutout (row and column of the window's
    centre), flip (one uniform draw), scale (two uniform draws: x, y), rotate (one uniform draw).
    then: draws of the strategy's next stage, if it has one.
    """

    operation: Tensor
    values: Tensor
    then: Draws | None = None

    def rows(self, index: Tensor) -> Draws:
        """The draws of the given rows (CPU int64), for example each image's class."""
        then = None if self.then is None else self.then.rows(index)
        return Draws(self.operation[index], self.values[index], then)


def usual_strategy(dataset: str) -> str:
    """The strategy the field uses on a dataset: all operations, without flip for digits."""
    return NO_FLIP_STRATEGY if dataset in DIGIT_DATASETS else FULL_STRATEGY


def operations(strategy: str) -> tuple[str, ...]:
    """Names of the operations of all stages of a strategy; none for "" and "none"."""
    if strategy in ("", "none"):
        return ()
    names = tuple(strategy.replace(STAGE, "_").split("_"))
    for name in names:
        if name not in OPERATIONS:
            raise UnknownNameError("augmentation", name, OPERATIONS)
    return names


def sample_draws(
    strategy: str,
    rows: int,
    image_size: tuple[int, int],
    generator: torch.Generator,
    *,
    one_operation: bool = False,
) -> Draws:
    """Draw operation and parameters for each row from a CPU generator.

    `one_operation` gives all rows the same operation but their own parameters, as the authors' code does
    when no Siamese seed is set (evaluation); otherwise each row draws its own (one Siamese call per class).
    """
    stage, _, later = strategy.partition(STAGE)
    names = operations(stage)
    chosen = torch.randint(len(names), (1 if one_operation else rows,), generator=generator).expand(rows)
    uniform = torch.rand(rows, VALUES_PER_DRAW, generator=generator)
    values = uniform.clone()
    for k, name in enumerate(names):
        if name in _INTEGER_RANGES:
            low, count = _integer_range(name, image_size)
            integers = low + (uniform[:, :2] * count).floor()
            values[:, :2] = torch.where((chosen == k)[:, None], integers, values[:, :2])
    if not later:
        return Draws(chosen, values)
    then = sample_draws(later, rows, image_size, generator, one_operation=one_operation)
    return Draws(chosen, values, then)


def augment(images: Tensor, strategy: str, draws: Draws, *, align_corners: bool = False) -> Tensor:
    """Apply to each image (N,C,H,W) the operations and parameters of its row of `draws` (N rows).

    `align_corners` belongs to the resampling in scale and rotate: False in DC's line of code, True in MTT's.
    """
    stage, _, later = strategy.partition(STAGE)
    out = _augment_stage(images, operations(stage), draws, align_corners)
    return out if draws.then is None else augment(out, later, draws.then, align_corners=align_corners)


def augment_batch(
    images: Tensor, strategy: str, generator: torch.Generator, *, align_corners: bool = False
) -> Tensor:
    """Images (N,C,H,W) of a training step under one drawn operation for all and parameters for each."""
    if not operations(strategy):
        return images
    size = (images.shape[2], images.shape[3])
    draws = sample_draws(strategy, len(images), size, generator, one_operation=True)
    return augment(images, strategy, draws, align_corners=align_corners)


def _augment_stage(images: Tensor, names: tuple[str, ...], draws: Draws, align_corners: bool) -> Tensor:
    out: Tensor | None = None
    for k, name in enumerate(names):
        rows = (draws.operation == k).nonzero().flatten()
        operation = OPERATIONS[name]
        if name in RESAMPLING:
            operation = partial(RESAMPLING[name], align_corners=align_corners)
        if len(rows) == len(images):
            return operation(images, _sent(draws.values, images))
        if len(rows) > 0:
            out = torch.empty_like(images) if out is None else out
            on_device = _sent(rows, images)
            values = _sent(draws.values[rows], images)
            out = out.index_copy(0, on_device, operation(images[on_device], values))
    return images if out is None else out


def brightness(images: Tensor, u: Tensor) -> Tensor:
    """Add u - 0.5 to each image; u: (N,) uniform."""
    return images + (u - 0.5)[:, None, None, None]


def saturation(images: Tensor, u: Tensor) -> Tensor:
    """Scale each pixel's distance from its channel mean by 2u; u: (N,) uniform."""
    mean = images.mean(dim=1, keepdim=True)
    return (images - mean) * (2 * u)[:, None, None, None] + mean


def contrast(images: Tensor, u: Tensor) -> Tensor:
    """Scale each image's distance from its mean by u + 0.5; u: (N,) uniform."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (u + 0.5)[:, None, None, None] + mean


def color(images: Tensor, values: Tensor) -> Tensor:
    """Brightness, saturation and contrast in this order; values: (N, 3) uniform."""
    images = brightness(images, values[:, 0])
    images = saturation(images, values[:, 1])
    return contrast(images, values[:, 2])


def crop(images: Tensor, values: Tensor) -> Tensor:
    """Shift each image by (rows, columns) pixels with zero fill: out[r, c] = x[r + dr, c + dc]."""
    height, width = images.shape[2:]
    row, row_inside = _shifted(height, values[:, 0])
    column, column_inside = _shifted(width, values[:, 1])
    moved = images.gather(2, row[:, None, :, None].expand_as(images))
    moved = moved.gather(3, column[:, None, None, :].expand_as(images))
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    return moved.masked_fill(~inside, 0.0)


def cutout(images: Tensor, values: Tensor) -> Tensor:
    """Set to zero a window of half the height and width centred at (row, column), clipped at the border."""
    height, width = images.shape[2:]
    rows = _in_window(height, values[:, 0])
    columns = _in_window(width, values[:, 1])
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def flip(images: Tensor, values: Tensor) -> Tensor:
    """Mirror the columns of images whose uniform draw is below 0.5."""
    return torch.where((values[:, 0] < 0.5)[:, None, None, None], images.flip(3), images)


def scale(images: Tensor, values: Tensor, *, align_corners: bool = False) -> Tensor:
    """Stretch the sampling grid by factors in [1/1.2, 1.2], drawn apart for x and y; bilinear, zero fill."""
    factors = values[:, :2] * (SCALE_RATIO - 1 / SCALE_RATIO) + 1 / SCALE_RATIO
    return _affine(images, torch.diag_embed(factors), align_corners)


def rotate(images: Tensor, values: Tensor, *, align_corners: bool = False) -> Tensor:
    """Rotate the sampling grid by an angle within 15 degrees either way; bilinear, zero fill."""
    angle = (values[:, 0] - 0.5) * 2 * ROTATE_DEGREES * math.pi / 180
    first = torch.stack([angle.cos(), -angle.sin()], dim=1)
    second = torch.stack([angle.sin(), angle.cos()], dim=1)
    return _affine(images, torch.stack([first, second], dim=1), align_corners)


def cutmix(
    images: Tensor, labels: Tensor, partner: Tensor, window: tuple[slice, slice]
) -> tuple[Tensor, Tensor]:
    """Paste into each image (N,C,H,W) a window (rows, columns) of its partner, another image of the batch.

    labels: (N, classes) rows that sum to one, mixed by area; partner: (N,) indices. Yun et al., "CutMix",
    ICCV 2019; one window for the batch, as in IDC.
    """
    rows, columns = window
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner, :, rows, columns]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / (images.shape[2] * images.shape[3])
    return mixed, labels * (1 - share) + labels[partner] * share


def cutmix_window(size: tuple[int, int], area: float, centre: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of a window around `centre` of that share of the image, cut off at its border."""
    side = area**0.5
    window = []
    for length, middle in zip(size, centre, strict=True):
        reach = int(length * side) // 2
        window.append(slice(max(0, middle - reach), min(length, middle + reach)))
    return window[0], window[1]


def draw_window(size: tuple[int, int], generator: torch.Generator) -> tuple[slice, slice]:
    """A window of uniform area and centre, from a CPU generator."""
    area = float(torch.rand((), generator=generator))
    return cutmix_window(size, area, [int(torch.randint(length, (), generator=generator)) for length in size])


def draw_cutmix(
    share: float, count: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, tuple[slice, slice]] | None:
    """Partners (count,) and window of a batch that is mixed, as it is with probability `share`; else None."""
    if float(torch.rand((), generator=generator)) >= share:
        return None
    return torch.randperm(count, generator=generator), draw_window(size, generator)


def cutmix_batch(
    images: Tensor, labels: Tensor, classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (N,C,H,W) and labels (N,), or with probability `share` mixed ones with labels (N, classes)."""
    drawn = draw_cutmix(share, len(images), (images.shape[2], images.shape[3]), generator)
    if drawn is None:
        return images, labels
    partner, window = drawn
    return cutmix(images, F.one_hot(labels, classes).float(), _sent(partner, images), window)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}

RESAMPLING = {"scale": scale, "rotate": rotate}
_INTEGER_RANGES = ("crop", "cutout")


def _sent(drawn: Tensor, images: Tensor) -> Tensor:
    """What was drawn on the CPU, on the images' device, without waiting for what that still has to do."""
    return drawn.to(images.device, non_blocking=True)


def _integer_range(name: str, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Lowest value and number of values of an integer draw, for rows and columns: two (2,) tensors."""
    size = torch.tensor(image_size, dtype=torch.float32)
    if name == "crop":
        reach = (size * CROP_RATIO + 0.5).floor()
        return -reach, 2 * reach + 1
    window = (size * CUTOUT_RATIO + 0.5).floor()
    return torch.zeros(2), size + 1 - window % 2


def _shifted(length: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Source of each output position under a shift, clamped, and whether it lies inside: (N, length)."""
    source = torch.arange(length, device=shift.device) + shift.long()[:, None]
    return source.clamp(0, length - 1), (source >= 0) & (source < length)


def _in_window(length: int, centre: Tensor) -> Tensor:
    """Whether each position lies in the cutout window around `centre`: (N, length)."""
    window = int(length * CUTOUT_RATIO + 0.5)
    start = centre.long()[:, None] - window // 2
    position = torch.arange(length, device=centre.device)
    return (position >= start) & (position < start + window)


def _affine(images: Tensor, linear: Tensor, align_corners: bool) -> Tensor:
    """Resample images by 2x2 maps from output to input coordinates in [-1, 1]."""
    theta = torch.cat([linear, linear.new_zeros(len(linear), 2, 1)], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=align_corners)
    return F.grid_sample(images, grid.to(images.dtype), align_corners=align_corners)
