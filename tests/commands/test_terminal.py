"""What a terminal's encoding lacks is replaced; files are UTF-8 whatever the terminal's is."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.commands.cli import main
from harness.commands.terminal import replace_what_it_lacks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "45.1 ± 0.3 – Köter 猫 🐈", "45.1 +- 0.3 - K?ter ? ?"),
        ("latin-1", "45.1 ± 0.3 – Köter 猫", "45.1 ± 0.3 - Köter ?"),
        ("utf-8", "45.1 ± 0.3 – Köter 猫", "45.1 ± 0.3 – Köter 猫"),
        ("ascii", "lost \udcfc byte", "lost ? byte"),
    ],
)
def test_text_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, shown: str) -> None:
    written = [io.BytesIO(), io.BytesIO()]
    for name, file in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, "strict"))
    replace_what_it_lacks()
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    assert [file.getvalue().decode(encoding) for file in written] == [f"{shown}\n"] * 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_what_it_says(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    said, written = {"reason": 'a "±" – 猫 🐈'}, io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, "strict"))
    replace_what_it_lacks()
    print(json.dumps(said, ensure_ascii=False), flush=True)
    assert json.loads(written.getvalue().decode(encoding)) == said


def test_the_command_line_does_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, "ascii", "strict"))
    assert main(["status", "--results", str(tmp_path / "猫")]) == 2
    sys.stderr.flush()
    assert written.getvalue().startswith(f"error: no results folder {tmp_path}/?".encode())


def calls(folder: str) -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def is_text_of_no_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the machine prefers."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named:
        return False
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & set(named))
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name not in ("open", "fdopen"):
        return False
    modes = [*call.args, named.get("mode")]
    return any(
        isinstance(mode, ast.Constant) and str(mode.value) in ("r", "w", "a", "x", "rt", "wt", "at", "xt")
        for mode in modes
    )


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["harness", "methods"])
def test_text_of_files_and_processes_has_an_encoding(folder: str) -> None:
    assert [place for place, call in calls(folder) if is_text_of_no_encoding(call)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.open('w')", True),
        ("subprocess.run([], text=True)", True),
        ("path.read_text('utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("Image.open(path)", False),
    ],
)
def test_the_search_finds_such_calls(source: str, found: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert is_text_of_no_encoding(call) == found
