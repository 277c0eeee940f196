"""The gathering of golden tests in conftest.py, in small test suites of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

@pytest.mark.golden("trace", "dm", "bacon@paper")
@pytest.mark.parametrize("case", [1, 2])
def test_trace(case): assert case != {broken}

@pytest.mark.golden("net")
def test_net(): pass

def test_other(): pass
"""
EXPECTED = {
    "net": {"*": {"passed": 1, "failed": 0}},
    "trace": {"bacon@paper": {"passed": 2, "failed": 0}, "dm": {"passed": 2, "failed": 0}},
    "unused": {},
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with this conftest.py, three golden files and tests of two of them that pass."""
    golden = tmp_path / "tests" / "golden"
    golden.mkdir(parents=True)
    for item in ("trace", "net", "unused"):
        (golden / f"{item}.npz").touch()
    for name in ("conftest.py", "slow_tests.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = tests\nmarkers = golden: golden\n")
    write(tmp_path)
    return tmp_path


def write(suite: Path, text: str = SUITE, broken: int = 0) -> None:
    (suite / "tests" / "test_some.py").write_text(text.replace("{broken}", str(broken)))


def run(suite: Path, *arguments: str, where: str = "tests") -> subprocess.CompletedProcess[str]:
    """Run the suite with nothing but pytest itself."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", where, *arguments],
        cwd=suite,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def seen(suite: Path) -> dict[str, object]:
    return json.loads((suite / "seen.json").read_text())


def test_outcomes_are_written_and_checked(suite: Path) -> None:
    assert run(suite, "--fidelity", "seen.json").returncode == 0
    assert seen(suite) == EXPECTED
    assert run(suite, "--fidelity-check", "seen.json").returncode == 0
    before = (suite / "seen.json").read_bytes()
    write(suite, SUITE.replace("[1, 2]", "[1, 2, 3]"))
    stale = run(suite, "--fidelity-check", "seen.json")
    assert stale.returncode == 1
    assert "seen.json is not what this run saw; write it with `pytest --fidelity=seen.json`" in stale.stdout
    assert (suite / "seen.json").read_bytes() == before


def test_processes_share_the_tests(suite: Path) -> None:
    shared = ("-p", "xdist", "-n", "2")
    assert run(suite, "--fidelity", "seen.json", *shared).returncode == 0
    assert seen(suite) == EXPECTED
    assert run(suite, "--fidelity-check", "seen.json", *shared).returncode == 0
    partly = run(suite, "--fidelity", "seen.json", *shared, where="tests/test_some.py::test_net")
    assert partly.returncode == 1
    assert "not all golden tests were asked for" in partly.stdout
    write(suite, SUITE.replace("def test_net(): pass", "def test_net(): __import__('os')._exit(1)"))
    dead = run(suite, "--fidelity", "seen.json", *shared, "--max-worker-restart=0")
    assert dead.returncode == 1
    assert "nothing was written or compared" in dead.stdout
    assert seen(suite) == EXPECTED


def test_failures_are_counted(suite: Path) -> None:
    write(suite, broken=2)
    assert run(suite, "--fidelity", "seen.json").returncode == 1
    assert seen(suite) == EXPECTED | {
        "trace": {"bacon@paper": {"passed": 1, "failed": 1}, "dm": {"passed": 1, "failed": 1}}
    }


@pytest.mark.parametrize(
    ("where", "arguments", "complaint"),
    [
        ("tests", ("-k", "net"), "2 golden tests were not run, such as tests/test_some.py::test_trace[1]"),
        ("tests", ("-x",), "2 golden tests were not run"),
        ("tests/test_some.py::test_net", (), "not all golden tests were asked for"),
        ("tests/test_rest.py", (), "not all golden tests were asked for: no test_some.py"),
    ],
)
def test_a_part_of_the_tests_writes_nothing(
    suite: Path, where: str, arguments: tuple[str, ...], complaint: str
) -> None:
    write(suite, broken=1)
    (suite / "tests" / "test_rest.py").write_text("def test_rest(): pass\n")
    done = run(suite, "--fidelity", "seen.json", *arguments, where=where)
    assert done.returncode == 1
    assert f"fidelity: nothing was written or compared, {complaint}" in done.stdout
    assert not (suite / "seen.json").exists()


def test_without_the_options_nothing_is_asked(suite: Path) -> None:
    done = run(suite, "-k", "net")
    assert (done.returncode, "fidelity" in done.stdout) == (0, False)


def test_a_skipped_test_is_no_outcome(suite: Path) -> None:
    write(suite, SUITE.replace("def test_net(): pass", "def test_net(): pytest.skip('absent')"))
    done = run(suite, "--fidelity", "seen.json")
    assert done.returncode == 1
    assert "1 golden tests were not run" in done.stdout


def test_marks_for_what_does_not_exist_are_refused(suite: Path) -> None:
    write(suite, SUITE.replace('"net"', '"nets"'))
    unknown = run(suite)
    assert unknown.returncode != 0
    assert "is marked for ['nets'], not in tests/golden" in unknown.stdout + unknown.stderr
    write(suite, SUITE.replace('"dm"', '"dn"'))
    assert run(suite).returncode == 0, "a method may come later than its tests"
    refused = run(suite, "--fidelity", "seen.json")
    assert refused.returncode == 1
    assert "no such methods: dn" in refused.stdout
