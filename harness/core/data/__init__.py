"""Datasets behind one small interface.

`catalog` names and identifies datasets without importing torch (the command line and the planner live on
it), so the rest of this package is imported only when one of its names is asked for. `toy` is imported from
its own module: `from harness.core.data.toy import toy`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harness.core.data.catalog import DatasetRow, DatasetSpec, default_data_dir, describe, parse

if TYPE_CHECKING:
    from harness.core.data.dataset import Dataset, HeldOut, Samples, Split
    from harness.core.data.firewall import sealed
    from harness.core.data.loading import load
    from harness.core.data.sampling import ClassBatch, ClassIndex, draw_uniform
    from harness.core.data.transforms import (
        ZCA,
        Normalization,
        RegularisedZCA,
        Transform,
        transform_from_state,
    )

__all__ = [
    "ZCA",
    "ClassBatch",
    "ClassIndex",
    "Dataset",
    "DatasetRow",
    "DatasetSpec",
    "HeldOut",
    "Normalization",
    "RegularisedZCA",
    "Samples",
    "Split",
    "Transform",
    "default_data_dir",
    "describe",
    "draw_uniform",
    "load",
    "parse",
    "sealed",
    "transform_from_state",
]

_HOME = {
    "Dataset": "dataset",
    "HeldOut": "dataset",
    "Samples": "dataset",
    "Split": "dataset",
    "sealed": "firewall",
    "load": "loading",
    "ClassBatch": "sampling",
    "ClassIndex": "sampling",
    "draw_uniform": "sampling",
    "Normalization": "transforms",
    "RegularisedZCA": "transforms",
    "Transform": "transforms",
    "ZCA": "transforms",
    "transform_from_state": "transforms",
}


def __getattr__(name: str) -> object:
    """Import a torch-based name at its first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
