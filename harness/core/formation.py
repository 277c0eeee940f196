"""Multi-formation: a stored image is a grid of f x f tiles, each of which decodes to a whole image.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC, ICML 2022), and Zhao et
al., "Improved Distribution Matching" (IDM, CVPR 2023; `number_sign_augment` in the authors' code, f = 2). The
tile order is IDM's: column by column, top to bottom. IDC goes row by row, which gives the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import UserError


def decode(images: Tensor, factor: int, fill: float = 0.0) -> Tensor:
    """Decode stored images (n, C, H, W) to (n * factor^2, C, H, W), all first tiles, then all second, ...

    Each tile is upsampled bilinearly to the full size; gradients flow through. Sides that the factor does not
    divide are first extended to the right and at the bottom by pixels of the value `fill`, as IDC does.
    """
    if factor == 1:
        return images
    size = (images.shape[2], images.shape[3])
    missing = (-size[0] % factor, -size[1] % factor)
    if any(missing):
        images = F.pad(images, (0, missing[1], 0, missing[0]), value=fill)
    padded = (images.shape[2], images.shape[3])
    tiles = torch.cat([images[:, :, rows, columns] for rows, columns in _tiles(padded, factor)])
    return F.interpolate(tiles, size=size, mode="bilinear", align_corners=False)


def decode_by_class(images: Tensor, factor: int, classes: int) -> Tensor:
    """Decode class-major images (C*ipc, ...) so that each class's factor^2 * ipc images stay together."""
    if factor == 1:
        return images
    decoded = decode(images, factor)
    by_tile = decoded.view(factor**2, classes, len(images) // classes, *images.shape[1:])
    return by_tile.transpose(0, 1).flatten(0, 2)


def compose(parts: Sequence[Tensor], factor: int, *, nearest: bool = False) -> Tensor:
    """Put factor^2 batches of whole images (n, C, H, W), shrunk, into the tiles of n images.

    Shrunk by averaging as IDM does, or to the `nearest` pixels as IDC does. Of sides that the factor does not
    divide, the first tiles get a pixel more.
    """
    if factor == 1:
        return parts[0].clone()
    size = (parts[0].shape[2], parts[0].shape[3])
    images = torch.empty_like(parts[0])
    for part, (rows, columns) in zip(parts, _tiles(size, factor), strict=True):
        images[:, :, rows, columns] = _shrunk(part, images[:, :, rows, columns].shape[2:], nearest)
    return images


def _shrunk(images: Tensor, size: Sequence[int], nearest: bool) -> Tensor:
    if nearest:
        return F.interpolate(images, size=tuple(size), mode="nearest")
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)


def _tiles(size: tuple[int, int], factor: int) -> list[tuple[slice, slice]]:
    """Rows and columns of each tile of an image of `size` (height, width), column by column."""
    if factor > min(size):
        raise UserError(f"multi-formation factor {factor} leaves no pixel of images of {size[0]}x{size[1]}")
    return [(rows, columns) for columns in _cells(size[1], factor) for rows in _cells(size[0], factor)]


def _cells(length: int, factor: int) -> list[slice]:
    """`factor` slices that cover `length` pixels; the first ones get the pixels that are left over."""
    ends = [k * (length // factor) + min(k, length % factor) for k in range(factor + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
