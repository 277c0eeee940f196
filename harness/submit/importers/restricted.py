"""Files that are pickles inside, read without executing what they say.

A pickle is a program. Here its instructions are looked through before any is followed, and only the few
functions that rebuild tensors and arrays may be named in it, each in a version that checks sizes first.
Torch's own files go through torch's restricted reader (`weights_only=True`), first without any memory for
their tensors, so that their sizes are known before they are read.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from harness.core.errors import UserError
from harness.submit.importers.common import NUMBERS, array_bytes, refuse_large, refuse_large_tensors
from harness.submit.importers.sniff import LEGACY_TORCH, SAVE_AGAIN, damaged

Global = tuple[str, str]
RESTORED = NUMBERS + "US"  # kinds of arrays that hold no objects
NUMPY_HOMES = ("numpy.core", "numpy._core")  # up to NumPy 1 and from 2 on

# Types that the damaged or malicious content of a file may raise on its way through the readers.
BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    AssertionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    UnicodeDecodeError,
)


def load_torch(path: Path, limit: int) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; UserError if it is large, damaged or would run code."""
    _refuse_inflated(path, limit)
    try:
        with torch.serialization.safe_globals(_allowed_in_torch_files()):
            sizes = torch.load(path, map_location="meta", weights_only=True)
            refuse_large_tensors(path, _tensors(sizes), limit)
            return torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        raise _refusal(path, error) from None


def load_pickle(path: Path, limit: int) -> Any:
    """What `pickle.dump` wrote to `path`: tensors, arrays, plain containers; UserError for anything else."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    content = path.read_bytes()
    try:
        _look_through(content)
    except BROKEN as error:
        raise damaged(path, error) from None
    try:
        return _RestrictedUnpickler(content, path, limit).load()
    except BROKEN as error:
        raise _refusal(path, error) from None


class RestoredArray(np.ndarray[Any, np.dtype[Any]]):
    """An array that can only come to be as pickles restore one: empty, then filled with numbers or text."""

    def __new__(cls, *_: Any) -> Any:
        """Refuse: an array that is made, not restored, could ask for any amount of memory."""
        raise ValueError("an array is asked for without its data")

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and bytes, which NumPy compares in length."""
        if state[-3].kind not in RESTORED:
            raise ValueError(f"an array of {state[-3]} is no array of numbers")
        super().__setstate__(state)


class InertNamespace:
    """Settings that were saved beside the set, as `argparse` holds them: names and values, no behaviour."""


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of `_rebuilders` and no other."""

    def __init__(self, content: bytes, path: Path, limit: int) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path = path
        self._known = _rebuilders(path, limit)

    def find_class(self, module: str, name: str) -> Any:
        """The function of that name, if it is one that rebuilds tensors or arrays."""
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        if (module, name) not in self._known:
            raise _forbidden(self._path, f"{module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Nothing: a plain pickle refers to nothing outside of it."""
        raise UserError(f"{self._path} refers to data outside of it; save it with pickle.dump or torch.save")


def _rebuilders(path: Path, limit: int) -> Mapping[Global, Callable[..., Any]]:
    """The functions that a pickle of tensors and arrays names, in versions that check sizes first."""

    def tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        refuse_large(path, array_bytes(size, storage.dtype.itemsize), limit, "a tensor")
        return _tensor(storage, offset, tuple(size), tuple(stride))

    known: dict[Global, Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encoded,
        **{(module, name): call for (module, name), call in _ARRAYS_AND_SETTINGS.items()},
    }
    for home in NUMPY_HOMES:
        known[f"{home}.numeric", "_frombuffer"] = _from_buffer
    return known


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A tensor over the numbers of a storage; torch itself would make the storage longer where it ends."""
    held = _bytes_of(storage) // storage.dtype.itemsize
    furthest = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and furthest >= held):
        raise ValueError("a tensor reaches beyond its data")
    rebuilt: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    return rebuilt


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _empty_array(_: Any, shape: tuple[int, ...], code: Any) -> Any:
    """The array that NumPy's pickles begin with and then fill."""
    if tuple(shape) != (0,):
        raise ValueError("an array is asked for without its data")
    return np.ndarray.__new__(RestoredArray, (0,), np.uint8)


