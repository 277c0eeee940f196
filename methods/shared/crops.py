"""Random resized crops, and RDED's choice of those that a teacher finds easiest.

Sun, Shi, Yu & Lin, "On the Diversity and Realism of Distilled Dataset", CVPR 2024 (arXiv 2312.03526): of some
crops of each of `mipc` real images of a class, that with the lowest cross entropy under a teacher stays, and
of these the lowest ones are taken, lowest first. RDED puts them together to images; SRe2L++ and FADRM start
from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.errors import UserError

SMALLEST_AREA = 0.08  # of a random resized crop, as a share of the image
ASPECTS = (3 / 4, 4 / 3)  # the usual range of width / height
_ATTEMPTS = 10

# Normalised images (n, C, H, W) -> logits (n, classes), without gradients.
Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scoring:
    """How many crops there are to choose from.

    images: real images of a class, or all if it has fewer. crops: of each image. side: (rows, columns) of a
    crop.
    """

    images: int
    crops: int
    side: tuple[int, int]


def draw_windows(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    smallest: float = SMALLEST_AREA,
    aspects: tuple[float, float] = ASPECTS,
) -> Tensor:
    """Windows (count, 4) of random resized crops: top, left, height and width, on the CPU.

    The area is uniform between `smallest` and 1 times that of an image of `size` (H, W), the logarithm of
    width / height uniform within `aspects`. Where none of ten attempts fits into the image, the window is its
    largest middle part of an allowed aspect.
    """
    u = torch.rand(count, _ATTEMPTS + 1, 2, generator=generator)
    tried, place = u[:, :-1], u[:, -1]
    area = size[0] * size[1] * (smallest + (1 - smallest) * tried[..., 0])
    low, high = map(math.log, aspects)
    root = torch.exp((low + (high - low) * tried[..., 1]) / 2)
    sides = torch.stack([area.sqrt() / root, area.sqrt() * root], dim=-1).round()
    limits = torch.tensor(size, dtype=sides.dtype)
    fits = ((sides >= 1) & (sides <= limits)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    chosen = sides[torch.arange(count), first]
    corner = (place * (limits - chosen + 1)).floor()
    missed = ~fits.any(dim=1)[:, None]
    widest = torch.tensor(_widest(size, aspects), dtype=sides.dtype)
    chosen = torch.where(missed, widest, chosen)
    corner = torch.where(missed, ((limits - widest) / 2).floor(), corner)
    return torch.cat([corner, chosen], dim=1).long()


def _widest(size: tuple[int, int], aspects: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest window of an allowed aspect."""
    height, width = size
    return min(height, round(width / aspects[0])), min(width, round(height * aspects[1]))


def resized_crops(images: Tensor, windows: Tensor, side: tuple[int, int]) -> Tensor:
    """The windows (n, 4) of images (n, C, H, W), each its own, resized to `side`: (n, C, *side).

    Bilinear with half-pixel centres; where pixels become fewer, over as many more (anti-aliasing).
    """
    windows = windows.to(images.device, non_blocking=True)
    rows = _weights(windows[:, 0], windows[:, 2], images.shape[2], side[0])
    columns = _weights(windows[:, 1], windows[:, 3], images.shape[3], side[1])
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _weights(start: Tensor, extent: Tensor, length: int, side: int) -> Tensor:
    """Share (n, side, length) of each of an axis' pixels in each pixel of the resized window."""
    step = (extent / side)[:, None, None]
    centre = start[:, None, None] + (torch.arange(side, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(length, device=start.device)
    share = (1 - (pixel + 0.5 - centre).abs() / step.clamp_min(1)).clamp_min(0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + extent)[:, None, None])
    share = share * inside
    return share / share.sum(dim=2, keepdim=True)


def padded(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops (n, C, h, w) in the middle of zeros (n, C, *size); what is odd lies below and to the right."""
    rows, columns = size[0] - crops.shape[2], size[1] - crops.shape[3]
    return F.pad(crops, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


@torch.no_grad()
def crop_scores(answer: Answer, crops: Tensor, label: int, size: tuple[int, int]) -> Tensor:
    """Cross entropy (n, m) of the class `label` on each of m crops (n, m, C, h, w) of n images.

    `answer` sees them padded to `size`.
    """
    logits = answer(padded(crops.flatten(0, 1), size))
    labels = torch.full((len(logits),), label, device=logits.device)
    return F.cross_entropy(logits, labels, reduction="none").view(crops.shape[:2])


def easiest(crops: Tensor, scores: Tensor, keep: int) -> Tensor:
    """The `keep` crops (keep, C, h, w) of lowest score, one an image, lowest first.

    crops: (n, m, C, h, w); scores: (n, m).
    """
    lowest, which = scores.min(dim=1)
    rows = lowest.argsort(stable=True)[:keep]
    return crops[rows, which[rows]]


def easy_crops(
    context: Context, data: Dataset, answer: Answer, keep: int, scoring: Scoring, *, name: str = "crops"
) -> Tensor:
    """The `keep` easiest crops of each class, class after class: (classes * keep, C, *side).

    Draws and scores a class a step of the loop `name`. UserError if there are too few images.
    """
    _check_counts(data, keep, scoring)
    size = (data.shape[1], data.shape[2])
    drawn = data.index.draw(scoring.images, context.generator(f"{name}-images"))
    of_class = drawn.indices.split(list(drawn.sizes))
    kept = torch.zeros(data.num_classes, keep, data.shape[0], *scoring.side, device=data.device)
    generator = context.generator(f"{name}-windows", on_cpu=True)
    for label in context.steps(data.num_classes, {"kept": kept}, name=name, budgeted=False):
        images = data.batch(of_class[label]).repeat_interleave(scoring.crops, dim=0)
        windows = draw_windows(len(images), size, generator, aspects=(1.0, 1.0))
        crops = resized_crops(images, windows, scoring.side).unflatten(0, (-1, scoring.crops))
        kept[label] = easiest(crops, crop_scores(answer, crops, label, size), keep)
    return kept.flatten(0, 1)


def _check_counts(data: Dataset, keep: int, scoring: Scoring) -> None:
    """UserError unless each class gives as many crops as are to be kept, one an image."""
    if scoring.images < keep:
        raise UserError(
            f"mipc is {scoring.images}: that many crops of a class, one an image, are too few for the {keep} "
            f"that are needed; set mipc to at least {keep}"
        )
    smallest = min(data.index.counts)
    if smallest < keep:
        label = data.index.counts.index(smallest)
        raise UserError(
            f"class {label} ({data.class_names[label]}) has {smallest} images, of mipc = {scoring.images}, "
            f"too few for the {keep} crops that are needed, one an image; choose a smaller ipc"
        )


def assembled(patches: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Images (ipc, C, *size) of patches (ipc * factor^2, C, h, w) of one class, in RDED's order.

    The k-th ipc patches fill cell k, row by row; each is resized to its cell by the nearest pixels. Of sides
    that the factor does not divide, the first cells get a pixel more.
    """
    blocks = patches.split(len(patches) // factor**2)
    rows, columns = (torch.arange(length).tensor_split(factor) for length in size)
    cells = [(r, c) for r in rows for c in columns]
    images = patches.new_zeros(len(blocks[0]), patches.shape[1], *size)
    for block, (r, c) in zip(blocks, cells, strict=True):
        images[:, :, r[0] : r[-1] + 1, c[0] : c[-1] + 1] = F.interpolate(block, (len(r), len(c)))
    return images
