"""What an importer hands over, and the limits and shapes that all of them share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data import Transform


@dataclass(frozen=True)
class Imported:
    """One distilled set as its file holds it, before anything is converted.

    images: 4-D, in the authors' layout, number format and normalisation.
    labels: class indices, or a row of numbers for each image.
    experiment: which of the file's sets it is, from 0; authors repeat their distillation in one file.
    claimed: the accuracy in [0, 1] that the file itself gives, if it does.
    transform, class_names, factor, augmentation: known for sets of this harness only.
    notes: what a reader of the result should know about this format or file.
    """

    importer: str
    images: Tensor
    labels: Tensor
    experiment: int = 0
    claimed: float | None = None
    learned_lr: float | None = None
    transform: Transform | None = None
    class_names: tuple[str, ...] | None = None
    factor: int | None = None
    augmentation: str | None = None
    notes: tuple[str, ...] = ()


def as_tensor(value: Any, what: str, path: Path) -> Tensor:
    """A detached CPU tensor from a tensor or an array; UserError for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    raise UserError(f"{path}: expected a tensor or an array of numbers as {what}, found {kind_of(value)}")


def pair(value: Any, path: Path) -> tuple[Tensor, Tensor]:
    """Images and labels from a pair of them; UserError unless it is one."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UserError(f"{path}: expected a pair (images, labels), found {kind_of(value)}")
    return as_tensor(value[0], "images", path), as_tensor(value[1], "labels", path)


def kind_of(value: Any) -> str:
    """What something is, for people: `dict with keys a, b`, `list of 3`."""
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(str, list(value)[:6])) or '(none)'}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def shown(size: float) -> str:
    """Bytes for people: `12.3 MiB`."""
    return f"{size / 2**20:,.1f} MiB"


def refuse_large(path: Path, size: float, limit: int, what: str) -> None:
    """UserError if something of a file would take more than `limit` bytes."""
    if size > limit:
        raise UserError(
            f"{path}: {what} would take {shown(size)}, more than the {shown(limit)} that a distilled set of "
            "this dataset can need; nothing was read"
        )


def array_bytes(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array as its shape says, whatever its strides."""
    return math.prod(shape) * itemsize


def refuse_large_tensors(path: Path, tensors: Iterable[Tensor], limit: int) -> None:
    """UserError if these tensors, laid out in full, are larger together than `limit` bytes."""
    for tensor in tensors:
        refuse_large(path, array_bytes(tensor.shape, tensor.element_size()), limit, "a tensor")
