"""A disk that is full, for every kind of file that is written, and the same command once it is not.

Each test mounts a file system of a few kilobytes where one kind of file lies, and enlarges it afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import recorded
from trials import digits_trial, dm_trial

import methods
from harness.commands.cli import main
from harness.core.checkpoint import SNAPSHOTS
from harness.core.distilled import Distilled
from harness.engine.options import Options
from harness.engine.provenance import ROOT
from harness.engine.records import WORK_FOLDER, Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.trial import CACHE_NAME
from harness.launch.base import Summary
from harness.launch.driver import launch
from harness.launch.launchers import launcher_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="mounts file systems as Linux does"),
]

PAGE = 4096


@dataclass(frozen=True)
class Disk:
    """A file system of its own, of so many pages of 4 KB."""

    place: Path

    def holds(self, pages: int) -> None:
        """Make it larger or smaller."""
        _mount("-o", f"remount,size={pages * PAGE}", str(self.place))

    def files(self) -> list[str]:
        """Names of all files that are not empty."""
        return sorted(path.name for path in self.place.rglob("*") if path.is_file() and path.stat().st_size)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


MakeDisk = Callable[[Path, int], Disk]


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    """Mount small file systems; they are gone in the end."""
    disks: list[Disk] = []

    def make(place: Path, pages: int) -> Disk:
        place.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(place))
        disks.append(Disk(place))
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk.place)], check=True)


def run(trial: Trial, results: Path, launcher: str = "inline", **changes: Any) -> Summary:
    """What the command line does with one trial, checkpoints after every step, in this process by default."""
    options: dict[str, Any] = {
        "data_dir": results.parent / "data",
        "datasets": {trial.dataset: trial.dataset},
        "threads": 1,
        "quiet": True,
        "checkpoint_seconds": 0.0,
    }
    settings = RunSettings(results=results, **(options | changes))
    return launch([trial], settings, launcher_of(Options(launcher=launcher)))


def of_scale(method: str, **changes: Any) -> Trial:
    """A trial with a method's own settings of the smoke scale."""
    return digits_trial(
        method=method, config=asdict(methods.resolve(method, "digits", 1, "smoke").config), **changes
    )


def outcome(trial: Trial, results: Path) -> tuple[Any, ...]:
    """What must not depend on what happened on the way."""
    record: Record = recorded(trial, results)
    curve = [(point.step, point.accuracies) for point in record.curve]
    measured = record.status, record.accuracies, record.train_losses, record.images_digest, curve
    return *measured, trial.distillation.set_path(results).read_bytes()


@dataclass(frozen=True)
class Case:
    """Where a file system of so many pages gets full in a trial, and the file that is then named."""

    trial: Trial
    place: Callable[[Trial, Path], Path]
    pages: int
    file: str
    checkpoint_seconds: float = 0.0


def record_folder(trial: Trial, results: Path) -> Path:
    return trial.record_path(results).parent


def work(*parts: str) -> Callable[[Trial, Path], Path]:
    return lambda trial, results: trial.distillation.work_folder(results).joinpath(*parts)


def work_of_evaluation(trial: Trial, results: Path) -> Path:
    return trial.work_folder(results) / "evaluate"


def cache(_: Trial, results: Path) -> Path:
    return results / WORK_FOLDER / CACHE_NAME


WIDE = digits_trial(ipc=10)  # its set takes seven pages
CASES = {
    "distilled set": Case(WIDE, record_folder, 3, ".safetensors"),
    "record of the set": Case(WIDE, record_folder, 7, f"{WIDE.id}.json"),
    "record": Case(WIDE, record_folder, 8, f"{WIDE.id}.json"),
    "start": Case(digits_trial(), work(), 0, "start.json"),
    "beginning of a phase": Case(digits_trial(), work(), 1, "begun.json"),
    "note of the distillation": Case(digits_trial(), work(), 3, "distillation.json"),
    "checkpoint": Case(dm_trial(3), work("distill"), 2, "checkpoint.pt"),
    "checkpoint of an evaluation": Case(dm_trial(2), work_of_evaluation, 2, "checkpoint.pt"),
    "snapshot": Case(dm_trial(4, curve=2), work("distill", SNAPSHOTS), 2, ".pt"),
    "trained network": Case(of_scale("mtt"), cache, 1, "0.safetensors", checkpoint_seconds=1000.0),
    "checkpoint of a trained network": Case(of_scale("mtt"), cache, 1, "checkpoint.pt"),
}


@pytest.mark.parametrize("kind", CASES)
def test_trial_goes_on_with_the_same_bytes(kind: str, tmp_path: Path, make_disk: MakeDisk) -> None:
    case, results = CASES[kind], tmp_path / "results"
    # A file system of no size has no limit.
    disk = make_disk(case.place(case.trial, results), max(case.pages, 1))
    if case.pages == 0:
        (disk.place / "ballast").write_bytes(b"\0" * PAGE)
    (record,) = run(case.trial, results, checkpoint_seconds=case.checkpoint_seconds).records
    assert (record.status, record.resumable) == ("failed", True)
    assert record.reason is not None
    assert record.reason.startswith("No space left on device: ")
    assert record.reason.endswith(case.file)
    assert not [name for name in disk.files() if name.endswith(".tmp")], "a part of a file was left"

    disk.holds(1000)
    assert run(case.trial, results).exit_status == 0
    assert run(case.trial, tmp_path / "undisturbed").exit_status == 0
    assert outcome(case.trial, results) == outcome(case.trial, tmp_path / "undisturbed")


