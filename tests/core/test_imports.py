"""Where Python is started in a folder that has a `methods`, a `harness` or other modules of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from trials import SMALL_TRIAL

from harness.core import imports
from harness.core.errors import UserError
from harness.core.imports import ROOT, claim, shadow
from harness.engine.record_files import read_records

MODULE = [sys.executable, "-m", "harness"]


def package(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"raise ImportError('the {name} of somebody else')\n")


def module(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(f"raise ImportError('the {name} of somebody else')\n")


def bare_folder(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "train.py").write_text("")


FOREIGN = {
    "methods package": lambda folder: package(folder, "methods"),
    "methods.py": lambda folder: module(folder, "methods"),
    "methods folder": lambda folder: bare_folder(folder, "methods"),
    "random.py": lambda folder: module(folder, "random"),
    "numpy": lambda folder: package(folder, "numpy"),
}
FOREIGN_HARNESS = {
    "harness package": lambda folder: package(folder, "harness"),
    "harness.py": lambda folder: module(folder, "harness"),
    "harness folder": lambda folder: bare_folder(folder, "harness"),
}


def script(folder: Path) -> list[str]:
    """What pip makes of the entry point; like that it lies elsewhere than in the current folder."""
    path = folder / "bin" / "dd-harness"
    path.parent.mkdir()
    path.write_text("import sys\nfrom harness.__main__ import main\nsys.exit(main())\n")
    return [sys.executable, str(path)]


def run(folder: Path, command: list[str], path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("entry", ["python -m harness", "dd-harness"])
def test_other_peoples_modules_in_the_current_folder_do_not_matter(
    tmp_path: Path, kind: str, entry: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    FOREIGN[kind](theirs)
    command = MODULE if entry == "python -m harness" else script(tmp_path)
    done = run(theirs, [*command, "list", "methods"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "bacon@paper" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN_HARNESS)
def test_a_foreign_harness_does_not_matter_to_the_installed_command(tmp_path: Path, kind: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    FOREIGN_HARNESS[kind](theirs)
    command = script(tmp_path)
    done = run(theirs, [*command, "list", "methods"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "bacon@paper" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["methods package", "methods.py", "methods folder"])
def test_methods_of_somebody_else_on_the_path_do_not_matter(tmp_path: Path, kind: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    FOREIGN[kind](theirs)
    done = run(tmp_path, [*MODULE, "list", "methods"], os.pathsep.join([str(theirs), str(ROOT)]))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_workers_run_the_code_of_their_parent(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("methods", "datasets", "utils", "harness"):
        package(theirs, name)
    command = script(tmp_path)
    wishes = ["--methods", "random", "--dataset", "digits", "--ipc", "1", "--scale", "smoke", "--seeds", "1"]
    done = run(theirs, [*command, "run", *wishes, "--results", "out"])
    assert done.returncode == 0, done.stderr
    records = read_records(theirs / "out")
    assert [(record.status, record.trial.method) for record in records] == [("done", SMALL_TRIAL.method)]


def test_start_script_is_python_with_our_code_first(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    package(theirs, "harness")
    (theirs / "say.py").write_text("print('not this one')")
    (tmp_path / "say.py").write_text("import sys, harness, methods\nprint(sys.argv[1:], methods.__file__)")
    start = [sys.executable, str(ROOT / "harness" / "__main__.py"), "-u", "-m", "say", "-m", "x"]
    done = run(theirs, start, str(tmp_path))
    assert done.stdout.split("] ")[0] == "['-m', 'x'", done.stderr
    assert done.stdout.strip().endswith(str(ROOT / "methods" / "__init__.py"))


def test_of_two_packages_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    foreign = types.ModuleType("methods")
    foreign.__spec__ = ModuleSpec("methods", None, origin=str(tmp_path / "methods.py"))
    monkeypatch.setitem(sys.modules, "methods", foreign)
    assert shadow("methods") == str(tmp_path / "methods.py")
    with pytest.raises(UserError) as caught:
        claim()
    assert f"`methods` is {tmp_path / 'methods.py'} here" in str(caught.value)
    assert "dd-harness" in str(caught.value)


def test_nothing_is_claimed_where_nothing_shadows() -> None:
    assert [shadow(name) for name in imports.OWN] == [None, None]
    before = list(sys.meta_path)
    claim()
    assert sys.meta_path == before
