"""A benchmark harness and leaderboard for dataset distillation; `run` is the main job from Python."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]
__version__ = "0.1.0"


def run(sweep: str | os.PathLike[str] | None = None, /, **options: Any) -> pd.DataFrame:
    """Run a sweep as `python -m harness run` does, and return a frame with one row for each of its trials.

        frame = harness.run(methods=["bacon"], ipc=[1, 10], dataset="digits", scale="smoke")

    Options are those of the command line by name, `-` written `_` and `--for` as `for_`: a single value or a
    list; None stands for the default. `sweep` is a TOML file of options, those given here win. Trials run in
    processes of their own, so no `__main__` guard is needed; progress goes to stderr. What is done already is
    not run again.

    Columns are those of `harness.report.frames.flatten`: `method`, `dataset`, `ipc`, `seed`, `status`,
    `accuracy_mean` and `accuracy_std` in [0, 1], `distill_seconds`, `distill_flops`, ... A trial that has no
    record, since the time of `for_` was up or its jobs were detached, has the status "to run".

    UserError for what the command line refuses, in the same words; KeyboardInterrupt after the workers have
    left their checkpoints: the same call then goes on.
    """
    from harness.commands.run import sweep_frame

    return sweep_frame(options, sweep)
