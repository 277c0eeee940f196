"""Files that tools outside of the tests read: the version, the hooks before a commit, the workflow of CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    """A file of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.findall(r"^version: (\S+)$", text("CITATION.cff"), flags=re.MULTILINE)
    newest = re.findall(r"^## (\S+)", text("CHANGELOG.md"), flags=re.MULTILINE)[:1]
    assert cited == newest == [harness.__version__]


def test_the_hooks_before_a_commit_are_the_tools_of_make_lint() -> None:
    hooks = re.findall(r"entry: \.venv/bin/(\w+(?: \w+)?)", text(".pre-commit-config.yaml"))
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", text("Makefile"), flags=re.MULTILINE)
    assert hooks == re.findall(r"\$\(BIN\)/(\w+(?: \w+)?)", recipe)


def test_the_workflow_runs_ci_on_the_whole_history() -> None:
    workflow = text(".github/workflows/ci.yml")
    commands = re.findall(r"^\s+run: (\S+)", workflow, flags=re.MULTILINE)
    assert ".ci/run" in commands
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "fetch-depth: 0" in workflow
    assert re.search(r"^on:\n  push:\n(?:    .*\n)*  pull_request:$", workflow, flags=re.MULTILINE)


PLUGIN = """
from slow_tests import SlowTests
def pytest_configure(config): config.pluginmanager.register(SlowTests(config))
"""
SOME_SLOW = "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\ndef test_quick(): pass\n"


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_fast_run_says_what_it_left_out(processes: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_some.py").write_text(SOME_SLOW)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    environment = {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", processes]
    said = [
        subprocess.run(
            [*command, *marks],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for marks in (["-m", "not slow"], [])
    ]
    line = "left out, see `make test`: 1 slow test: test_some.py (1)"
    assert [line in printed for printed in said] == [True, False]


def test_the_longest_files_are_begun_first(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = --import-mode=importlib\n")
    (tmp_path / "e2e").mkdir()
    slow = "@pytest.mark.slow\n"
    tests = {"test_a.py": ["", ""], "test_b.py": [slow, slow], "test_c.py": [slow], "e2e/test_d.py": [slow]}
    for name, marks in tests.items():
        functions = [f"{mark}def test_{k}(): pass\n" for k, mark in enumerate(marks)]
        (tmp_path / name).write_text("".join(["import pytest\n", *functions]))
    printed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = [line.partition("::")[0] for line in printed.splitlines() if "::" in line]
    assert list(dict.fromkeys(files)) == ["e2e/test_d.py", "test_b.py", "test_c.py", "test_a.py"]
