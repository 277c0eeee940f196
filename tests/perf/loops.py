"""Plain reference loops, one iteration of a method written its authors' way, to be timed beside ours.

A file `*_loop.py` or `*_loops.py` of this folder has them under `LOOPS`, by the method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.core.context import Context
from harness.core.data import Dataset


@dataclass(frozen=True)
class Loop:
    """A method's plain loop: `plain(data, ipc)` returns a function that makes one of the method's iterations.

    settings: overrides of the method's CIFAR-10 settings under which both sides are measured. ours: what is
    run in place of the method's `distill`, for a loop that is no method's; it is to name its loop "distill".
    """

    plain: Callable[[Dataset, int], Callable[[], None]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    ours: Callable[[Dataset, int, Context], None] | None = None


def loop_files() -> list[Path]:
    """The files that have loops."""
    return sorted(Path(__file__).parent.glob("*_loop*.py"))


def all_loops() -> dict[str, Loop]:
    """The loops of all files, by method."""
    found: dict[str, Loop] = {}
    for path in loop_files():
        found |= import_module(path.stem).LOOPS
    return found
