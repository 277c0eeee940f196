"""Digests of code that are kept between processes, and never used for other code."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine.test_provenance import change, checkout, digest, trial

from harness.engine import digest_cache, provenance

__all__ = ["checkout"]  # a fixture


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Caches of a user who has none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def code_digest() -> str:
    """What a process says that has just begun."""
    provenance._digest_of.cache_clear()
    provenance._text_of.cache_clear()
    return provenance.code_digest(trial())


def unable(*_: object) -> None:
    raise AssertionError("it is computed again")


@pytest.mark.slow
def test_a_later_process_parses_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_digest()
    assert first == digest()
    monkeypatch.setattr(provenance.Code, "here", unable)
    assert code_digest() == first


@pytest.mark.slow
def test_changed_code_has_a_digest_of_its_own(checkout: Path) -> None:
    first = code_digest()
    change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
    second = code_digest()
    assert second == digest()
    assert second != first


@pytest.mark.slow
def test_code_that_changes_while_its_digest_is_computed_keeps_none(
    checkout: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = provenance.Code.here

    def edited() -> provenance.Code:
        change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
        return here()

    with monkeypatch.context() as patch:
        patch.setattr(provenance.Code, "here", edited)
        code_digest()
    assert not (caches / "distillation-harness" / digest_cache.NAME).exists()
    assert code_digest() == digest()


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{}", b'{"text": 1}', b"\xff"])
def test_a_damaged_file_is_replaced(checkout: Path, caches: Path, content: bytes) -> None:
    path = caches / "distillation-harness" / digest_cache.NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert code_digest() == digest()
    assert path.read_bytes() != content


@pytest.mark.slow
def test_caches_that_cannot_be_written_cost_nothing_but_time(checkout: Path, caches: Path) -> None:
    caches.write_text("a file, so that nothing can be written below it")
    assert code_digest() == digest()


def test_the_last_few_states_of_the_code_are_kept_beside_each_other() -> None:
    for number in range(digest_cache.STATES + 1):
        digest_cache.keep(f"text {number}", {"a": f"{number}", "b": None})
    digest_cache.keep("text 1", {"c": "later"})
    digest_cache.keep("text", {})
    assert digest_cache.load("text 1") == {"a": "1", "b": None, "c": "later"}
    assert [digest_cache.load(f"text {number}") for number in (0, 2)] == [{}, {}]
    assert all(digest_cache.load(f"text {number}") for number in range(3, digest_cache.STATES + 1))
