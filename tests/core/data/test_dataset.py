"""The dataset object itself: batches, fingerprints, devices and the toy."""

from __future__ import annotations

import pytest
import torch

from harness.core.data import Dataset, DatasetSpec, Normalization, Samples
from harness.core.data.dataset import class_numbers
from harness.core.data.toy import toy
from harness.core.errors import DataError


def test_toy_is_repeatable_separable_and_leaves_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    dataset = toy(4, (1, 6, 5), per_class=7, test_per_class=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (dataset.shape, dataset.num_classes, len(dataset)) == ((1, 6, 5), 4, 28)
    assert dataset.labels.bincount().tolist() == [7] * 4
    again = toy(4, (1, 6, 5), per_class=7, test_per_class=3, seed=1)
    assert dataset.fingerprint == again.fingerprint
    assert dataset.test().fingerprint == again.test().fingerprint
    assert dataset.fingerprint != toy(4, (1, 6, 5), 7, 3, seed=2).fingerprint
    means = torch.stack([dataset.batch(dataset.labels == c).mean(0) for c in range(4)]).flatten(1)
    test = dataset.test()
    nearest = torch.cdist(test.batch(slice(None)).flatten(1), means).argmin(1)
    assert torch.equal(nearest, test.labels)


def test_batch_gathers_and_transforms() -> None:
    dataset = toy()
    rows = torch.tensor([5, 0, 5])
    batch = dataset.batch(rows)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, dataset.transform(dataset.images[rows]))
    assert torch.equal(batch, dataset.batch(slice(None))[rows])
    whole = dataset.batch(slice(None))
    assert torch.allclose(whole.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(whole.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def _tiny(images: torch.Tensor, labels: list[int], names: tuple[str, ...] = ("a", "b")) -> Dataset:
    samples = Samples(images, torch.tensor(labels), names)
    return Dataset(DatasetSpec("x", "toy"), samples, Normalization.of([0.5], [0.5]), lambda: samples)


def test_fingerprint_sees_pixels_labels_names_and_shape() -> None:
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    prints = {
        _tiny(images, [0, 1]).fingerprint,
        _tiny(images + 1, [0, 1]).fingerprint,
        _tiny(images, [1, 0]).fingerprint,
        _tiny(images, [0, 1], ("a", "c")).fingerprint,
        _tiny(images.view(2, 1, 1, 4), [0, 1]).fingerprint,
    }
    assert len(prints) == 5
    assert all(len(value) == 16 for value in prints)
    assert _tiny(images.clone(), [0, 1]).fingerprint in prints


@pytest.mark.parametrize(
    ("count", "labels"),
    [(2, [0, 1, 0]), (2, [0, 2]), (2, [-1, 0]), (0, [])],
    ids=["length", "high", "low", "none"],
)
def test_samples_that_do_not_fit(count: int, labels: list[int]) -> None:
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"do not (match|fit)"):
        Samples(images, torch.tensor(labels, dtype=torch.int64), ("a", "b"))


def test_samples_of_wrong_type() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Samples(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64), ("a",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32, torch.uint8])
def test_class_numbers_of_any_type(dtype: torch.dtype) -> None:
    found = class_numbers(torch.tensor([0, 2, 1], dtype=dtype))
    assert found.tolist() == [0, 2, 1]
    assert found.dtype == torch.int64


@pytest.mark.parametrize("label", [0.3, 1.5, 0.9999, -0.2, float("nan"), float("inf")])
def test_fractional_labels_are_refused_not_rounded(label: float) -> None:
    with pytest.raises(DataError, match=r"label .* of image 1 is no class number, and 1 of 3 labels"):
        class_numbers(torch.tensor([0, label, 1]))


def test_a_test_split_of_another_size_is_refused() -> None:
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    train = Samples(images, labels, ("a", "b"))
    test = Samples(images.view(2, 1, 1, 4), labels, ("a", "b"))
    dataset = Dataset(DatasetSpec("x", "toy"), train, Normalization.of([0.5], [0.5]), lambda: test)
    with pytest.raises(DataError, match="test images are 1x1x4"):
        dataset.test()


class _Recorder:
    """Stands for a transform and notes where it is sent."""

    device = "where it was"

    def to(self, device: str) -> _Recorder:
        moved = _Recorder()
        moved.device = device
        return moved


def test_a_copy_takes_its_transform_along() -> None:
    samples = Samples(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), ("a",))
    dataset = Dataset(DatasetSpec("x", "toy"), samples, _Recorder(), lambda: samples)
    assert dataset.to("cpu").transform.device == "cpu"
    assert dataset.transform.device == "where it was"


@pytest.mark.gpu
def test_copy_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    dataset = toy()
    moved = dataset.to("cuda")
    assert torch.allclose(moved.batch(torch.tensor([1, 2])).cpu(), dataset.batch(slice(1, 3)), atol=1e-6)
    assert moved.test().images.is_cuda
    assert moved.fingerprint == dataset.fingerprint
