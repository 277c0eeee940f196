"""The main job through real processes: from `run` to the table, again without work, from a file, as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.engine.record_files import read_records
from harness.engine.records import Record

ROOT = Path(__file__).parents[2]
WISHES = ["--methods", "random,dm", "--dataset", "digits", "--ipc", "1", "--scale", "smoke"]


def harness(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as a user does; it must succeed."""
    process = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HARNESS_DATA": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the job has been run once; its output is kept beside the results."""
    folder = tmp_path_factory.mktemp("user")
    process = harness(folder, "run", *WISHES, "--results", "out")
    (folder / "stdout.txt").write_text(process.stdout)
    (folder / "stderr.txt").write_text(process.stderr)
    return folder


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Time of change and content of each record and distilled set."""
    found = sorted((folder / "out" / "smoke").rglob("*.*"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
def test_run_ends_in_the_table_and_says_where_the_files_are(folder: Path) -> None:
    printed = (folder / "stdout.txt").read_text()
    rows = [line for line in printed.splitlines() if line.startswith(("| random ", "| dm "))]
    assert len(rows) == 2, "a row of accuracies for each method"
    assert all("±" in row for row in rows)
    assert "Records and distilled sets: out/" in printed
    assert "python -m harness report --results out" in printed
    said = (folder / "stderr.txt").read_text()
    assert said.startswith("device: ")
    assert "2 trials: 0 done, 2 to run" in said
    assert len(read_records(folder / "out")) == len(list((folder / "out").rglob("*.safetensors"))) == 2


@pytest.mark.slow
def test_running_again_does_nothing(folder: Path) -> None:
    before = files(folder)
    process = harness(folder, "run", *WISHES, "--results", "out")
    assert files(folder) == before
    assert process.stdout == (folder / "stdout.txt").read_text()
    assert "2 trials: 2 done, 0 to run" in process.stderr


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    process = harness(folder, "run", *WISHES, "--results", "out", "--json")
    content = msgspec.json.decode(process.stdout)
    records = [msgspec.convert(record, Record) for record in content["records"]]
    assert [record.trial.method for record in records] == ["random", "dm"]
    assert content["counts"] == {"done": 2}
    assert content["exit_status"] == 0
    assert all(0.0 <= accuracy <= 1.0 for record in records for accuracy in record.accuracies)
    assert process.stderr == ""


@pytest.mark.slow
def test_a_file_asks_for_the_same_work(folder: Path) -> None:
    text = 'methods = ["dm", "random"]\ndataset = "digits"\nipc = 1\nscale = "smoke"\nresults = "elsewhere"\n'
    (folder / "sweep.toml").write_text(text)
    process = harness(folder, "run", "sweep.toml", "--results", "out")
    assert "2 trials: 2 done, 0 to run" in process.stderr
    assert not (folder / "elsewhere").exists(), "what is typed wins"


@pytest.mark.slow
def test_plan_tells_what_is_done_and_how_long_the_rest_takes(folder: Path) -> None:
    before = files(folder)
    process = harness(folder, "plan", *WISHES, "--ipc", "10", "--results", "out")
    assert "4 trials: 2 done, 2 to run, about" in process.stdout
    assert "1 record" in process.stdout
    assert "3 steps timed" in process.stdout
    assert files(folder) == before, "planning changes nothing"


@pytest.mark.slow
def test_status_report_and_show_read_what_was_written(folder: Path) -> None:
    assert "2 records, 2 done; 0 unfinished" in harness(folder, "status", "--results", "out").stdout
    table = harness(folder, "report", "--results", "out").stdout
    printed = (folder / "stdout.txt").read_text().splitlines()
    assert next(row for row in printed if row.startswith("| dm ")) in table
    distilled = [str(path) for path in sorted((folder / "out").rglob("*.safetensors"))]
    harness(folder, "show", *distilled, "-o", "picture.png")
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_check_ends_in_a_verdict(folder: Path) -> None:
    *points, verdict = harness(folder, "check", "random", "--quick").stdout.splitlines()
    assert verdict == f"random: {len(points)} of {len(points)} points kept"
    assert all(line.startswith("ok ") for line in points)
