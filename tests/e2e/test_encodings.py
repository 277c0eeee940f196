"""Every command in terminals that know few characters: its status is 0, and its files are the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.commands.cli import COMMANDS
from harness.engine.provenance import ROOT
from harness.engine.records import read_records

pytestmark = pytest.mark.slow

ENVIRONMENTS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C.UTF-8"},
    "utf-8": {"PYTHONUTF8": "1"},
}
# Of the output alone: in the first of the above no file can have a name that is not ASCII.
OUTPUTS = ("ascii", "latin-1")
PETS = "pets – 猫"  # no terminal but UTF-8's can show it
WORK = ("--scale", "smoke", "--ipc", "1", "--seeds", "1", "--evals", "1", "--threads", "1")
DIGITS = ("--dataset", "digits", *WORK)

# What each command is asked for, in a folder where `run` has been run.
ASKED: dict[str, list[tuple[str, ...]]] = {
    "run": [("--methods", "random,herding", *DIGITS), ("--methods", "random,herding", *DIGITS, "--json")],
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
        ("SET", "--dataset", "digits", "--method", "theirs", "--scale", "smoke", "--evals", "1", "--force"),
        (),
        ("--json",),
    ],
    "renew": [("--scale", "smoke", "--threads", "1")],
    "export": [("SET", "--format", "npz", "--output", "set.npz")],
    "perf": [("--help",)],
}


def harness(folder: Path, encoding: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a command prints, which must succeed, read as the terminal would."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    process = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        env=inherited
        | {"PYTHONPATH": str(ROOT), "HARNESS_DATA": str(folder / "data")}
        | (environment or ENVIRONMENTS[encoding]),
        capture_output=True,
        check=False,
    )
    errors = process.stderr.decode(encoding)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return process.stdout.decode(encoding)


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def worked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An encoding, and a folder in which `run` was run in it."""
    folder = tmp_path_factory.mktemp(request.param)
    printed = harness(folder, request.param, "run", *ASKED["run"][0])
    assert "herding" in printed
    return request.param, folder


def test_every_command_is_asked() -> None:
    assert set(ASKED) == set(COMMANDS)


@pytest.mark.parametrize("command", ASKED)
def test_commands_print_what_the_terminal_can_show(worked: tuple[str, Path], command: str) -> None:
    encoding, folder = worked
    for arguments in ASKED[command]:
        distilled = next(str(path) for path in sorted(folder.rglob("*.safetensors")))
        typed = [distilled if word == "SET" else word for word in arguments]
        printed = harness(folder, encoding, command, *typed)
        if "--json" in arguments:
            json.loads(printed)


def test_files_are_utf_8(worked: tuple[str, Path]) -> None:
    encoding, folder = worked
    harness(folder, encoding, "report")
    harness(folder, encoding, "paper")
    texts = [path for path in folder.rglob("*") if path.suffix in (".md", ".txt", ".json", ".csv", ".html")]
    for path in texts:
        path.read_bytes().decode("utf-8")
    assert "±" in (folder / "results/report/tables.md").read_text(encoding="utf-8")
    logs = list(folder.rglob("log.txt"))
    assert all("·" in log.read_text(encoding="utf-8") for log in logs)


@pytest.mark.parametrize("encoding", OUTPUTS)
def test_names_that_the_terminal_cannot_show(encoding: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("Köter", "猫"):
            folder = tmp_path / PETS / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (80 * number, 40, 99)).save(folder / f"{number}.png")
    (tmp_path / "sweep.toml").write_text(f'dataset = "folder:{PETS}"\nimage-size = 8\n', encoding="utf-8")
    asked = ("run", "sweep.toml", "--methods", "random,herding", *WORK)
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}
    assert "herding" in harness(tmp_path, encoding, *asked, environment=environment)
    (tmp_path / "sweep.toml").unlink()
    assert {record.status for record in read_records(tmp_path / "results")} == {"done"}
    for command in ("report", "status", "compare random herding"):
        harness(tmp_path, encoding, *command.split(), environment=environment)
