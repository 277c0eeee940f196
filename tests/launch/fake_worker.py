"""Stands for `harness.engine.worker` where tests need its manners and not its work: it starts without torch.

A trial's config says under "acts" what to do at each start, the last act again and again: "done", "sleep"
(until SIGTERM), "sleep deaf" (to SIGTERM), "survive" (be done when the first other worker is gone), "exit N",
"broken" (as by a library that is gone), or the name of a signal to die of.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from harness.engine.record_files import write_record
from harness.engine.records import Record
from harness.engine.surroundings import KEEPING_MEMORY, NO_SPINNING
from harness.engine.worker import STOPPED, Job


def main() -> int:
    """Do the job on stdin."""
    return work(Job.decode(sys.stdin.buffer.read()))


def work(job: Job) -> int:
    """Tell of the start in `starts.jsonl` under the results, then act."""
    results = job.settings.results
    earlier = [start for start in starts(results) if start["trial"] == job.trial.id]
    acts = job.trial.config["acts"]
    what = acts[min(len(earlier), len(acts) - 1)]
    if what == "sleep":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    elif what == "sleep deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(job)
    return act(what, job)


def act(what: str, job: Job) -> int:
    """Do it; returns the exit status."""
    if what == "survive":
        while not other_is_gone(job):
            time.sleep(0.02)
    if what in ("done", "survive"):
        record = Record(id=job.trial.id, status="done", trial=job.trial, accuracies=[0.5])
        write_record(record, job.settings.results)
        return 0
    if what.startswith("sleep"):
        time.sleep(600)
    if what.startswith("exit "):
        job.log_path.parent.mkdir(parents=True, exist_ok=True)
        job.log_path.write_text("last words\n")
        return int(what.split()[1])
    if what == "broken":
        print("Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'", file=sys.stderr)
        return 1
    os.kill(os.getpid(), signal.Signals[what])
    raise AssertionError(f"survived {what}")


def other_is_gone(job: Job) -> bool:
    """Whether another trial's worker began, ended and was noticed by the launcher."""
    others = [start["pid"] for start in starts(job.settings.results) if start["trial"] != job.trial.id]
    return bool(others) and not psutil.pid_exists(others[0])


def tell(job: Job) -> None:
    """Add this start to the list of them."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", *NO_SPINNING, *KEEPING_MEMORY)
    start = {
        "trial": job.trial.id,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "attempt": job.attempt,
        "log": str(job.log_path),
        "code_digest": job.settings.code_digest_of(job.trial),
        "environment": {name: os.environ.get(name) for name in names},
    }
    with (job.settings.results / "starts.jsonl").open("a") as file:
        file.write(json.dumps(start) + "\n")


def starts(results: Path) -> list[dict[str, Any]]:
    """All starts so far, in order."""
    path = results / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
