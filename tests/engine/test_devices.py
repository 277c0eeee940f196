"""Which device a run has: torch is asked only where there is a sign of a GPU and something to run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from harness.core.errors import UserError
from harness.engine import devices
from harness.engine.options import Options, parse_options
from harness.engine.plan import make_plan
from harness.engine.settings import RunSettings
from harness.launch.base import layout


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has does not count."""
    monkeypatch.setattr(devices, "DRIVER_FILES", ())
    monkeypatch.setattr(devices, "DRIVER_PROGRAMS", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sign of a GPU."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(devices, "DRIVER_FILES", (str(tmp_path / "nvidiactl"),))


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    """Let torch find so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def options(tmp_path: Path, device: str) -> RunSettings:
    return RunSettings(results=tmp_path, data_dir=tmp_path, datasets={}, device=device)


def test_auto_is_the_default() -> None:
    assert parse_options({}).device == devices.AUTO == "auto"


def test_without_a_sign_of_a_gpu_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert str(devices.choose("auto")) == "device: cpu, no CUDA device found"


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("named", ["", "-1", "NoDevFiles"])
def test_gpus_that_are_hidden_are_none(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert devices.choose("auto").name == "cpu"


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ("0", "1", "2")), ("4,5,7", ("4", "5", "7")), ("MIG-a,MIG-b", ("MIG-a", "MIG-b"))],
)
def test_all_visible_gpus_become_slots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, names: tuple[str, ...]
) -> None:
    pretend(monkeypatch, 1 if visible is not None and visible.startswith("MIG") else 3)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = devices.choose("auto")
    assert str(device) == f"device: cuda, found: {len(names)} GPUs ({', '.join(names)})"
    shared = layout(options(tmp_path, device.name), 20)
    assert (shared.slots, shared.gpus) == (len(names), names)


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_pytorch_cannot_use_is_said_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def old_driver() -> bool:
        warnings.warn("the NVIDIA driver on your system\nis too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = devices.choose("auto")
    assert (device.name, device.why) == (
        "cpu",
        "although there is a driver for GPUs: the NVIDIA driver on your system is too old",
    )


def test_programs_of_a_driver_are_a_sign_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not devices.may_have_cuda()
    monkeypatch.setattr(devices, "DRIVER_PROGRAMS", ("true",))
    assert devices.may_have_cuda()


@pytest.mark.parametrize(("visible", "count"), [("0,1,2,3", 1), ("0,1", 0)])
def test_more_names_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    pretend(monkeypatch, count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=r"--device cpu$|--device cpu always works"):
        devices.choose("cuda")


def test_what_is_asked_for_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert str(devices.choose("cuda:1")) == "device: cuda:1, as asked"
    assert str(devices.choose("cuda")) == "device: cuda, as asked: 2 GPUs (0, 1)"
    assert str(devices.choose("cpu")) == "device: cpu, as asked"
    with pytest.raises(UserError, match="it has cuda:0 to cuda:1"):
        devices.choose("cuda:2")


@pytest.mark.parametrize(
    ("wish", "gpus", "name"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 0, "cuda")],
)
def test_jobs_have_cuda_where_they_have_gpus(wish: str, gpus: int, name: str) -> None:
    assert devices.of_job(wish, gpus) == name


def test_a_trial_is_the_same_on_every_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    plans = [
        make_plan(
            Options(
                methods=("dm",), dataset=("digits",), ipc=(1,), scale="smoke", results=tmp_path, device=device
            )
        )
        for device in ("auto", "cpu", "cuda", "cuda:0")
    ]
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.slow
def test_work_that_is_done_needs_no_driver_where_there_is_a_gpu(tmp_path: Path) -> None:
    """As a program of its own, since the tests have imported torch."""
    script = (
        "import sys; from pathlib import Path; from harness.engine import devices\n"
        "from harness.commands.cli import main; from harness.engine.options import parse_options\n"
        "from harness.engine.plan import make_plan; from harness.engine.records import Record\n"
        "from harness.engine.record_files import write_record\n"
        "devices.DRIVER_FILES = (sys.executable,)\n"
        "wishes = {'methods': ['dm'], 'dataset': ['digits'], 'ipc': ['1'], 'scale': 'smoke'}\n"
        "for trial in make_plan(parse_options(wishes | {'results': sys.argv[1]})).trials:\n"
        "    record = Record(id=trial.id, status='done', trial=trial, accuracies=[0.5])\n"
        "    write_record(record, Path(sys.argv[1]))\n"
        "typed = '--methods dm --dataset digits --ipc 1 --scale smoke --results'.split() + sys.argv[1:]\n"
        "for wish in ([], ['--device', 'auto']):\n"
        "    assert [main([command, *typed, *wish]) for command in ('plan', 'run')] == [0, 0]\n"
        "import torch; sys.exit(torch.cuda.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "results")],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[0] == "device: cuda, not needed: nothing is left to run"
