"""Multi-formation: a stored image is a grid of f x f tiles, each of which decodes to a whole image.

Zhao et al., "Improved Distribution Matching" (IDM, CVPR 2023); `number_sign_augment` in the authors' code,
where f = 2. The tile order is theirs: column by column, top to bottom.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import UserError


def decode(images: Tensor, factor: int) -> Tensor:
    """Decode stored images (n, C, H, W) to (n * factor^2, C, H, W), all first tiles, then all second, ...

    Each tile is upsampled bilinearly to the full size; gradients flow through.
    """
    if factor == 1:
        return images
    size = (images.shape[2], images.shape[3])
    tiles = torch.cat([images[:, :, rows, columns] for rows, columns in _tiles(size, factor)])
    return F.interpolate(tiles, size=size, mode="bilinear", align_corners=False)


def decode_by_class(images: Tensor, factor: int, classes: int) -> Tensor:
    """Decode class-major images (C*ipc, ...) so that each class's factor^2 * ipc images stay together."""
    if factor == 1:
        return images
    decoded = decode(images, factor)
    by_tile = decoded.view(factor**2, classes, len(images) // classes, *images.shape[1:])
    return by_tile.transpose(0, 1).flatten(0, 2)


def compose(parts: Sequence[Tensor], factor: int) -> Tensor:
    """Put factor^2 batches of whole images (n, C, H, W), shrunk by averaging, into the tiles of n images."""
    if factor == 1:
        return parts[0].clone()
    size = (parts[0].shape[2], parts[0].shape[3])
    images = torch.empty_like(parts[0])
    for part, (rows, columns) in zip(parts, _tiles(size, factor), strict=True):
        tile = (rows.stop - rows.start, columns.stop - columns.start)
        images[:, :, rows, columns] = F.interpolate(part, size=tile, mode="bilinear", align_corners=False)
    return images


def _tiles(size: tuple[int, int], factor: int) -> list[tuple[slice, slice]]:
    height, width = size[0] // factor, size[1] // factor
    if height * factor != size[0] or width * factor != size[1]:
        raise UserError(f"multi-formation factor {factor} does not divide the image size {size[0]}x{size[1]}")
    return [
        (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        for column in range(factor)
        for row in range(factor)
    ]
