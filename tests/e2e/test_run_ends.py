"""How a run ends, through real processes: when its time is up, and on a real terminal."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from trials import put_record

from harness.commands.cli import main
from harness.engine.options import parse_options
from harness.engine.plan import make_plan
from harness.engine.records import Record

ROOT = Path(__file__).parents[2]
WISHES = ["--methods", "dm", "--dataset", "digits", "--ipc", "1", "--scale", "smoke"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "harness", *arguments]


def environment(**changed: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changed


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("run", *arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def test_time_that_is_up_ends_with_75_and_the_command_that_goes_on(tmp_path: Path) -> None:
    wishes = [*WISHES, "--methods", "random", "--for", "0.001s"]
    process = run(tmp_path, *wishes)
    assert process.returncode == 75, process.stderr
    assert process.stderr.startswith("device: ")
    begin, _, typed = process.stderr.splitlines()[-1].partition("; go on: ")
    assert begin == "left: 2 of 2 trials, 0 of them begun"
    assert shlex.split(typed) == command("run", *wishes)
    assert "no records yet" in process.stdout


@pytest.mark.slow
def test_the_same_command_goes_on_after_its_time_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    wishes = [*WISHES, "--set", "dm.iterations=600", "--seeds", "1", "--threads", "1"]
    undisturbed = ["run", *wishes, "--launcher", "inline", "--results", str(tmp_path / "undisturbed")]
    assert main(undisturbed) == 0
    statuses: list[int] = []
    seconds = 4
    while 0 not in statuses and len(statuses) < 12:
        statuses.append(run(tmp_path, *wishes, "--results", "out", "--for", f"{seconds}s").returncode)
        seconds *= 2
    assert statuses == [75] * (len(statuses) - 1) + [0]
    assert len(statuses) > 1
    sets = [sorted((tmp_path / name).rglob("*.safetensors")) for name in ("undisturbed", "out")]
    assert [len(found) for found in sets] == [1, 1]
    assert [path.read_bytes() for path in sets[0]] == [path.read_bytes() for path in sets[1]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_of_eighty_columns_shows_a_table_that_fits_and_three_lines_of_legend(
    tmp_path: Path,
) -> None:
    methods, ipcs = "bacon,dm,idm,random,herding", "1,2,5,10,20"
    wishes = ["--methods", methods, "--dataset", "digits", "--ipc", ipcs, "--scale", "smoke", "--seeds", "2"]
    typed = {"methods": [methods], "dataset": ["digits"], "ipc": [ipcs], "scale": "smoke", "seeds": "2"}
    for number, trial in enumerate(make_plan(parse_options(typed | {"results": str(tmp_path)})).trials):
        accuracies = [0.3 + number / 100, 0.35]
        put_record(Record(id=trial.id, status="done", trial=trial, accuracies=accuracies), tmp_path / "out")
    lines = on_terminal(tmp_path, ["run", *wishes, "--results", "out"])
    assert max(map(len, lines)) <= 80, lines
    rows = [line for line in lines if line.startswith("bacon ")]
    assert sum(row.count("±") for row in rows) == 5
    start = next(k for k, line in enumerate(lines) if line.startswith("Test accuracy in %"))
    notes = lines[start : lines.index("", start)]
    assert 1 <= len(notes) <= 3
    assert max(k for k, line in enumerate(lines) if "±" in line and k != start) < start
    assert lines[-2:] == [
        "Records and distilled sets: out/",
        "Costs, intervals, ranks: python -m harness report --results out",
    ]


def on_terminal(folder: Path, arguments: Sequence[str]) -> list[str]:
    """Lines on a pseudo-terminal of 80 columns that stdout and stderr share, without control sequences."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(COLUMNS="80", TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b"".join(iter(lambda: _read(ours), b""))
        assert process.wait() == 0
    os.close(ours)
    return [line.rstrip() for line in ESCAPES.sub("", said.decode()).replace("\r", "").split("\n")][:-1]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""
