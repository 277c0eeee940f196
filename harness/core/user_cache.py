"""Where this user's caches lie, which all runs on a machine share."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core import processor

COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch's compiler looks for the folder of its cache


def folder() -> Path:
    """The folder of this program's caches; RuntimeError if this user has no home."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "distillation-harness"


def keep_compiled() -> None:
    """Have torch's compiler keep there what it makes, so that later runs begin warm.

    What the user says in the environment stands; where nothing can be written, torch's own choice does. Each
    kind of processor has a folder of its own: a home may be shared by machines, and one breaks on what was
    compiled for the instructions of another.
    """
    if COMPILED in os.environ:
        return
    try:
        compiled = folder() / "compiled" / processor.kind()
        compiled.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(compiled, os.W_OK):
        os.environ[COMPILED] = str(compiled)
