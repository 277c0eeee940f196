"""A launch for tests to kill: `python fault_driver.py RESULTS [--retry-failed] < trials.json`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import msgspec

from harness.engine.options import Options
from harness.engine.records import Trial
from harness.engine.settings import RunSettings
from harness.launch.driver import launch
from harness.launch.launchers import Local


def main() -> int:
    """Run the trials on stdin two at a time, with checkpoints as often as they are affordable."""
    # A shell that starts tests in the background makes its children deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    results = Path(sys.argv[1])
    trials = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Trial])
    options = RunSettings(
        results=results,
        data_dir=results,
        datasets={"digits": "digits"},
        slots=2,
        threads=1,
        checkpoint_seconds=0.05,
        retry_failed="--retry-failed" in sys.argv,
    )
    return launch(trials, options, Local(Options())).exit_status


if __name__ == "__main__":
    sys.exit(main())
