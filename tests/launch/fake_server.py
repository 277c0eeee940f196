"""Stands for `harness.launch.forkserver`: forks stand-ins for workers, and starts without torch.

Each start is a line in the file that FAKE_SERVERS names; a file of that name with `.broken` lets it fail.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.fake_worker import work

from harness.launch import forkserver


def prepare() -> None:
    """Import nothing; tell of the start."""
    told = Path(os.environ["FAKE_SERVERS"])
    with told.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if told.with_suffix(".broken").exists():
        raise ModuleNotFoundError("No module named 'torch'")


if __name__ == "__main__":
    sys.exit(forkserver.main(work, prepare))
