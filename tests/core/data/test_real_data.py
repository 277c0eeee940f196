"""The real files, where HARNESS_DATA says they are: counts and statistics that the field publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.core.data import Normalization, load, parse
from harness.core.data.catalog import KNOWN
from harness.core.errors import DataError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if not known.embedded])
def test_published_datasets(name: str, real_data: Path) -> None:
    facts = KNOWN[name]
    try:
        dataset = load(parse(name, real_data), real_data, download=False)
    except DataError as error:
        pytest.skip(str(error))
    test = dataset.test()
    assert (dataset.shape, dataset.num_classes, len(dataset), len(test)) == (
        facts.shape,
        facts.classes,
        facts.train,
        facts.test,
    )
    mean = Normalization.fit(dataset.images).state()["mean"]
    # TinyImageNet goes by the statistics of the whole of ImageNet.
    assert torch.allclose(mean, torch.tensor(facts.mean), atol=0.02 if name == "tinyimagenet" else 5e-4)


def test_cifar10_jpeg(real_data: Path) -> None:
    if not (real_data / "cifar10-jpeg").is_dir():
        pytest.skip(f"no cifar10-jpeg in {real_data}")
    dataset = load(parse("folder:cifar10-jpeg", real_data), real_data)
    assert (dataset.name, dataset.shape, len(dataset), len(dataset.test())) == (
        "cifar10-jpeg",
        (3, 32, 32),
        50_000,
        10_000,
    )
    assert dataset.labels.bincount().tolist() == [5000] * 10
    # JPEG moves single pixels, not the mean of the original.
    assert torch.allclose(dataset.transform.state()["mean"], torch.tensor(KNOWN["cifar10"].mean), atol=2e-3)


def test_fashion_mini_is_the_beginning_of_each_class_of_fashion_mnist(real_data: Path) -> None:
    try:
        whole = load(parse("fashionmnist", real_data), real_data, download=False)
    except DataError as error:
        pytest.skip(str(error))
    mini = load(parse("fashion-mini", real_data), real_data)
    assert mini.class_names == whole.class_names
    for part, source, count in ((mini, whole, 400), (mini.test(), whole.test(), 200)):
        rows = torch.cat([(source.labels == c).nonzero().flatten()[:count] for c in range(10)]).sort().values
        assert torch.equal(part.labels, source.labels[rows])
        assert torch.equal(part.batch(slice(None)), source.batch(rows))
