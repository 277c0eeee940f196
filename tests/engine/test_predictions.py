"""Predictions: what goes in comes out, in few bytes and the same ones; any other file is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import SMALL_TRIAL

from harness.core.errors import UserError
from harness.engine.predictions import Predictions, predictions_path, read_predictions, write_predictions
from harness.engine.records import Record


def some(networks: int = 3, tests: int = 50, classes: int = 10, seed: int = 0) -> Predictions:
    numbers = np.random.default_rng(seed)
    return Predictions.of(
        numbers.integers(0, classes, (networks, tests)),
        numbers.uniform(1 / classes, 1, (networks, tests)),
        numbers.integers(0, classes, tests),
        "sha256:test",
    )


def same(one: Predictions, other: Predictions) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("predicted", "probability", "labels")
    ) and (one.test_fingerprint == other.test_fingerprint)


@given(st.integers(1, 4), st.integers(1, 30), st.sampled_from([2, 10, 256, 257, 1000]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, networks: int, tests: int, classes: int
) -> None:
    found, path = some(networks, tests, classes), tmp_path_factory.mktemp("kept") / "a.npz"
    write_predictions(found, path)
    assert same(read_predictions(path), found)


def test_classes_take_one_byte_up_to_256_and_probabilities_two() -> None:
    few, many = some(classes=256), some(tests=5000, classes=257)
    assert (few.predicted.dtype, few.labels.dtype, few.probability.dtype) == (np.uint8, np.uint8, np.float16)
    assert (many.predicted.dtype, many.labels.dtype) == (np.uint16, np.uint16)


def test_the_same_predictions_are_the_same_bytes_and_small(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_predictions(some(tests=10_000), tmp_path / f"{name}.npz")
    content = (tmp_path / "a.npz").read_bytes()
    assert content == (tmp_path / "b.npz").read_bytes()
    assert len(content) < 3 * 10_000 * 3 + 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"], "nothing is left aside"


def test_right_says_which_predictions_are_the_labels() -> None:
    found = Predictions.of([[1, 2, 0], [1, 1, 1]], [[0.5] * 3] * 2, [1, 2, 2], "f")
    assert found.right.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"predicted": [[0.5, 1.0]]}, "predicted is float64"),
        ({"predicted": [[-1, 0]]}, "predicted is int64"),
        ({"predicted": [[70_000, 0]]}, "predicted is uint32"),
        ({"predicted": [0, 1]}, "shape"),
        ({"predicted": [[0, 1, 2]]}, "labels are"),
        ({"predicted": np.zeros((0, 2), int)}, "predicted is int64 of shape"),
        ({"labels": []}, "labels is"),
        ({"probability": [[0.5, 1.5]]}, "outside of"),
        ({"probability": [[0.5, float("nan")]]}, "outside of"),
        ({"probability": [[0.5]]}, "probability is"),
        ({"test_fingerprint": ""}, "test_fingerprint is empty"),
    ],
)
def test_arrays_that_are_no_predictions_are_refused(changed: dict[str, Any], said: str) -> None:
    good = {"predicted": [[0, 1]], "probability": [[0.5, 0.5]], "labels": [0, 1], "test_fingerprint": "f"}
    Predictions.of(**good)
    with pytest.raises(ValueError, match=said):
        Predictions.of(**good | changed)


def arrays() -> dict[str, Any]:
    found = some()
    return {
        "predicted": found.predicted,
        "probability": found.probability,
        "labels": found.labels,
        "test_fingerprint": np.asarray("f"),
    }


def archive(**changes: Any) -> bytes:
    content = {name: array for name, array in (arrays() | changes).items() if array is not None}
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    return file.getvalue()


def single() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("predicted.npy", "no array")
    return file.getvalue()


def pickled() -> bytes:
    return archive(labels=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        b"PK\x03\x04",
        single(),
        other_zip(),
        pickled(),
        archive()[:-30],
        archive(labels=None),
        archive(more=np.zeros(3)),
        archive(predicted=some().predicted.astype(np.int64)),
        archive(probability=some().probability.astype(np.float64)),
        archive(labels=some().labels[:-1]),
        archive(test_fingerprint=np.asarray(3)),
        archive(test_fingerprint=np.asarray(["f", "g"])),
    ],
    ids=str.split("empty text stub single zip pickle cut lacking more int64 float64 short number several"),
)
def test_any_other_file_costs_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="does not hold predictions") as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    path, numbers = tmp_path / "a.npz", np.random.default_rng(0)
    write_predictions(some(), path)
    content = path.read_bytes()
    for place, value in zip(
        numbers.integers(0, len(content), 400), numbers.integers(0, 256, 400), strict=True
    ):
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        with suppress(UserError):
            assert same(read_predictions(path), some())


def test_a_file_that_is_not_there_and_a_folder_cost_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no predictions at"):
        read_predictions(tmp_path / "none.npz")
    with pytest.raises(UserError, match="does not hold predictions"):
        read_predictions(tmp_path)


def test_they_lie_beside_the_record(tmp_path: Path) -> None:
    record = Record(id=SMALL_TRIAL.id, status="done", trial=SMALL_TRIAL)
    path = predictions_path(record, tmp_path)
    assert path.parent == record.trial.record_path(tmp_path).parent
    assert path.name == record.trial.record_path(tmp_path).name.replace(".json", ".npz")


def test_reading_them_needs_no_torch() -> None:
    code = "import harness.engine.predictions, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
