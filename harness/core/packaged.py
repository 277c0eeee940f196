"""Files that belong to the program and are read while it runs: they come along wherever it is installed."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def packaged(package: str, *names: str) -> Path:
    """The file or folder of that name within a package of ours, in a checkout as in an installed copy."""
    return Path(str(resources.files(package))).joinpath(*names)
