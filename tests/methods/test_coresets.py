"""Coreset selections against the authors' choices, and on real digits."""

from __future__ import annotations

import pytest
import torch
from support import golden, tensor

from harness.data.toy import toy
from harness.errors import DataError
from methods import herding, kcenter, random
from methods.api import Context

SHORT = {"train_steps": 5, "train_batch": 16}


def test_herding_matches_authors() -> None:
    arrays = golden("select_herding")
    features, targets = tensor(arrays["features"]), tensor(arrays["targets"])
    for c, expected in enumerate(arrays["herding"]):
        rows = (targets == c).nonzero().flatten()
        assert rows[herding.herd(features[rows], len(expected))].tolist() == expected.tolist()


@pytest.mark.parametrize("case", ["k0", "k1"])
def test_kcenter_matches_authors(case: str) -> None:
    arrays = golden("select_kcenter")
    features, start = tensor(arrays["features"]), tensor(arrays[f"{case}_start"])
    expected = arrays[f"{case}_out"].tolist()
    chosen = kcenter.cover(features, start, len(expected) - len(start))
    assert sorted(chosen.tolist()) == expected


def test_kcenter_from_a_random_start_matches_authors() -> None:
    arrays = golden("select_kcenter")
    start = tensor(arrays["k_rand_first"]).view(1)
    expected = arrays["k_rand_out"].tolist()
    chosen = kcenter.cover(tensor(arrays["features"]), start, len(expected) - 1)
    assert sorted(chosen.tolist()) == expected


@pytest.mark.parametrize("method", [random, herding, kcenter])
def test_coresets_are_real_images_of_their_class(method: object) -> None:
    data = toy(num_classes=3, per_class=9)
    config = method.Config(**({} if method is random else SHORT))
    distilled = method.distill(data, 4, config=config, context=Context(arch="ConvNetW8"))
    everything = data.batch(torch.arange(len(data)))
    for image, label in zip(distilled.images, distilled.labels, strict=True):
        same = (everything == image).flatten(1).all(dim=1)
        assert data.labels[same].tolist() == [int(label)]
    assert len(torch.unique(distilled.images, dim=0)) == 12


def test_kcenter_starts_differ() -> None:
    data = toy(num_classes=3, per_class=20)
    mean = kcenter.distill(data, 1, config=kcenter.Config(**SHORT), context=Context(arch="ConvNetW8"))
    other = kcenter.Config(**SHORT, start="random")
    drawn = kcenter.distill(data, 1, config=other, context=Context(arch="ConvNetW8"))
    assert mean.digest() != drawn.digest()


@pytest.mark.parametrize("method", [random, herding, kcenter])
def test_more_than_a_class_has_is_refused(method: object) -> None:
    config = method.Config(**({} if method is random else SHORT))
    with pytest.raises(DataError, match="choose an ipc of at most"):
        method.distill(toy(per_class=5), 6, config=config, context=Context(arch="ConvNetW8"))
