"""The program as it is installed: a wheel in an environment of its own, used far from any checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.commands.cli import main
from harness.engine.provenance import ROOT

pytestmark = pytest.mark.slow

SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'), sysconfig.get_path('platlib'), sep='\\n')"
NEEDED = "import filelock, itables, jinja2, matplotlib, msgspec, pandas, rich, scipy, submitit, torchvision"
OLDEST = "python3.10"


def output(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    """What a command prints in a folder, which must succeed, with nothing of this checkout on its path."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=inherited | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the archive of the sources, which so has to be whole as well."""
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    for name in ("harness", "methods"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))):
        shutil.copy(path, sources)
    archive = output([sys.executable, "-c", SDIST, folder], sources).split()[-1]
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder]
    output([sys.executable, "-m", "pip", "wheel", *options, folder / archive], folder)
    return next(folder.glob("*.whl"))


def oldest_python() -> str:
    """A Python of the oldest version that is supported, and with all that the program needs, or a skip."""
    found = shutil.which(OLDEST)
    if found is None:
        pytest.skip(f"no {OLDEST} on this machine")
    tried = subprocess.run([found, "-c", NEEDED], capture_output=True, encoding="utf-8", check=False)
    if tried.returncode != 0:
        pytest.skip(f"{found} has not what the program needs: {tried.stderr.strip().splitlines()[-1]}")
    return found


@pytest.fixture(scope="module", params=["this Python", OLDEST])
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel in it; what it needs is borrowed from an older one."""
    lender = sys.executable if request.param != OLDEST else oldest_python()
    folder = tmp_path_factory.mktemp("environment")
    output([lender, "-m", "venv", "--without-pip", folder], folder)
    made = folder / "bin" / "python"
    own = Path(output([made, "-c", PACKAGES], folder).split()[0])
    # Of a folder named here no further .pth file is read, so that no editable install comes along.
    (own / "lent.pth").write_text(output([lender, "-c", PACKAGES], folder), encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    install = ["--python", made, "install", *options, wheel]
    output([sys.executable, "-m", "pip", *install], folder)
    where = "import harness, methods; print(harness.__file__, methods.__file__)"
    assert all(Path(file).is_relative_to(own) for file in output([made, "-c", where], folder).split())
    return made


@pytest.fixture(scope="module")
def folder(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo's command was run, at the smallest scale."""
    folder = tmp_path_factory.mktemp("user")
    printed = harness(python, folder, *demo())
    assert "| bacon " in printed
    return folder


def demo() -> list[str]:
    """What `make demo` types, with less to do, and into results/."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    recipe = re.search(r"^demo:.*\n(?:\t.*\n)*?\t.*-m harness (run .*)$", makefile, re.MULTILINE)
    assert recipe
    words = shlex.split(recipe[1])
    smaller = {"--methods": "bacon", "--ipc": "1", "--seeds": "1", "--evals": "1"}
    smaller |= {"--scale": "smoke", "--results": "results", "--threads": "1"}
    for option in smaller.keys() & set(words):
        words[words.index(option) + 1] = smaller.pop(option)
    return [*words, *(word for option in smaller.items() for word in option)]


def harness(python: Path, folder: Path, *arguments: str) -> str:
    return output(
        [python, "-m", "harness", *arguments], folder, HARNESS_DATA=str(folder / "data"), PYTHONUTF8="1"
    )


def test_the_script_is_installed(python: Path, tmp_path: Path) -> None:
    assert output([python.with_name("dd-harness"), "--version"], tmp_path).startswith("distillation-harness")


def test_tables_have_the_printed_figures(
    python: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["paper"], ["paper", "--missing"], ["report"]):
        printed = harness(python, folder, *arguments)
        capsys.readouterr()
        assert main([*arguments, "--results", str(folder / "results")]) == 0
        expected = capsys.readouterr().out.replace(f" --results {folder / 'results'}", "")
        assert printed == expected
        assert len(printed.splitlines()) > 10


def test_the_leaderboard_has_the_printed_figures(python: Path, folder: Path) -> None:
    printed = harness(python, folder, "report", "--site", "site")
    found = re.search(r"(\d+) reported", printed)
    assert found
    assert int(found[1]) > 100
    for name in ("index.html", "compute.html", "how.html", "static/site.css", "static/facets.js"):
        assert (folder / "site" / name).is_file()


def test_profiles_are_known(python: Path, folder: Path) -> None:
    asked = {"gpu": "--mem=32G", "packed-gpu": "--mem=64G", "cpu": "--mem=16G"}
    wishes = ("--methods", "dm", "--dataset", "digits", "--ipc", "1", "--no-estimate")
    # In one process, as most of the time of each would be its start.
    code = "import sys; from harness.commands.cli import main; print(*map(main, eval(sys.argv[1])))"
    commands = [["plan", "--profile", profile, *wishes] for profile in asked]
    printed = output([python, "-c", code, repr(commands)], folder)
    assert printed.splitlines()[-1] == "0 0 0"
    assert re.findall("#SBATCH (--mem=.*)", printed) == list(asked.values())


def test_what_is_listed(python: Path, folder: Path) -> None:
    printed = harness(python, folder, "list", "methods")
    assert {"bacon", "idm", "dm"} <= {line.split()[0] for line in printed.splitlines() if line.strip()}


def test_every_file_is_of_the_oldest_python(wheel: Path, tmp_path: Path) -> None:
    found = next(Path(os.environ.get("PYENV_ROOT", "/nowhere")).glob("versions/3.10.*/bin/python"), None)
    oldest = shutil.which(OLDEST) if found is None else str(found)
    if oldest is None:
        pytest.skip(f"no {OLDEST} on this machine")
    shutil.unpack_archive(wheel, tmp_path, "zip")
    output([oldest, "-m", "compileall", "-q", "harness", "methods"], tmp_path)
