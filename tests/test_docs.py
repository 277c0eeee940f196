"""The documents: links lead somewhere, commands parse, the README's table is the generated one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness.commands.cli import parse
from harness.engine.options import PROFILE_KEYS, flag, option_infos

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (".", "results", "slurm", ".github/ISSUE_TEMPLATE")
DOCUMENTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_parse(document: Path) -> None:
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^\s*python -m harness (.+)$", text, flags=re.MULTILINE):
        arguments = shlex.split(line.partition("  #")[0])
        parse(arguments)


def test_readme_shows_a_generated_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if re.match(r"\| (bacon|random) ", line)]
    benchmarks = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert len(rows) >= 2
    assert [row for row in rows if row not in benchmarks] == []


def test_the_guide_to_slurm_names_every_key_of_a_profile() -> None:
    guide = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--([a-z-]+)", " ".join(re.findall(r"^\| `--.*", guide, flags=re.MULTILINE))))
    sentence = guide.partition("its keys\n")[2].partition("; what is typed")[0]
    named |= set(re.findall(r"`([a-z-]+)`", sentence.partition("and")[2]))
    keys = {flag(name)[2:] for name, info in option_infos().items() if info.slurm or name in PROFILE_KEYS}
    assert keys - {"profile"} == named


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of training on a distilled set is real code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "digits.safetensors").exists()
