"""Going through the motions of a step: every operation is seen, and almost nothing is computed.

Inside `Hollow()` results of floating-point operations are of the right shape and type, but filled with
whatever memory holds. Shapes come from torch's meta tensors. Indices, labels and small tensors stay real, so
that a method's loop draws batches and picks networks as ever: entirely fake tensors would stop at the first
decision. FLOPs of a step that takes a minute are thus counted in seconds (`torch.utils.flop_counter` counts
by shapes).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

SMALL = 256  # elements: smaller tensors are computed, since loops may decide by them
# Elements: smaller results are ones, by which loops may decide; larger ones would take time to fill.
FILLED = 2**16

_hollow: ContextVar[bool] = ContextVar("hollow", default=False)


class TooLongError(Exception):
    """The motions took longer than they were given."""


def is_hollow() -> bool:
    """Whether computations are left out at present."""
    return _hollow.get()


class Hollow(TorchDispatchMode):
    """A mode of torch in which large results are not computed; raises TooLongError after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ends = time.perf_counter() + seconds
        self._token: Token[bool] | None = None
        self._shapes: dict[Any, Any] = {}

    def __enter__(self) -> Hollow:
        """Begin to leave out computations."""
        self._token = _hollow.set(True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Compute again."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if self._token is not None:
            _hollow.reset(self._token)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of one operation, or what looks like it."""
        if time.perf_counter() > self._ends:
            raise TooLongError
        kwargs = kwargs or {}
        to_meta = str(kwargs.get("device")) == "meta"
        if to_meta or not any(_is_large(part) for part in _tensors((args, tuple(kwargs.values())))):
            return operation(*args, **kwargs)
        returned = [result.alias_info is not None for result in operation._schema.returns]
        if operation._schema.is_mutable and all(returned):
            return args[0] if args and _is_large(args[0]) else operation(*args, **kwargs)
        if any(returned):
            return operation(*args, **kwargs)  # a view costs nothing
        key = (operation, _signature(args), _signature(tuple(kwargs.items())))
        if key not in self._shapes:
            self._shapes[key] = _shapes_of(operation, args, kwargs)
        shapes = self._shapes[key]
        return operation(*args, **kwargs) if shapes is None else tree_map_only(Tensor, _blank, shapes)


def _is_large(value: Any) -> bool:
    """Whether it takes time to compute with: a large tensor, but for those that are meta tensors anyway."""
    if not isinstance(value, Tensor) or value.device.type == "meta":
        return False
    return value.numel() >= SMALL and value.is_floating_point()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _signature(value: Any) -> Any:
    """Arguments as something that is equal where results have equal shapes; hashable."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(map(_signature, value))
    return value


def _shapes_of(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Results as meta tensors; None if their shapes depend on values, or if they are no floating point."""
    try:
        shapes = operation(*tree_map_only(Tensor, _shape_of, args), **_on_meta(kwargs))
    except (NotImplementedError, RuntimeError):
        return None
    return shapes if all(part.is_floating_point() for part in _tensors(shapes)) else None


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    moved = tree_map_only(Tensor, _shape_of, kwargs)
    if isinstance(moved.get("device"), (str, torch.device)):
        moved = {**moved, "device": torch.device("meta")}
    return {name: value for name, value in moved.items() if name != "generator"}


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _blank(shape: Tensor) -> Tensor:
    blank = torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype, device="cpu")
    return blank.fill_(1) if blank.numel() < FILLED else blank
