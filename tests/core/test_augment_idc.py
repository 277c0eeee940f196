"""Augmentation of the IDC family: stages that follow one another, against the authors', and cutmix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, golden, tensor
from torch import Tensor

from harness.core import augment as dsa
from harness.core.augment import Draws, augment, cutmix, draw_window, sample_draws
from harness.core.errors import UnknownNameError

PIPELINE = "flip>color>crop_scale_rotate>cutout"
SINGLE = {
    "brightness": lambda x, v: dsa.brightness(x, v[:, 0]),
    "saturation": lambda x, v: dsa.saturation(x, v[:, 0]),
    "contrast": lambda x, v: dsa.contrast(x, v[:, 0]),
    "translate": lambda x, v: dsa.crop(x, v[:, [1, 0]]),  # of columns alone
    **{name: dsa.OPERATIONS[name] for name in ("flip", "crop", "scale", "rotate", "cutout")},
}
CASES = sorted(key.removesuffix("_out") for key in golden("aug_idc") if key.endswith("_out"))
PIPELINES = [case for case in CASES if case.startswith("full_")]


@pytest.mark.golden("aug_idc", "idc", "dream", "ncfm")
@pytest.mark.parametrize("case", [case for case in CASES if case not in PIPELINES])
def test_operation_matches_authors(case: str) -> None:
    arrays = golden("aug_idc")
    images = tensor(arrays["x"])
    values = torch.zeros(len(images), 3)
    for k in range(sum(key.startswith(f"{case}_draw") for key in arrays)):
        values[:, k] = tensor(arrays[f"{case}_draw{k}"]).float()
    assert_close(SINGLE[case.rpartition("_")[0]](images, values), arrays[f"{case}_out"])


def stages(rows: int, *drawn: tuple[int, np.ndarray]) -> Draws | None:
    """Draws of stages, each the index of its operation and that operation's values."""
    if not drawn:
        return None
    operation, numbers = drawn[0]
    values = torch.zeros(rows, 3)
    values[:, : len(numbers)] = tensor(numbers).float()
    return Draws(torch.full((rows,), operation), values, then=stages(rows, *drawn[1:]))


@pytest.mark.golden("aug_idc", "idc", "dream", "ncfm")
@pytest.mark.parametrize("case", PIPELINES)
def test_pipeline_matches_authors(case: str) -> None:
    arrays = golden("aug_idc")
    images, choice, drawn = tensor(arrays["x"]), int(arrays[f"{case}_choice"]), arrays[f"{case}_draws"]
    draws = stages(len(images), (0, drawn[:1]), (0, drawn[1:4]), (choice, drawn[4:-2]), (0, drawn[-2:]))
    assert draws is not None
    assert_close(augment(images, PIPELINE, draws), arrays[f"{case}_out"])


def test_stages_are_drawn_as_strategies_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = sample_draws("color>crop_flip", 50, (16, 16), generator)
    assert draws.then is not None
    assert draws.then.then is None
    assert set(draws.operation.tolist()) == {0}
    assert set(draws.then.operation.tolist()) == {0, 1}
    images = torch.randn(50, 3, 16, 16)
    apart = augment(images, "color", Draws(draws.operation, draws.values))
    assert torch.equal(augment(images, "color>crop_flip", draws), augment(apart, "crop_flip", draws.then))


def test_rows_of_all_stages_are_taken_together() -> None:
    draws = sample_draws(PIPELINE, 4, (8, 8), torch.Generator().manual_seed(0))
    rows = draws.rows(torch.tensor([3, 3, 0]))
    while draws.then is not None and rows.then is not None:
        assert torch.equal(rows.values, draws.values[[3, 3, 0]])
        draws, rows = draws.then, rows.then
    assert draws.then is rows.then is None


def test_unknown_operation_in_a_later_stage_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'colour'"):
        dsa.operations("crop>colour")


def mixed(window: tuple[slice, slice], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images, labels and partners, and images and labels after cutmix."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(5, 3, 6, 8, generator=generator), F.one_hot(torch.arange(5) % 3, 3).float()
    partner = torch.randperm(5, generator=generator)
    return images, labels, partner, *cutmix(images, labels, partner, window)


def test_cutmix_pastes_the_window_and_mixes_labels_by_area() -> None:
    images, labels, partner, out, targets = mixed((slice(1, 4), slice(2, 6)))
    for row in range(6):
        for column in range(8):
            inside = 1 <= row < 4 and 2 <= column < 6
            source = images[partner] if inside else images
            assert torch.equal(out[:, :, row, column], source[:, :, row, column])
    torch.testing.assert_close(targets, labels * 0.75 + labels[partner] * 0.25)


def test_cutmix_loss_is_the_authors_weighted_sum() -> None:
    _, labels, partner, _, targets = mixed((slice(0, 3), slice(0, 4)))
    logits, hard = torch.randn(5, 3), labels.argmax(dim=1)
    theirs = 0.75 * F.cross_entropy(logits, hard) + 0.25 * F.cross_entropy(logits, hard[partner])
    torch.testing.assert_close(F.cross_entropy(logits, targets), theirs)


@pytest.mark.parametrize("empty", [(slice(2, 2), slice(0, 8)), (slice(0, 0), slice(0, 0))])
def test_an_empty_window_changes_nothing(empty: tuple[slice, slice]) -> None:
    images, labels, _, out, targets = mixed(empty)
    assert torch.equal(out, images)
    assert torch.equal(targets, labels)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([(32, 32), (28, 28), (7, 12), (1, 1)]))
def test_windows_lie_in_the_image(seed: int, size: tuple[int, int]) -> None:
    for part, length in zip(draw_window(size, torch.Generator().manual_seed(seed)), size, strict=True):
        assert 0 <= part.start <= part.stop <= length


def test_windows_are_as_large_as_the_authors() -> None:
    generator, theirs = torch.Generator().manual_seed(0), np.random.default_rng(0)
    ours = torch.tensor(
        [[part.stop - part.start for part in draw_window((32, 32), generator)] for _ in range(5000)]
    )
    extent = (32 * np.sqrt(1 - theirs.beta(1, 1, size=5000))).astype(int)
    centre = theirs.integers(32, size=(2, 5000))
    reference = (centre + extent // 2).clip(0, 32) - (centre - extent // 2).clip(0, 32)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        area = float(ours.prod(dim=1).float().quantile(share)) / 1024
        assert abs(area - float(np.quantile(reference.prod(axis=0), share)) / 1024) < 0.03
