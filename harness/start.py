"""The first thing that our processes do; nothing is imported that a file where they start could shadow."""

from __future__ import annotations

import sys


def leave_start_folder() -> None:
    """Take off the path what `python -m` and `python FILE` put first: the current folder or the file's.

    Nothing of ours is found by way of it; a user's `random.py` or `torch/` there would be.
    """
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]
