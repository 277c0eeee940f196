"""Where trials run: what `--device auto` is on this machine, and which CUDA devices are to be had.

torch takes seconds to import. It is asked only where there is a sign of a GPU, and only for work to be done.
"""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass

from harness.core.errors import UserError
from harness.core.text import one_line, plural

AUTO = "auto"
NO_DEVICE = {"", "-1", "NoDevFiles"}  # in CUDA_VISIBLE_DEVICES; the last is Slurm's
# What a driver leaves in /dev: NVIDIA's, Windows' for WSL, AMD's, and NVIDIA's on boards of the Jetson kind.
DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/nvmap")
DRIVER_PROGRAMS = ("nvidia-smi", "rocm-smi")


@dataclass(frozen=True)
class Device:
    """A device as trials name it, "cpu", "cuda" (all of them) or "cuda:1", and why it is that one."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"device: {self.name}, {self.why}"


def choose(wish: str, *, needed: bool = True) -> Device:
    """The device of this machine that a wish stands for; UserError for one that is not here.

    Where it is not `needed`, since nothing is left to run, torch is not imported and nothing is refused.
    """
    if not needed:
        name = wish if wish != AUTO else "cuda" if may_have_cuda() else "cpu"
        return Device(name, "not needed: nothing is left to run")
    if wish != AUTO:
        check_device(wish)
        return Device(wish, f"as asked{_which(wish)}")
    if not may_have_cuda():
        return Device("cpu", "no CUDA device found")
    count, complaint = _count()
    if count:
        check_device("cuda")
        return Device("cuda", f"found{_which('cuda')}")
    return Device("cpu", f"although there is a driver for GPUs: {complaint}")


def of_job(wish: str, gpus: int) -> str:
    """The device of trials in a job of a cluster with so many GPUs."""
    if wish != AUTO:
        return wish
    return "cuda" if gpus else "cpu"


def may_have_cuda() -> bool:
    """Whether there is a sign of a GPU that this process may use; without one there is none."""
    if _named() == ():
        return False
    return any(map(os.path.exists, DRIVER_FILES)) or any(map(shutil.which, DRIVER_PROGRAMS))


def check_device(device: str) -> None:
    """UserError for a CUDA device that this machine does not have."""
    if not device.startswith("cuda"):
        return
    count, _ = _count()
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        found = f"it has cuda:0 to cuda:{count - 1}" if count else "it has none that PyTorch can use"
        raise UserError(
            f"--device {device}: this machine has no such device, {found}; --device cpu always works"
        )
    named = _named() or ()
    # Of the parts of one GPU each process uses one, so that PyTorch counts one however many are named.
    if count < len(named) and not any(name.startswith("MIG") for name in named):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES names {plural(len(named), 'device')} ({', '.join(named)}), of which "
            f"PyTorch can use {count}; name those that there are, or type --device cpu"
        )


def visible_gpus() -> tuple[str, ...]:
    """Names of the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    Raises UserError if there are none.
    """
    named = _named()
    gpus = tuple(map(str, range(_count()[0]))) if named is None else named
    if not gpus:
        raise UserError("no CUDA device is visible; type --device cpu, or check CUDA_VISIBLE_DEVICES")
    return gpus


def _which(device: str) -> str:
    """`: 8 GPUs (0, 1, ...)` for all of them, nothing for one that is named or a CPU."""
    if device != "cuda":
        return ""
    gpus = visible_gpus()
    return f": {plural(len(gpus), 'GPU')} ({', '.join(gpus)})"


def _named() -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES names; None where it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    return tuple(name for name in map(str.strip, named.split(",")) if name not in NO_DEVICE)


def _count() -> tuple[int, str]:
    """How many CUDA devices PyTorch can use, and without any what it says of that."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    said = [one_line(str(warning.message)) for warning in caught]
    return count, said[-1] if said else f"PyTorch {torch.__version__} can use none"
