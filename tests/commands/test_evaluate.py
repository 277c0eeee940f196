"""`evaluate`: sets that lie there are asked something new, and never distilled again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.cli import USER_ERROR, main
from harness.engine.record_files import read_records
from harness.engine.records import Record
from methods import random

ON_CPU = ["--device", "cpu", "--launcher", "inline"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with two sets, each evaluated once."""
    results = tmp_path_factory.mktemp("made") / "results"
    typed = ["--methods", "random,random_packed", "--dataset", "digits", "--ipc", "1", "--scale", "smoke"]
    assert main(["run", *typed, "--evals", "1", "--results", str(results), *ON_CPU]) == 0
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of them, where nothing can be distilled."""
    import shutil

    shutil.copytree(made, tmp_path / "results")
    return tmp_path / "results"


def evaluate(results: Path, *typed: str) -> int:
    return main(["evaluate", "--results", str(results), "--evals", "1", *ON_CPU, *typed])


def by_network(results: Path) -> dict[tuple[str, str, str], Record]:
    return {(r.trial.method, r.trial.network, r.trial.protocol): r for r in read_records(results)}


@pytest.mark.slow
def test_sets_are_asked_and_not_distilled_again(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def distilled_twice(*_: object, **__: object) -> None:
        raise AssertionError("distilled twice")

    monkeypatch.setattr(random, "distill", distilled_twice)
    before = by_network(results)
    assert evaluate(results, "--methods", "random", "--eval-arch", "MLP,ConvNetW16") == 0
    assert "2 trials: 1 done, 1 to run (1 set: 1 there, 0 to distil)" in capsys.readouterr().err
    after = by_network(results)
    assert {key: after[key] for key in before} == before
    (new,) = after.keys() - before.keys()
    assert new == ("random", "MLP", "dc-smoke")
    old = before["random", "ConvNetW16", "dc-smoke"]
    assert (after[new].images_digest, after[new].distill) == (old.images_digest, old.distill)
    assert evaluate(results, "--methods", "random", "--eval-arch", "MLP") == 0
    assert by_network(results) == after, "what is answered is not asked again"


def test_stored_soft_labels_are_missed_before_anything_is_asked(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = by_network(results)
    assert evaluate(results, "--methods", "random", "--protocol", "dc-cpu,sl-smoke") == USER_ERROR
    message = capsys.readouterr().err
    assert "sl-smoke trains on soft labels" in message
    assert "the set of random · digits" in message
    assert by_network(results) == before


def test_files_are_asked_by_name(results: Path) -> None:
    record = next(one for one in read_records(results) if one.trial.method == "random_packed")
    assert evaluate(results, str(record.set_path(results)), "--eval-arch", "MLP") == 0
    assert [key for key in by_network(results) if key[1] == "MLP"] == [("random_packed", "MLP", "dc-smoke")]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--eval-arch", "LeNet"], "none of these sets can be asked, see above"),
        (["--eval-arch", "LeNt"], "did you mean 'LeNet'"),
        (["--protocol", "dc-1001"], "unknown protocol 'dc-1001'"),
        (["--methods", "idm"], "unknown method among the records 'idm'; available: random, random_packed"),
        (["--methods", "randm"], "did you mean 'random'"),
        (["--dataset", "digit"], "unknown dataset among the records 'digit'; did you mean 'digits'"),
        (["--ipc", "2"], "unknown ipc among the records '2'"),
        (["--arch", "ConvNet"], "unknown network that distils among the records 'ConvNet'"),
        (["--seeds", "7,"], "no distilled set under"),
        (["nothing.safetensors"], "no such file: nothing.safetensors"),
        ([__file__], "test_evaluate.py is no set with a record under"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], typed: list[str], words: str
) -> None:
    before = by_network(results)
    assert evaluate(results, *typed) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert by_network(results) == before


def test_what_a_network_cannot_take_is_left_out_and_named(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(results, "--methods", "random", "--eval-arch", "MLP,LeNet") == 1
    left_out = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: "))
    assert "random · digits · ipc 1 · seed 0 · on LeNet: network LeNet cannot take 8x8 images" in left_out
    assert {network for _, network, _ in by_network(results)} == {"ConvNetW16", "MLP"}


def test_records_whose_sets_are_not_here_are_told_from_none(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clone brings records alone."""
    (packed,) = (results / "smoke/digits/random_packed").rglob("*.safetensors")
    packed.unlink()
    assert evaluate(results, "--methods", "random_packed") == USER_ERROR
    message = capsys.readouterr().err
    assert "has records that fit, of 1 set, but not the sets; distil them into another folder" in message
    assert evaluate(results) == 0
    assert "left out: random_packed · digits · ipc 1 · seed 0: only the records" in capsys.readouterr().err


def test_a_run_asks_many_questions_of_one_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--methods", "random", "--dataset", "digits", "--ipc", "1", "--scale", "smoke", "--evals", "1"]
    asked = ["--eval-arch", "ConvNetW16,MLP", "--results", str(tmp_path)]
    assert main(["run", *typed, *asked, *ON_CPU]) == 0
    records = read_records(tmp_path)
    assert [record.trial.network for record in records] == ["ConvNetW16", "MLP"]
    assert len({record.images_digest for record in records}) == 1
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert "(1 set: 0 there, 1 to distil)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_set_that_cannot_be_made_costs_each_of_its_trials_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def broken(*_: object, **__: object) -> None:
        tried.append(1)
        raise ValueError("no such luck")

    monkeypatch.setattr(random, "distill", broken)
    typed = ["--methods", "random", "--dataset", "digits", "--ipc", "1", "--scale", "smoke", "--evals", "1"]
    asked = ["--eval-arch", "ConvNetW16,MLP", "--results", str(tmp_path)]
    assert main(["run", *typed, *asked, *ON_CPU]) == 1
    first, second = read_records(tmp_path)
    assert {first.status, second.status} == {"failed"}
    assert "no such luck" in str(first.reason)
    assert "no such luck" in str(second.reason)
    assert tried == [1]
