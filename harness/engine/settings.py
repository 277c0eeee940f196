"""Where and how trials run: all that they need and that does not decide their results."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.engine.records import Trial

LOG_NAME = "log.txt"


@dataclass(frozen=True)
class RunSettings:
    """Made once from the options of a run; launchers, jobs and workers all have these.

    datasets: for each dataset name of the trials what the user typed, such as "folder:PATH".
    device: "cpu", "cuda" (all CUDA devices, a trial on each) or one of them, "cuda:1".
    threads: CPU threads of each trial; None leaves it to the launcher, and in a trial to torch.
    slots: trials at a time; None: as many as the cores (or CUDA devices) allow.
    slots_per_gpu: trials at a time on each CUDA device, unless `slots` says how many in all; None: one.
    retries: times that a trial whose worker died is tried again, over all launches together.
    retry_failed: run trials again that failed earlier.
    quiet: say nothing on stderr.
    checkpoint_seconds: least time between two checkpoints.
    logs: folder for the logs, which then outlive their trials; None: each in its trial's work folder.
    code_digests: for each trial's id the digest of its code when it was submitted; a worker that finds other
        code refuses. None, or a trial left out: whatever code is there.
    deadline: until when trials are begun and stepped, as `time.monotonic` has it; None: for ever.
    """

    results: Path
    data_dir: Path
    datasets: Mapping[str, str]
    device: str = "cpu"
    threads: int | None = None
    slots: int | None = None
    slots_per_gpu: int | None = None
    retries: int = 2
    retry_failed: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 30.0
    logs: Path | None = None
    code_digests: Mapping[str, str] | None = None
    deadline: float | None = None

    @property
    def time_is_up(self) -> bool:
        """Whether trials are to stop and leave their checkpoints."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def log_of(self, trial: Trial) -> Path:
        """Where a trial's log lies."""
        if self.logs is None:
            return trial.work_folder(self.results) / LOG_NAME
        return self.logs / log_name(trial)

    def code_digest_of(self, trial: Trial) -> str | None:
        """Digest of a trial's code when it was submitted, if that is known."""
        return (self.code_digests or {}).get(trial.id)

    def for_one(self, trial: Trial, threads: int | None) -> RunSettings:
        """The same for a process that runs this trial alone, whatever folder it is in."""
        digest = self.code_digest_of(trial)
        return replace(
            self,
            results=self.results.absolute(),
            data_dir=self.data_dir.absolute(),
            datasets={trial.dataset: self.datasets[trial.dataset]},
            threads=threads,
            logs=None if self.logs is None else self.logs.absolute(),
            code_digests=None if digest is None else {trial.id: digest},
        )


def log_name(trial: Trial) -> str:
    """Name of a trial's log in a folder of logs: `dm-cifar10-ipc10-seed0-3f9a1c2b44.log`."""
    name = f"{trial.method}-{trial.dataset}-ipc{trial.ipc}-seed{trial.seed}-{trial.id}.log"
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name)
