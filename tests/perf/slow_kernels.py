"""A pytest plugin that makes BACON's kernel slower, to show that the gate notices: `-p slow_kernels`."""

from __future__ import annotations

from methods import kernels

_fast = kernels.class_moments


def _slow(*arguments: object) -> object:
    for _ in range(2):
        _fast(*arguments)
    return _fast(*arguments)


kernels.class_moments = _slow
