"""What an importer hands over, and the limits and shapes that all of them share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.core.data import Transform
    from harness.core.learned_steps import LearnedSteps

WIDEST = 8  # bytes of a number that torch knows
NUMBERS = "fiub"


@dataclass(frozen=True)
class Imported:
    """One distilled set as its file holds it, before anything is converted.

    images: 4-D, in the authors' layout, number format and normalisation.
    labels: class numbers, or a row of numbers for each image.
    experiment: which of the file's sets it is, from 0; authors repeat their distillation in one file.
    claims: mean accuracy in [0, 1] that the file itself gives, by the name of the network that it is of.
    transform, class_names, factor, augmentation, classes, steps: known for sets of this harness only;
        `classes` (n,) of images whose soft labels do not tell.
    notes: what a reader of the result should know about this format or file.
    """

    importer: str
    images: Tensor
    labels: Tensor
    experiment: int = 0
    claims: Mapping[str, float] = field(default_factory=dict)
    learned_lr: float | None = None
    transform: Transform | None = None
    class_names: tuple[str, ...] | None = None
    factor: int | None = None
    augmentation: str | None = None
    classes: Tensor | None = None
    steps: LearnedSteps | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetFacts:
    """What is known of a set before its file is read.

    ipc: stored images per class, if stated. classes: of the dataset. limit: bytes that it may take.
    """

    ipc: int | None
    classes: int
    limit: int


def as_tensor(value: Any, what: str, path: Path) -> Tensor:
    """A detached CPU tensor from a tensor, an array or a list of them or of numbers; float8 as float32.

    UserError for anything else.
    """
    if isinstance(value, torch.Tensor):
        return _plain(value, what, path)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in NUMBERS:
        native = value.astype(_native(value.dtype), copy=False)
        return torch.from_numpy(np.array(native))
    if isinstance(value, (list, tuple)) and value:
        return _joined(value, what, path)
    raise _no_numbers(value, what, path)


def _plain(value: Tensor, what: str, path: Path) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        kind = "complex" if value.is_complex() else "quantised" if value.is_quantized else "sparse"
        raise UserError(f"{path}: {what} are a {kind} tensor; expected one of plain numbers")
    plain = value.detach().cpu()
    return plain.float() if plain.is_floating_point() and plain.element_size() == 1 else plain


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of numbers that torch has for one of NumPy: in this machine's order of bytes."""
    return np.dtype(np.float64) if dtype.itemsize > WIDEST else dtype.newbyteorder("=")


def _joined(values: Sequence[Any], what: str, path: Path) -> Tensor:
    """One tensor of a list's items, which are of one shape."""
    if all(isinstance(value, (bool, int, float)) for value in values):
        return torch.tensor(values)
    parts = [as_tensor(value, what, path) for value in values]
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        found = ", ".join(map(str, sorted(shapes)[:4]))
        raise UserError(f"{path}: {what} are a list of tensors of different shapes ({found})")
    return torch.stack(parts)


def _no_numbers(value: Any, what: str, path: Path) -> UserError:
    return UserError(f"{path}: expected a tensor or an array of numbers as {what}, found {kind_of(value)}")


def is_array(value: Any) -> bool:
    """Whether this is a tensor or an array, not a list of them."""
    return isinstance(value, (torch.Tensor, np.ndarray))


def kind_of(value: Any) -> str:
    """What something is, for people: `a dict with keys a, b`, `a list of 3: int, str, ...`."""
    if isinstance(value, dict):
        more = ", ..." if len(value) > 8 else ""
        return f"a dict with keys {', '.join(map(str, list(value)[:8])) or '(none)'}{more}"
    if isinstance(value, (list, tuple)):
        held = [_short(item) for item in value[:4]]
        more = ", ..." if len(value) > 4 else ""
        return f"a {type(value).__name__} of {len(value)}: {', '.join(held)}{more}"
    return f"a {_short(value)}"


def _short(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"array {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "dtype"):
        return f"array of {value.dtype}, which is not read"
    return f"{name} of {len(value)}" if isinstance(value, (dict, list, tuple)) else name


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
