"""Every command in terminals that know few characters: its status is 0, and its files are the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from harness.commands.cli import COMMANDS
from harness.engine.provenance import ROOT
from harness.engine.record_files import read_records

pytestmark = pytest.mark.slow

ENVIRONMENTS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C.UTF-8"},
}
PETS = "pets – 猫"  # no terminal but UTF-8's can show it
WORK = ("--scale", "smoke", "--ipc", "1", "--seeds", "1", "--evals", "1", "--threads", "1")
DIGITS = ("--dataset", "digits", *WORK)
INLINE = ("--launcher", "inline")  # a process for each trial costs most of its time: one of them is enough

# What each command is asked for, in a folder where `run` has been run.
ASKED: dict[str, list[tuple[str, ...]]] = {
    "run": [
        ("--methods", "random", *DIGITS),
        ("--methods", "random,herding", *DIGITS, *INLINE),
        ("--methods", "random,herding", *DIGITS, "--json"),
    ],
    "plan": [
        ("--methods", "dm", *DIGITS, "--no-estimate"),
        ("--methods", "dm", *DIGITS, "--no-estimate", "--profile", "gpu", "--json"),
    ],
    "list": [
        ("methods",),
        ("methods", "bacon"),
        ("methods", "--json"),
        ("datasets",),
        ("archs",),
        ("protocols",),
    ],
    "status": [(), ("--trials",), ("--json",)],
    "cancel": [("--help",)],
    "logs": [("random",)],
    "report": [(), ("--json",), ("--site", "site")],
    "compare": [("random", "herding"), ("random", "herding", "--json")],
    "paper": [(), ("--missing",), ("--json",)],
    "check": [("random", "--quick")],
    "show": [("SET", "--output", "picture.png")],
    "plot": [("--kind", "ipc")],
    "submit": [
        (
            *("SET", "--dataset", "digits", "--method", "theirs", "--scale", "smoke", "--evals", "1"),
            *("--threads", "1", "--force"),
        ),
        (),
        ("--json",),
    ],
    "evaluate": [("--eval-arch", "MLP", "--evals", "1", "--threads", "1", "--launcher", "inline")],
    "renew": [("--scale", "smoke", "--threads", "1", "--launcher", "inline")],
    "export": [("SET", "--format", "npz", "--output", "set.npz")],
    "perf": [("--help",)],
}

# Many commands in one process, since most of the time of each is Python's start. SET stands for a set's file.
MANY = """
import json, sys, traceback
from pathlib import Path
from harness.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sets = map(str, sorted(Path().rglob("*.safetensors")))
    sys.argv[1:] = [next(sets) if word == "SET" else word for word in arguments]
    try:
        status = main()
    except SystemExit as left:
        status = left.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream, end in ((sys.stdout, ""), (sys.stderr, status)):
        stream.flush()
        stream.buffer.write(f"\\0{end}\\0".encode())
        stream.flush()
"""


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed, read as the terminal would."""

    status: int
    printed: str
    errors: str

    def well(self) -> str:
        """What was printed by a command that must have succeeded."""
        assert self.status == 0, self.errors
        assert "Traceback" not in self.errors
        return self.printed


def python(folder: Path, encoding: str, *words: str) -> Said:
    """Run Python in a folder, with this code and the variables of an encoding."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    process = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=inherited
        | {"PYTHONPATH": str(ROOT), "HARNESS_DATA": str(folder / "data")}
        | ENVIRONMENTS[encoding],
        capture_output=True,
        check=False,
    )
    return Said(process.returncode, process.stdout.decode(encoding), process.stderr.decode(encoding))


def harness(folder: Path, encoding: str, *commands: Sequence[str]) -> list[Said]:
    """Run commands one after the other, as if each were typed."""
    said = python(folder, encoding, "-c", MANY, json.dumps(commands))
    assert said.status == 0, said.errors
    printed, errors = said.printed.split("\0")[:-1], said.errors.split("\0")[:-1]
    parts = zip(errors[1::2], printed[::2], errors[::2], strict=True)
    return [Said(int(status), *both) for status, *both in parts]


@dataclass(frozen=True)
class Work:
    """A folder in which all commands were run in one encoding, and what they said."""

    folder: Path
    said: dict[str, list[Said]]


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """All commands, one after the other."""
    encoding, folder = request.param, tmp_path_factory.mktemp(request.param)
    said = iter(
        harness(folder, encoding, *((name, *words) for name, asked in ASKED.items() for words in asked))
    )
    return Work(folder, {name: list(itertools.islice(said, len(asked))) for name, asked in ASKED.items()})


def test_every_command_is_asked() -> None:
    assert set(ASKED) == set(COMMANDS)


@pytest.mark.parametrize("command", ASKED)
def test_commands_print_what_the_terminal_can_show(work: Work, command: str) -> None:
    for arguments, said in zip(ASKED[command], work.said[command], strict=True):
        printed = said.well()
        if "--json" in arguments:
            json.loads(printed)


def test_files_are_utf_8(work: Work) -> None:
    texts = [
        path for path in work.folder.rglob("*") if path.suffix in (".md", ".txt", ".json", ".csv", ".html")
    ]
    for path in texts:
        path.read_bytes().decode("utf-8")
    assert "±" in (work.folder / "results/report/tables.md").read_text(encoding="utf-8")
    logs = list(work.folder.rglob("log.txt"))
    assert all("·" in log.read_text(encoding="utf-8") for log in logs)


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("Köter", "猫"):
            folder = tmp_path / PETS / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (80 * number, 40, 99)).save(folder / f"{number}.png")
    (tmp_path / "sweep.toml").write_text(f'dataset = "folder:{PETS}"\nimage-size = 8\n', encoding="utf-8")
    run = ("run", "sweep.toml", "--methods", "random,herding", *WORK, *INLINE)
    after = (("report",), ("status",), ("compare", "random", "herding"))
    # Of the two, it can show the first. Where nothing but ASCII is known, no file can have such a name.
    first, *others = harness(tmp_path, "latin-1", run, *after)
    assert "herding" in first.well()
    assert {record.status for record in read_records(tmp_path / "results")} == {"done"}
    assert all(said.well() for said in others)
