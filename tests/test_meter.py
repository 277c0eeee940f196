"""What the meter measures, and what the code digest depends on."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import meter


def test_clock_moves_forward() -> None:
    before = meter.clock("cpu")
    assert meter.clock(torch.device("cpu")) > before


@pytest.mark.skipif(meter.peak_host_bytes() is None, reason="the kernel does not reset the peak")
def test_peak_is_that_of_the_phase() -> None:
    size = 200 * 2**20
    meter.reset_peaks("cpu")
    before = meter.peak_host_bytes()
    block = torch.ones(size // 4)
    del block
    during = meter.peak_host_bytes()
    meter.reset_peaks("cpu")
    after = meter.peak_host_bytes()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before > 0.8 * size
    assert during - after > 0.8 * size


def test_there_is_no_device_peak_on_the_cpu() -> None:
    assert meter.peak_device_bytes("cpu") is None


def test_what_the_kernel_cannot_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    meter.reset_peaks("cpu")
    assert meter.peak_host_bytes() is None


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources from which digests are taken."""
    for folder in ("harness", "methods"):
        shutil.copytree(meter.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(meter, "ROOT", tmp_path)
    return tmp_path


def change(path: Path) -> None:
    assert path.exists()
    path.write_text(path.read_text() + "\nchanged = True\n")


@pytest.mark.parametrize(
    "source",
    [
        "harness/evaluate.py",
        "harness/loop.py",
        "harness/seeds.py",
        "harness/data/sampling.py",
        "harness/nets/convnet.py",
        "methods/__init__.py",
        "methods/api.py",
        "methods/augment.py",
        "methods/formation.py",
        "methods/passes.py",
        "methods/matching.py",
        "methods/kernels.py",
        "methods/dm.py",
    ],
)
def test_digest_changes_with_the_measured_path(checkout: Path, source: str) -> None:
    before = meter.code_digest("dm")
    change(checkout / source)
    assert meter.code_digest("dm") != before


@pytest.mark.parametrize(
    "source",
    [
        "harness/meter.py",
        "harness/launch/local.py",
        "methods/random.py",
        "methods/bacon.py",
        "methods/coresets.py",
        "methods/composition.py",
        "methods/_template.py",
    ],
)
def test_digest_ignores_the_rest(checkout: Path, source: str) -> None:
    before = meter.code_digest("dm")
    change(checkout / source)
    assert meter.code_digest("dm") == before


def test_digest_ignores_a_helper_that_only_others_import(checkout: Path) -> None:
    before = meter.code_digest("dm")
    (checkout / "methods" / "fresh.py").write_text("value = 1\n")
    assert meter.code_digest("dm") == before


def test_digest_ignores_what_is_no_code(checkout: Path) -> None:
    source = checkout / "methods" / "dm.py"
    source.write_text(
        '"""Old."""\n\nclass A:\n    """Old."""\n\n    def f(self):\n        """Old."""\n        return (1)\n'
    )
    before = meter.code_digest("dm")
    source.write_text('class A:\n    # New.\n    def f(self):\n        """New."""\n        return 1\n')
    assert meter.code_digest("dm") == before
    source.write_text("class A:\n    def f(self):\n        return 1.0\n")
    assert meter.code_digest("dm") != before


def test_digest_tells_an_absent_value_from_none(checkout: Path) -> None:
    source = checkout / "methods" / "dm.py"
    digests = set()
    for code in ("def f(): return", "def f(): return None", "def f(): return []", "def f(): return [None]"):
        source.write_text(code)
        digests.add(meter.code_digest("dm"))
    assert len(digests) == 4


def test_digest_of_a_source_that_does_not_parse(checkout: Path) -> None:
    source = checkout / "methods" / "dm.py"
    source.write_text("def f(:\n")
    torn = meter.code_digest("dm")
    source.write_text("def g(:\n")
    assert meter.code_digest("dm") != torn


@pytest.mark.parametrize("source", ["dm", "bacon", "composition", "matching", "kernels"])
def test_digest_of_a_composition_covers_both_files(checkout: Path, source: str) -> None:
    before = meter.code_digest("dm+bacon")
    change(checkout / "methods" / f"{source}.py")
    assert meter.code_digest("dm+bacon") != before
    assert meter.code_digest("dm+bacon@paper") == meter.code_digest("dm+bacon")


def test_digest_of_a_method_that_is_gone_is_that_of_the_evaluation(checkout: Path) -> None:
    before = meter.code_digest("gone")
    change(checkout / "methods" / "dm.py")
    assert meter.code_digest("gone") == before


def test_digest_covers_the_methods_that_a_method_imports(checkout: Path) -> None:
    source = checkout / "methods" / "dm.py"
    source.write_text("from methods.random import Config as Other\n" + source.read_text())
    before = meter.code_digest("dm")
    change(checkout / "methods" / "random.py")
    assert meter.code_digest("dm") != before


def test_variant_has_the_digest_of_its_file() -> None:
    assert meter.code_digest("bacon@paper") == meter.code_digest("bacon")
    assert meter.code_digest("bacon") != meter.code_digest("dm")


def test_digest_needs_no_torch() -> None:
    code = "import sys; from harness import meter; meter.code_digest('dm'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=meter.ROOT, check=False).returncode == 0


def test_provenance_of_a_folder_without_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "MEASURED_FILES", ())
    monkeypatch.setattr(meter, "ROOT", tmp_path)
    facts = meter.provenance("dm", device="cpu", started_at=meter.now(), resumed=2)
    assert (facts.git_commit, facts.git_dirty) == (None, None)
    assert (facts.resumed, facts.device, facts.torch) == (2, "cpu", torch.__version__)


def test_provenance_tells_a_dirty_checkout_from_a_clean_one(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(checkout), *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("add", "harness", "methods")
    git("commit", "-m", "all")
    clean = meter.provenance("dm", device="cpu", started_at=meter.now(), resumed=0)
    (checkout / "notes.txt").write_text("no code")
    still_clean = meter.provenance("dm", device="cpu", started_at=meter.now(), resumed=0)
    change(checkout / "harness" / "loop.py")
    dirty = meter.provenance("dm", device="cpu", started_at=meter.now(), resumed=0)
    assert clean.git_commit is not None
    assert len(clean.git_commit) == 40
    assert [clean.git_dirty, still_clean.git_dirty, dirty.git_dirty] == [False, False, True]


def test_bf16_on_a_cpu_without_matrix_instructions_is_advised_against(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.options import parse_options
    from harness.preview import advice

    for has, lines in ((False, 1), (True, 0), (None, 0)):
        monkeypatch.setattr(meter, "multiplies_bf16", lambda has=has: has)
        assert len(advice(parse_options({"precision": "bf16"}))) == lines
        assert advice(parse_options({"precision": "fp32"})) == []


def test_cpu_facts_come_from_the_kernel() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has = "amx_bf16" in flags or "avx512_bf16" in flags
    assert meter.multiplies_bf16() in ((None,) if "flags" not in flags else (has,))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not the GNU C library")
def test_freed_memory_goes_back_to_the_system() -> None:
    code = (
        "from harness import meter; held = [bytearray(3000) for _ in range(100_000)];"
        "kept = held[-1]; del held;"
        "before = meter.host_bytes(); meter.release_freed_memory(); print(before - meter.host_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10 * 2**20