def _number(dtype: Any, content: Any) -> Any:
    """One number of NumPy; of other types, `scalar` hands back any object."""
    if dtype.kind not in NUMBERS:
        raise ValueError(f"a scalar of {dtype} is no number")
    return scalar(dtype, content)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(content, dtype=dtype).reshape(shape, order=order)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes that old protocols write as text; other encodings could inflate them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes are encoded as {encoding}")
    return text.encode("latin1")


def _look_through(content: bytes) -> None:
    """Go through the instructions without following any.

    Refuses lengths beyond the end of the file and memo numbers that would make the reader allocate at will.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
            raise ValueError("it numbers its parts beyond their count")


def _storage(content: bytes) -> Any:
    """The numbers of a tensor, which torch packs into a pickle as a file of its own."""
    claimed = torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
    if _bytes_of(claimed) > len(content):
        raise ValueError("a tensor claims more data than the file holds")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _bytes_of(storage: Any) -> int:
    """Bytes of a typed storage, asked of the untyped one in it: torch warns of all else."""
    return int(storage._untyped_storage.nbytes())


# What is harmless beside tensors: NumPy's arrays and numbers of any type, and settings.
_ARRAYS_AND_SETTINGS: Mapping[Global, Callable[..., Any]] = {
    ("numpy", "ndarray"): RestoredArray,
    ("numpy", "dtype"): np.dtype,
    ("argparse", "Namespace"): InertNamespace,
    **{(f"{home}.multiarray", "_reconstruct"): _empty_array for home in NUMPY_HOMES},
    **{(f"{home}.multiarray", "scalar"): _number for home in NUMPY_HOMES},
}


def _allowed_in_torch_files() -> list[Any]:
    """What torch's reader is allowed besides its own: names, and the types of NumPy that it may fill."""
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    named = [(call, f"{module}.{name}") for (module, name), call in _ARRAYS_AND_SETTINGS.items()]
    return [*named, *sorted(kinds, key=str)]


def _refuse_inflated(path: Path, limit: int) -> None:
    """UserError if the file, or what its parts unpack to, is too large."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
        except BROKEN as error:
            raise damaged(path, error) from None
        refuse_large(path, unpacked, limit, "its content")
        # Torch itself reads numbers whose checksum is wrong.
        if (damage := _damage(path)) is not None:
            raise damaged(path, damage)


def _tensors(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """All tensors in nested containers, each container once."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)


def _forbidden(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} is refused: as a pickle it calls {name}, and a distilled set holds tensors and arrays only; "
        "nothing of it was run. Save it again as safetensors, or as tensors with torch.save"
    )


def _refusal(path: Path, error: BaseException) -> UserError:
    """One line for what torch's or our reader did not follow: damaged files are told from strange ones."""
    text = str(error)
    named = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL|class|type) ([\w.]+\.[\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return _forbidden(path, named[1])
    cut_short = isinstance(error, EOFError) or "unexpected EOF" in text
    if (damage := text or "cut short" if cut_short else _damage(path)) is not None:
        return damaged(path, damage)
    reason = " ".join(text.split())[:160] or type(error).__name__
    return UserError(
        f"{path} is whole, but holds more than tensors, arrays and numbers, or contradicts itself "
        f"({reason}); {SAVE_AGAIN}"
    )


def _damage(path: Path) -> str | None:
    """What is broken about the file itself, whatever it holds; None if it is whole."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            return None if broken is None else f"the checksum of {broken} is wrong"
        content = path.read_bytes()
        (_look_through_legacy if content.startswith(LEGACY_TORCH) else _look_through)(content)
        return None
    except BROKEN as error:
        return " ".join(str(error).split()) or type(error).__name__


def _look_through_legacy(content: bytes) -> None:
    """As `_look_through`, of what torch wrote before it wrote zips: pickles, then numbers."""
    stream = io.BytesIO(content)
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
