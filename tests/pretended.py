"""A second device that is none: where tensors would lie on a machine with a GPU, seen on one without.

What was made for or sent to a device object lies on the pretended device, and so does all that is computed
from it; the rest, such as draws of a CPU generator, lies on the host. So a CPU shows where the host would
wait for a GPU: where it reads a number that lies there, where a shape depends on one, and where it sends a
tensor and does not go on (`non_blocking`). `Device.waits` has these places in our own code, while `noting`.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.engine.provenance import ROOT

DEVICE, HOST = "device", "host"
READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}
READERS = ("tolist", "numpy", "cpu", "__array__")
MAKERS = (
    *("rand", "randn", "randint", "randperm", "zeros", "ones", "full", "empty", "arange", "linspace"),
    *("eye", "tril_indices", "triu_indices"),
)
MASKS = (torch.bool, torch.uint8)
BY_INDEX = ("index", "index_put", "index_put_")
# Shows progress or saves it: there the host must wait.
EXEMPT = ("harness/core/progress.py", "harness/core/checkpoint.py")
OWN = ("harness/", "methods/")
# With the number of classes given, it looks at its labels on the CPU alone.
HARMLESS = "F.one_hot("


def place_of(tensor: Tensor) -> str | None:
    """Where a tensor lies; None where nothing tells."""
    found: str | None = getattr(tensor, "_pretended_place", None)
    return found


def put(tensor: Tensor, place: str | None) -> Tensor:
    """Note where a tensor lies."""
    tensor._pretended_place = place  # type: ignore[attr-defined]
    return tensor


class Device(TorchDispatchMode):
    """Follows where tensors lie, and notes each place of our code at which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.noting = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation; what comes of it lies where its inputs do."""
        inputs = _tensors((args, kwargs))
        places = {place_of(tensor) for tensor in inputs}
        if DEVICE in places and _waits(func.overloadpacket.__name__, args):
            self.note(func.overloadpacket.__name__)
        found = func(*args, **(kwargs or {}))
        place = DEVICE if DEVICE in places else HOST if HOST in places else None
        for tensor in _tensors(found):
            if not any(tensor is one for one in inputs):
                put(tensor, place)
        return found

    def note(self, what: str) -> None:
        """Note that the host waits here, if it should not."""
        if not self.noting:
            return
        frames = [frame for frame in traceback.extract_stack() if _own(frame.filename)]
        if any(_relative(frame.filename).startswith(EXEMPT) for frame in frames):
            return
        last = frames[-1]
        if HARMLESS not in (last.line or ""):
            self.waits[f"{_relative(last.filename)} {last.name}: {what}"] += 1


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """All that happens inside happens on the pretended device."""
    with torch.device("meta"):
        torch.empty(0)  # at the first use torch notes which functions make tensors: its own, not ours below
    device = Device()
    with monkeypatch.context() as patch, device:
        patch.setattr(Tensor, "to", _sending(Tensor.to, device))
        patch.setattr(nn.Parameter, "__new__", _keeping_place(nn.Parameter.__new__))
        patch.setattr(nn.Module, "to", _moving(nn.Module.to))
        for name in READERS:
            patch.setattr(Tensor, name, _reading(getattr(Tensor, name), name, device))
        for name in MAKERS:
            patch.setattr(torch, name, _making(getattr(torch, name)))
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, _copying(getattr(torch, name), device))
        yield device


def _tensors(found: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def _own(filename: str) -> bool:
    return _relative(filename).startswith(OWN)


def _relative(filename: str) -> str:
    return filename.removeprefix(f"{ROOT}/")


def _waits(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation on tensors of a device makes the host wait."""
    if name in BY_INDEX:
        return any(tensor.dtype in MASKS for tensor in _tensors(args[1]))
    if name == "copy_" and {place_of(args[0]), place_of(args[1])} == {DEVICE, HOST}:
        return len(args) < 3 or not args[2]
    return name in READS


def _wanted(wishes: Iterable[Any]) -> str | None:
    """Where `to` is to bring a tensor by its arguments; device objects alone speak of the device."""
    for wish in wishes:
        if isinstance(wish, torch.device):
            return DEVICE
        if isinstance(wish, Tensor):
            return place_of(wish)
    return None


def _sending(to: Callable[..., Tensor], device: Device) -> Callable[..., Tensor]:
    def pretending(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        found = to(tensor, *args, **named)
        if _wanted((*args, *named.values())) != DEVICE or place_of(tensor) == DEVICE:
            return found
        if place_of(tensor) == HOST and not named.get("non_blocking"):
            device.note("to")
        return put(torch.ops.aten.alias(tensor) if found is tensor else found, DEVICE)

    return pretending


def _moving(to: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def pretending(module: nn.Module, *args: Any, **named: Any) -> nn.Module:
        found = to(module, *args, **named)
        if _wanted((*args, *named.values())) == DEVICE:
            for tensor in (*found.parameters(), *found.buffers()):
                put(tensor, DEVICE)
        return found

    return pretending


def _keeping_place(new: Callable[..., nn.Parameter]) -> Callable[..., nn.Parameter]:
    def pretending(cls: Any, data: Tensor | None = None, requires_grad: bool = True) -> nn.Parameter:
        found = new(cls, data, requires_grad)
        if data is not None:
            put(found, place_of(data))
        return found

    return pretending


def _reading(read: Callable[..., Any], name: str, device: Device) -> Callable[..., Any]:
    def pretending(tensor: Tensor, *args: Any, **named: Any) -> Any:
        if place_of(tensor) == DEVICE:
            device.note(name)
        found = read(tensor, *args, **named)
        if isinstance(found, Tensor):
            return put(torch.ops.aten.alias(tensor) if found is tensor else found, HOST)
        return found

    return pretending


def _making(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pretending(*args: Any, **named: Any) -> Tensor:
        return put(make(*args, **named), _wanted([named.get("device")]) or HOST)

    return pretending


def _copying(make: Callable[..., Tensor], device: Device) -> Callable[..., Tensor]:
    def pretending(data: Any, *args: Any, **named: Any) -> Tensor:
        found = make(data, *args, **named)
        if isinstance(data, Tensor):
            return found
        place = _wanted([named.get("device")]) or HOST
        if place == DEVICE:
            device.note("tensor")
        return put(found, place)

    return pretending
