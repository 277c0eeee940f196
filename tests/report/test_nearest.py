"""The real image nearest to a distilled one, on the embedded digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.core.data import Dataset, load, parse
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.report.nearest import nearest_real, train_split


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse("digits", Path()), Path(), download=False)


def saved(path: Path, pixels: torch.Tensor, labels: torch.Tensor, data: Dataset, **facts: Any) -> Path:
    """A distilled file of pixels in [0, 1], of the digits."""
    Distilled(
        data.transform(pixels), labels, ipc=1, dataset="digits", class_names=data.class_names,
        transform=data.transform, method="dm", **facts,
    ).save(path)  # fmt: skip
    return path


def unit(data: Dataset, indices: torch.Tensor) -> torch.Tensor:
    """Train images as pixels in [0, 1]."""
    return data.images[indices].float() / 255


def firsts(data: Dataset) -> torch.Tensor:
    """Place of the first train image of each class."""
    return torch.stack([(data.labels == c).nonzero()[0, 0] for c in range(data.num_classes)])


def test_a_real_image_is_its_own_nearest_at_no_distance(digits: Dataset, tmp_path: Path) -> None:
    places = firsts(digits)
    path = saved(tmp_path / "set.safetensors", unit(digits, places), digits.labels[places], digits)
    matches = nearest_real(path, digits)
    assert matches.indices.tolist() == places.tolist()
    assert matches.distances.max() < 1e-6
    assert np.array_equal(matches.real, matches.synthetic)
    assert matches.classes.tolist() == matches.real_classes.tolist() == list(range(10))


def test_distances_are_those_of_a_plain_search(digits: Dataset, tmp_path: Path) -> None:
    pixels = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    matches = nearest_real(saved(tmp_path / "s.safetensors", pixels, torch.arange(10), digits), digits)
    train = digits.images.double().flatten(1) / 255
    for k, image in enumerate(pixels.double().flatten(1)):
        distances = (train - image).square().mean(1).sqrt()
        assert matches.distances[k] == pytest.approx(float(distances.min()), abs=1e-6)
        assert matches.indices[k] == int(distances.argmin())
        assert matches.real_classes[k] == int(digits.labels[matches.indices[k]])


def test_chunks_change_nothing(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    path = saved(tmp_path / "set.safetensors", pixels, torch.arange(10), digits)
    whole = nearest_real(path, digits)
    monkeypatch.setattr("harness.report.nearest.CHUNK", 3)
    assert nearest_real(path, digits).indices.tolist() == whole.indices.tolist()


def test_black_and_white_are_one_apart(digits: Dataset, tmp_path: Path) -> None:
    path = saved(tmp_path / "set.safetensors", torch.ones(10, 1, 8, 8), torch.arange(10), digits)
    empty = load(parse("digits", Path()), Path(), download=False)
    empty.images.zero_()
    assert nearest_real(path, empty).distances == pytest.approx([1.0] * 10, abs=1e-6)


def test_tiles_are_decoded_first(digits: Dataset, tmp_path: Path) -> None:
    pixels = torch.zeros(10, 1, 8, 8)
    pixels[:, :, :4, :4] = 1.0  # the first tile is white, which decodes to a white image
    path = saved(tmp_path / "set.safetensors", pixels, torch.arange(10), digits, factor=2)
    matches = nearest_real(path, digits)
    assert (matches.synthetic == 255).all()
    assert len(matches.synthetic) == 10


@pytest.mark.parametrize("factor", [1, 2])
def test_classes_are_those_of_the_set_where_soft_labels_point_elsewhere(
    digits: Dataset, tmp_path: Path, factor: int
) -> None:
    pixels = torch.arange(10.0)[:, None, None, None].expand(10, 1, 8, 8) / 10
    elsewhere = torch.eye(10).roll(1, dims=1)
    facts = {"classes": torch.arange(10), "factor": factor}
    matches = nearest_real(saved(tmp_path / "set.safetensors", pixels, elsewhere, digits, **facts), digits)
    assert matches.classes.tolist() == list(range(10))
    assert matches.synthetic[:, 0, 0, 0] == pytest.approx([25.5 * c for c in range(10)], abs=1)


def test_images_of_another_size_are_refused(digits: Dataset, tmp_path: Path) -> None:
    path = saved(tmp_path / "set.safetensors", torch.rand(10, 1, 4, 4), torch.arange(10), digits)
    with pytest.raises(UserError, match="holds images"):
        nearest_real(path, digits)


def test_another_train_split_is_refused(make_record: Any, digits: Dataset) -> None:
    facts = {"dataset": "digits", "dataset_source": "digits"}
    same = make_record(**facts, dataset_fingerprint=digits.fingerprint)
    assert train_split(same, Path()).fingerprint == digits.fingerprint
    with pytest.raises(UserError, match="fingerprint"):
        train_split(make_record(**facts, dataset_fingerprint="0" * 16), Path())


def test_absent_data_are_not_downloaded(make_record: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train_split(make_record(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_set_with_a_curve_is_compared_with_what_it_was_distilled_from(
    make_record: Any, digits: Dataset
) -> None:
    kept, _ = digits.hold_out(0.1)
    record = make_record(
        dataset="digits", dataset_source="digits", curve=4, dataset_fingerprint=kept.fingerprint
    )
    assert len(train_split(record, Path())) == len(kept)
