"""The ceiling: every training image, once, whatever the ipc."""

from __future__ import annotations

import torch

from harness.core.context import Context
from harness.core.data import load, parse
from methods import whole


def test_it_is_the_train_split_class_after_class() -> None:
    context = Context()
    data = load(parse("digits", context.data_dir, None, False), context.data_dir)
    distilled = whole.distill(data, 1)
    assert len(distilled.images) == len(data)
    assert distilled.labels.bincount().tolist() == list(data.index.counts)
    assert bool((distilled.labels.diff() >= 0).all())
    everything = torch.arange(len(data))
    kept = {image.numpy().tobytes() for image in distilled.images}
    assert kept == {image.numpy().tobytes() for image in data.batch(everything)}


def test_the_ipc_has_no_effect_on_it() -> None:
    assert whole.distill("digits", 1).digest() == whole.distill("digits", 50).digest()
