"""The user's cache folder: what torch's compiler keeps lies there, apart for each kind of processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core import processor
from harness.core.imports import ROOT
from harness.core.user_cache import COMPILED, keep_compiled

COMPILES = """
import torch
from harness.core.context import Context
context = Context()
context.compiling = True
doubled = context.accelerate(lambda x: (x.sin() + x).sum())
print(float(doubled(torch.ones(1000))))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and nothing said of the compiler's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv(COMPILED, "put back after the test")
    monkeypatch.delenv(COMPILED)
    return tmp_path / "caches" / "distillation-harness"


def test_the_compiler_keeps_what_it_makes_in_the_users_cache(home: Path) -> None:
    keep_compiled()
    kept = Path(os.environ[COMPILED])
    assert kept.is_dir()
    assert kept.parent == home / "compiled"


def test_what_the_user_says_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPILED, "/elsewhere")
    keep_compiled()
    assert os.environ[COMPILED] == "/elsewhere"
    assert not home.exists()


def test_where_nothing_can_be_kept_torch_chooses(home: Path) -> None:
    home.parent.write_text("no folder")
    keep_compiled()
    assert COMPILED not in os.environ


def test_each_kind_of_processor_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for flags in ("avx2", "avx2 avx512f", "avx2"):
        described = tmp_path / "cpuinfo"
        described.write_text(f"processor : 0\nmodel name : One\nflags : {flags}\ncpu MHz : {len(folders)}\n")
        monkeypatch.setattr(processor, "CPUINFO", described)
        monkeypatch.delenv(COMPILED, raising=False)
        keep_compiled()
        folders.append(os.environ[COMPILED])
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.slow
def test_a_compiled_loop_leaves_its_code_there(home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != COMPILED}
    done = subprocess.run(
        [sys.executable, "-c", COMPILES],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1841.47, rel=1e-5)
    assert list((home / "compiled").rglob("*.so"))
