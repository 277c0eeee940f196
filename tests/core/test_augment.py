"""DSA: every operation against the authors' outputs and gradients, and the sampling of draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import assert_close, golden, tensor

from harness.core import augment as dsa
from harness.core.augment import Draws, augment, sample_draws
from harness.core.errors import UnknownNameError

SINGLE = {
    "brightness": lambda x, v: dsa.brightness(x, v[:, 0]),
    "saturation": lambda x, v: dsa.saturation(x, v[:, 0]),
    "contrast": lambda x, v: dsa.contrast(x, v[:, 0]),
    "crop": dsa.crop,
    "cutout": dsa.cutout,
    "flip": dsa.flip,
    "scale": dsa.scale,
    "rotate": dsa.rotate,
}


def cases_of(item: str, ending: str) -> list[str]:
    """The cases of a golden file that have an array of that ending."""
    return sorted(key.removesuffix(ending) for key in golden(item) if key.endswith(ending))


def values_of(arrays: dict, case: str, rows: int, first: int = 0, count: int | None = None) -> torch.Tensor:
    """Values (rows, 3) of `count` draws of a case, or of all; Siamese ones are those of the first image."""
    count = sum(key.startswith(f"{case}_draw") for key in arrays) if count is None else count
    values = torch.zeros(rows, 3)
    for k in range(count):
        draw = tensor(arrays[f"{case}_draw{first + k}"]).float()
        values[:, k] = draw[0] if case.endswith("siam") else draw
    return values


@pytest.mark.golden("aug_dsa_ops")
@pytest.mark.parametrize("case", cases_of("aug_dsa_ops", "_out"))
def test_operation_matches_authors(case: str) -> None:
    arrays, name = golden("aug_dsa_ops"), case.rpartition("_")[0]
    size = "_odd" if name.endswith("odd") else ""
    images = tensor(arrays[f"x{size}"]).requires_grad_()
    out = SINGLE[name.removesuffix("odd")](images, values_of(arrays, case, len(images)))
    assert_close(out, arrays[f"{case}_out"])
    (gradient,) = torch.autograd.grad((out * tensor(arrays[f"cot{size}"])).sum(), images)
    assert_close(gradient, arrays[f"{case}_grad"])


@pytest.mark.golden("aug_dsa_full")
@pytest.mark.parametrize("case", cases_of("aug_dsa_full", "_choice"))
def test_siamese_call_matches_authors(case: str) -> None:
    arrays = golden("aug_dsa_full")
    values = torch.zeros(1, 3)
    drawn = tensor(arrays[f"{case}_draws"]).float()
    values[0, : len(drawn)] = drawn
    draws = Draws(torch.tensor([int(arrays[f"{case}_choice"])]), values)
    for side in ("real", "syn"):
        images = tensor(arrays[f"x_{side}"])
        rows = torch.zeros(len(images), dtype=torch.int64)
        out = augment(images, dsa.FULL_STRATEGY, draws.rows(rows))
        assert_close(out, arrays[f"{case}_{side}"])


@pytest.mark.golden("aug_dsa_full")
@pytest.mark.parametrize("case", cases_of("aug_dsa_full", "_out"))
def test_all_operations_in_order_match_authors(case: str) -> None:
    arrays = golden("aug_dsa_full")
    out = tensor(arrays["x_real"])
    first = 0
    for name, count in (("color", 3), ("crop", 2), ("cutout", 2), ("flip", 1), ("scale", 2), ("rotate", 1)):
        out = dsa.OPERATIONS[name](out, values_of(arrays, case, len(out), first, count))
        first += count
    assert_close(out, arrays[f"{case}_out"])


@pytest.mark.golden("aug_mtt_affine", "mtt", "tesla")
@pytest.mark.parametrize("case", cases_of("aug_mtt_affine", "_out"))
def test_affine_with_aligned_corners_matches_mtt(case: str) -> None:
    arrays = golden("aug_mtt_affine")
    images = tensor(arrays["x"])
    operation = dsa.RESAMPLING[case.rpartition("_")[0]]
    assert_close(
        operation(images, values_of(arrays, case, len(images)), align_corners=True), arrays[f"{case}_out"]
    )


def test_one_call_for_all_classes_equals_a_call_per_class() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(24, 3, 16, 16, generator=generator)
    classes = torch.arange(8).repeat_interleave(3)
    draws = sample_draws(dsa.FULL_STRATEGY, 8, (16, 16), generator)
    together = augment(images, dsa.FULL_STRATEGY, draws.rows(classes))
    for c in range(8):
        alone = augment(images[classes == c], dsa.FULL_STRATEGY, draws.rows(classes[classes == c]))
        torch.testing.assert_close(together[classes == c], alone)


@given(st.integers(0, 2**31), st.sampled_from([(28, 28), (32, 32), (8, 8), (12, 20), (9, 7)]))
def test_draws_stay_in_the_authors_ranges(seed: int, size: tuple[int, int]) -> None:
    draws = sample_draws(dsa.FULL_STRATEGY, 400, size, torch.Generator().manual_seed(seed))
    names = dsa.operations(dsa.FULL_STRATEGY)
    crop = draws.values[draws.operation == names.index("crop"), :2]
    cutout = draws.values[draws.operation == names.index("cutout"), :2]
    for axis, length in enumerate(size):
        reach, window = int(length * 0.125 + 0.5), int(length * 0.5 + 0.5)
        assert set(crop[:, axis].tolist()) == set(range(-reach, reach + 1)) or len(crop) < 200
        assert crop[:, axis].abs().max() <= reach
        assert cutout[:, axis].min() >= 0
        assert cutout[:, axis].max() <= length - window % 2
        assert bool((cutout == cutout.round()).all())


def test_every_operation_is_drawn_equally_often() -> None:
    draws = sample_draws(dsa.FULL_STRATEGY, 6000, (32, 32), torch.Generator().manual_seed(0))
    counts = draws.operation.bincount(minlength=6)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_one_operation_for_the_batch_but_parameters_for_each_image() -> None:
    draws = sample_draws(
        dsa.FULL_STRATEGY, 50, (32, 32), torch.Generator().manual_seed(3), one_operation=True
    )
    assert len(set(draws.operation.tolist())) == 1
    assert len({tuple(row) for row in draws.values.tolist()}) > 10


def test_unknown_operation_names_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"'colour'; did you mean 'color'\? available: color, crop"):
        dsa.operations("colour_crop")


def test_no_strategy_changes_nothing() -> None:
    assert dsa.operations("none") == ()
    images = torch.randn(2, 1, 8, 8)
    assert augment(images, "", Draws(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3))) is images