def test_log_and_progress_are_no_reason_to_fail(tmp_path: Path, make_disk: MakeDisk) -> None:
    trial, results = dm_trial(3), tmp_path / "results"
    logs = make_disk(tmp_path / "logs", 1)
    (logs.place / "ballast").write_bytes(b"\0" * PAGE)
    assert run(trial, results, launcher="local", logs=logs.place).exit_status == 0
    assert run(trial, tmp_path / "undisturbed").exit_status == 0
    assert outcome(trial, results)[-1] == outcome(trial, tmp_path / "undisturbed")[-1]


def test_record_that_a_worker_cannot_write_is_no_death(tmp_path: Path, make_disk: MakeDisk) -> None:
    results = tmp_path / "results"
    disk = make_disk(record_folder(WIDE, results), 7)
    (record,) = run(WIDE, results, launcher="local").records
    assert (record.status, record.resumable) == ("failed", True)
    assert "No space left on device: " in (record.reason or "")
    assert not (WIDE.work_folder(results) / "deaths.json").exists()
    disk.holds(1000)
    assert run(WIDE, results, launcher="local").exit_status == 0


def pictures(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")


WISHES = ["--ipc", "1", "--scale", "smoke", "--seeds", "1", "--launcher", "inline"]


def test_decoded_images_that_cannot_be_kept_cost_time_only(tmp_path: Path, make_disk: MakeDisk) -> None:
    pictures(tmp_path / "pets")
    data = make_disk(tmp_path / "data", 2)
    wishes = ["run", "--methods", "random", "--dataset", f"folder:{tmp_path / 'pets'}", *WISHES]
    for name, folder in (("disturbed", data.place), ("undisturbed", tmp_path / "other")):
        assert main([*wishes, "--results", str(tmp_path / name), "--data", str(folder)]) == 0
    sets = [
        next((tmp_path / name).rglob("*.safetensors")).read_bytes() for name in ("disturbed", "undisturbed")
    ]
    assert sets[0] == sets[1]
    assert not [name for name in data.files() if name.endswith(".tmp")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a few records."""
    results = tmp_path_factory.mktemp("measured") / "results"
    for trial in (digits_trial(), digits_trial(ipc=10), dm_trial(2), dm_trial(2, ipc=10)):
        assert run(trial, results).exit_status == 0
    return results


def set_of(results: Path) -> str:
    return str(digits_trial().distillation.set_path(results))


REPORTS: dict[str, Callable[[Path, Path], list[str]]] = {
    "BENCHMARKS.md": lambda results, out: ["report", "--benchmarks", str(out / "BENCHMARKS.md")],
    "site": lambda results, out: ["report", "--site", str(out / "site")],
    "plot": lambda results, out: ["plot", "-o", str(out / "plots"), "--kind", "ipc,gallery"],
    "show": lambda results, out: ["show", set_of(results), "-o", str(out / "sets.png")],
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", REPORTS)
def test_report_ends_with_one_line_and_no_damaged_file(
    kind: str, tmp_path: Path, make_disk: MakeDisk, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, sound = make_disk(tmp_path / "out", 1), tmp_path / "sound"
    sound.mkdir()

    def command(out: Path) -> int:
        words = REPORTS[kind](measured, out)
        return main(words if words[0] == "show" else [*words, "--results", str(measured)])

    ballast = disk.place / "ballast"
    ballast.write_bytes(b"\0" * PAGE)
    assert command(disk.place) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("error: ")]) == 1
    assert "No space left on device" in said[-1]
    assert disk.files() == ["ballast"]

    disk.holds(20_000)
    ballast.unlink()
    assert command(disk.place) == command(sound) == 0
    assert contents(disk.place) == contents(sound) != {}


def test_what_stdout_has_no_room_for_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "list", "archs"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device: writing\n")


def test_submission_goes_on(
    tmp_path: Path, make_disk: MakeDisk, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs.npz"
    distilled = Distilled.load(digits_trial(ipc=10).distillation.set_path(measured))
    np.savez(theirs, images=distilled.pixels().numpy(), labels=distilled.labels.numpy())
    wishes = ["submit", str(theirs), "--method", "dm", "--dataset", "digits", "--scale", "smoke"]
    disk = make_disk(tmp_path / "results", 3)
    assert main([*wishes, "--results", str(disk.place)]) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    disk.holds(1000)
    for results in (disk.place, tmp_path / "undisturbed"):
        assert main([*wishes, "--results", str(results)]) == 0
    found = [
        [path.read_bytes() for path in results.rglob("*.safetensors")]
        for results in (disk.place, tmp_path / "undisturbed")
    ]
    assert found[0] == found[1] != []


COMPILES = """
import torch
from harness.core.faults import passing
try:
    torch.compile(lambda x: (x.sin() + x).sum(), dynamic=False)(torch.ones(1000))
except Exception as error:
    print(passing(error))
"""


def test_compilers_cache_passes(tmp_path: Path, make_disk: MakeDisk) -> None:
    # In a process of its own: one in which the trial of the processor's vectors failed, for want of space,
    # believes for its whole life that there are none, and breaks on what others have compiled with them.
    disk = make_disk(tmp_path / "cache", 1)
    done = subprocess.run(
        [sys.executable, "-c", COMPILES],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(disk.place / "inductor")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
