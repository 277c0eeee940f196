"""Options of a run that its launcher contradicts: refused before anything is planned."""

from __future__ import annotations

import dataclasses

from harness.core.errors import UserError
from harness.engine.options import Options, flag
from harness.launch.resources import check_resources


def check_launch(options: Options) -> None:
    """Refuse what the chosen launcher has no use for, or what contradicts it."""
    if options.launcher == "slurm":
        check_jobs(options)
    else:
        check_no_slurm(options)


def check_jobs(options: Options) -> None:
    """Refuse options of Slurm jobs that contradict one another."""
    if options.for_ is not None:
        raise UserError(
            "--for limits a run on this machine; jobs of a cluster have --time, after which they go on by "
            "themselves: drop --for"
        )
    if options.device == "cpu" and options.gpus:
        raise UserError(f"--gpus {options.gpus} asks for GPUs that --device cpu leaves idle; drop one")
    if options.device.startswith("cuda:"):
        raise UserError(
            f"--device {options.device} names a GPU, but Slurm chooses those of a job; type --device cuda"
        )
    if options.slots_per_gpu is not None and not options.gpus:
        raise UserError("--slots-per-gpu needs jobs with GPUs; add --gpus 1")
    check_resources(options)


def check_no_slurm(options: Options) -> None:
    """Refuse options that only Slurm has a use for."""
    for part in dataclasses.fields(options):
        if part.metadata["info"].slurm and getattr(options, part.name) != part.default:
            raise UserError(
                f"{flag(part.name)} is for jobs of a cluster; add --launcher slurm, or leave it out"
            )
