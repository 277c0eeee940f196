"""While the process is sealed, no way leads to a test split."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from harness.core.data import Dataset, load, parse, sealed
from harness.core.data.toy import toy
from harness.core.errors import FirewallError


def _is_sealed(dataset: Dataset) -> bool:
    try:
        dataset.test()
    except FirewallError:
        return True
    return False


def test_sealed_dataset_says_why(tmp_path) -> None:
    dataset = toy()
    with (
        sealed("distilling dm"),
        pytest.raises(FirewallError, match="test split of 'toy' is sealed while distilling dm"),
    ):
        dataset.test()
    assert dataset.test_looks == 0
    dataset.test()
    assert dataset.test_looks == 1


def test_reloading_does_not_evade(tmp_path) -> None:
    with sealed("distilling"):
        fresh = load(parse("digits", tmp_path), tmp_path)
        assert _is_sealed(fresh)
        assert _is_sealed(toy())
        assert _is_sealed(toy().to("cpu"))


@pytest.mark.parametrize(
    "look",
    [
        lambda split: split.images,
        lambda split: split.labels,
        lambda split: split.batch(slice(0, 2)),
        lambda split: split.batch(torch.tensor([1])),
        lambda split: split.fingerprint,
    ],
)
def test_a_split_from_before_does_not_evade(look: Callable) -> None:
    split = toy().test()
    look(split)
    with sealed("distilling"), pytest.raises(FirewallError):
        look(split)
    look(split)


def test_seals_nest_and_end_with_exceptions() -> None:
    dataset = toy()
    with sealed("outer"):
        with pytest.raises(ZeroDivisionError), sealed("inner"):
            1 / 0  # noqa: B018
        with pytest.raises(FirewallError, match="outer"):
            dataset.test()
    assert not _is_sealed(dataset)


def _in_thread(work: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_the_seal_holds_in_new_threads() -> None:
    dataset = toy()
    with sealed("distilling"):
        assert _in_thread(lambda: _is_sealed(dataset))
    assert not _in_thread(lambda: _is_sealed(dataset))


def test_overlapping_seals_of_two_threads() -> None:
    dataset, entered, leave = toy(), threading.Event(), threading.Event()

    def other() -> None:
        with sealed("other"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with sealed("first"):
        thread.start()
        assert entered.wait(600)
    assert _is_sealed(dataset)
    leave.set()
    thread.join()
    assert not _is_sealed(dataset)


def test_looks_are_counted_across_copies() -> None:
    dataset = toy()
    copied = dataset.to("cpu")
    dataset.test()
    copied.test()
    assert dataset.test_looks == copied.test_looks == 2
