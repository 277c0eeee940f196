"""Arrays as Slurm takes them: submitit's parameters, the batch script, and a trial run of it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.engine.options import Options
from harness.launch import queue
from harness.launch.array_job import SIGNAL_SECONDS
from harness.launch.base import PlannedArray
from harness.launch.processes import own_python
from harness.launch.resources import Array, Resources, as_words
from harness.launch.sweep import Sweep

if TYPE_CHECKING:
    from submitit import SlurmExecutor

MANY_TIMEOUTS = 10**6  # submitit counts a job's time-outs; a trial goes on as often as it needs


def shares(resources: Resources, asked: Options) -> tuple[int, int]:
    """Trials at a time in one job, and the CPU threads of each."""
    slots = asked.slots or max(1, resources.gpus) * (asked.slots_per_gpu or 1)
    slots = min(slots, asked.trials_per_job)
    return slots, asked.threads or max(1, resources.cpus // slots)


def make_executor(sweep: Sweep, array: Array, name: str, after: str | None = None) -> SlurmExecutor:
    """Submitit's executor for one array; `after` is a job that it waits for."""
    import submitit

    with _srun_assumed():
        python = shlex.join(own_python())
        executor = submitit.SlurmExecutor(sweep.jobs, max_num_timeout=MANY_TIMEOUTS, python=python)
    executor.update_parameters(**parameters(array, name, after))
    return executor


def parameters(array: Array, name: str, after: str | None = None) -> dict[str, Any]:
    """Submitit's parameters for one array."""
    resources = array.resources
    return {
        "job_name": name,
        "time": resources.time,
        "partition": resources.partition,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "mem": resources.mem,
        "account": resources.account,
        "qos": resources.qos,
        "dependency": f"afterany:{after}" if after else None,
        "array_parallelism": array.parallel,
        "signal_delay_s": SIGNAL_SECONDS,
        "setup": [*resources.setup, *_python_path()],
        # A step does not inherit the CPUs of its job since Slurm 22.05.
        "srun_args": [f"--cpus-per-task={resources.cpus}"],
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {"requeue": True, **dict(resources.extra)},
    }


def _python_path() -> list[str]:
    """What a job has to be told where the site's Slurm does not hand down the environment."""
    path = os.environ.get("PYTHONPATH")
    return [f"export PYTHONPATH={shlex.quote(path)}"] if path else []


def batch_script(sweep: Sweep, array: Array, name: str) -> str:
    """The script that sbatch would get for an array."""
    executor = make_executor(sweep, array, name)
    if len(array.packs) > 1:
        executor.parameters["map_count"] = len(array.packs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "plan"))


def planned(sweep: Sweep, array: Array, number: int) -> PlannedArray:
    """An array as it would be submitted, as the sweep's `number`th."""
    return PlannedArray(
        jobs=len(array.packs),
        trials=sum(map(len, array.packs)),
        parallel=array.parallel,
        resources=as_words(array.resources),
        script=batch_script(sweep, array, sweep.job_name(number)),
    )


def check_cluster(planned: Sequence[Array], sweep: Sweep, results: Path) -> None:
    """Refuse, before anything is submitted, what this cluster cannot run; UserError in Slurm's own words."""
    queue.check_installed()
    queue.queue()
    for array in {array.resources: array for array in planned}.values():
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "job.sh"
            text = batch_script(sweep, replace(array, packs=array.packs[:1]), "dd-test")
            script.write_text(text, encoding="utf-8")
            words = queue.refusal(script)
        if words is not None:
            raise UserError(f"Slurm refuses a job of {as_words(array.resources)}: {words}")
        _check_shared(results, array.resources.partition)


def _check_shared(results: Path, partition: str | None) -> None:
    """UserError if the results lie where other machines of the partition cannot see them."""
    folder = results.absolute()
    private = next((root for root in ("/tmp", "/var/tmp", "/dev/shm") if folder.is_relative_to(root)), None)
    if private is not None and queue.nodes_elsewhere(partition):
        raise UserError(
            f"the nodes cannot see {folder}: {private} is a folder of this machine alone; pass --results on "
            "a file system that the cluster shares"
        )


@contextlib.contextmanager
def _srun_assumed() -> Iterator[None]:
    """Let submitit make batch scripts where there is no Slurm: `plan` shows them anywhere."""
    from submitit import SlurmExecutor

    before = SlurmExecutor.affinity
    SlurmExecutor.affinity = classmethod(lambda cls: 2)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        SlurmExecutor.affinity = before  # type: ignore[method-assign]


@contextlib.contextmanager
def quiet_submitit() -> Iterator[None]:
    """Keep submitit's own lines out of ours."""
    noisy = logging.getLogger("submitit")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
