"""That `harness` and `methods` are this harness's own, whatever else is called so where Python is started.

Repositories of other benchmarks have folders of these names, and `python -m` looks in the current folder
first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from harness.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OWN = ("harness", "methods")


class OwnPackages(MetaPathFinder):
    """Finds this harness's two packages beside each other, before the path is searched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of one of the two; nothing is known of other modules."""
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in OWN else None


def claim() -> None:
    """Let `harness` and `methods` mean this harness's own from here on.

    UserError if another package of such a name was imported before: this process cannot have both.
    """
    for name in OWN:
        other = shadow(name)
        if other is None:
            continue
        if name in sys.modules:
            raise UserError(
                f"`{name}` is {other} here, which shadows this harness's own {ROOT / name}; start Python "
                "in a folder without it (and take it off PYTHONPATH), or type dd-harness"
            )
        sys.meta_path.insert(0, OwnPackages())


def shadow(name: str) -> str | None:
    """The file or folder that an import of `name` gets in place of this harness's own package; None: its own.

    Where neither is found, that is nowhere.
    """
    module = sys.modules.get(name)
    spec = find_spec(name) if module is None else module.__spec__
    if spec is None:
        return "nowhere to be found"
    origin = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    own = ROOT / name
    return None if own in (Path(origin).resolve(), Path(origin).resolve().parent) else origin
