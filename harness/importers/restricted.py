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
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from harness.errors import UserError
from harness.importers.common import array_bytes, refuse_large, refuse_large_tensors

Global = tuple[str, str]
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
    zipfile.BadZipFile,
    UnicodeDecodeError,
)


def load_torch(path: Path, limit: int) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; UserError if it is large, damaged or would run code."""
    _refuse_inflated(path, limit)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
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
        return _Reader(content, path, limit).load()
    except BROKEN as error:
        raise _refusal(path, error) from None


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names of `_rebuilders` and no other."""

    def __init__(self, content: bytes, path: Path, limit: int) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path = path
        self._known = _rebuilders(path, limit)

    def find_class(self, module: str, name: str) -> Any:
        """The function of that name, if it is one that rebuilds tensors or arrays."""
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
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): _no_array,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encoded,
    }
    for home in NUMPY_HOMES:
        known[f"{home}.multiarray", "_reconstruct"] = _empty_array
        known[f"{home}.multiarray", "scalar"] = _scalar_of(home)
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
    return np.ndarray((0,), np.uint8)


def _no_array(*_: Any) -> Any:
    """Stands for the type of arrays, which pickles name and do not call."""
    raise ValueError("an array is asked for without its data")


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


def _numpy_scalars() -> list[Any]:
    """What torch's reader needs to be allowed for accuracies that authors kept as NumPy numbers."""
    kinds = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    return [*map(_scalar_of, NUMPY_HOMES), *kinds]


def _scalar_of(home: str) -> Callable[..., Any]:
    """NumPy's function that rebuilds a number, under the name that it has in one version of NumPy."""

    def named(dtype: Any, content: bytes) -> Any:
        return scalar(dtype, content)

    named.__module__, named.__name__ = f"{home}.multiarray", "scalar"
    named.__qualname__ = "scalar"
    return named


def _refuse_inflated(path: Path, limit: int) -> None:
    """UserError if the file, or what its parts unpack to, is too large."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
        except BROKEN as error:
            raise _refusal(path, error) from None
        refuse_large(path, unpacked, limit, "its content")


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
    """One line for what torch's or our reader did not follow."""
    text = str(error)
    named = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL|class|type) ([\w.]+\.[\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return _forbidden(path, named[1])
    reason = " ".join(text.split())[:160] or type(error).__name__
    return UserError(
        f"{path} is damaged or no file of tensors ({reason}); check how it was written or downloaded"
    )
