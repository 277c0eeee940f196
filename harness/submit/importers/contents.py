"""From a file to what it holds, by its first bytes, whatever it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.submit.importers.arrays import load_npy, load_npz
from harness.submit.importers.restricted import load_pickle, load_torch
from harness.submit.importers.sniff import container_of


def load(path: Path, limit: int) -> Any:
    """Tensors, arrays, numbers and containers of them; UserError for what is large, damaged or strange."""
    container = container_of(path)
    if container == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    readers = {"torch": load_torch, "pickle": load_pickle, "npz": load_npz, "npy": load_npy}
    return readers[container](path, limit)
