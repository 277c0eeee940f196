"""The networks of the benchmark: the ConvNet and the cross-architecture zoo, once.

Names are available without torch, so that the command line stays quick; what needs torch loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harness.core.nets.names import ARCHS, canonical, describe

if TYPE_CHECKING:
    from harness.core.nets.base import Features, Network
    from harness.core.nets.factory import build, reinitialise

__all__ = ["ARCHS", "Features", "Network", "build", "canonical", "describe", "reinitialise"]

_NEEDS_TORCH = {
    "Features": "harness.core.nets.base",
    "Network": "harness.core.nets.base",
    "build": "harness.core.nets.factory",
    "reinitialise": "harness.core.nets.factory",
}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name]), name)
