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
CASES = [(name, mode, "") for name in SINGLE for mode in ("indep", "siam")]
CASES += [(name, mode, "odd") for name in ("crop", "cutout") for mode in ("indep", "siam")]


def values_of(arrays: dict, prefix: str, rows: int, siamese: bool) -> torch.Tensor:
    draws = [arrays[f"{prefix}_draw{k}"] for k in range(3) if f"{prefix}_draw{k}" in arrays]
    values = torch.zeros(rows, 3)
    for k, draw in enumerate(draws):
        values[:, k] = float(draw[0]) if siamese else tensor(draw).float()
    return values


@pytest.mark.golden("aug_dsa_ops")
@pytest.mark.parametrize(("name", "mode", "odd"), CASES)
def test_operation_matches_authors(name: str, mode: str, odd: str) -> None:
    arrays = golden("aug_dsa_ops")
    images = tensor(arrays["x_odd" if odd else "x"]).requires_grad_()
    cotangent = tensor(arrays["cot_odd" if odd else "cot"])
    prefix = f"{name}{odd}_{mode}"
    out = SINGLE[name](images, values_of(arrays, prefix, len(images), mode == "siam"))
    assert_close(out, arrays[f"{prefix}_out"])
    (gradient,) = torch.autograd.grad((out * cotangent).sum(), images)
    assert_close(gradient, arrays[f"{prefix}_grad"])


@pytest.mark.golden("aug_dsa_full")
@pytest.mark.parametrize("case", range(6))
def test_siamese_call_matches_authors(case: int) -> None:
    arrays = golden("aug_dsa_full")
    values = torch.zeros(1, 3)
    drawn = tensor(arrays[f"S{case}_draws"]).float()
    values[0, : len(drawn)] = drawn
    draws = Draws(torch.tensor([int(arrays[f"S{case}_choice"])]), values)
    for side in ("real", "syn"):
        images = tensor(arrays[f"x_{side}"])
        rows = torch.zeros(len(images), dtype=torch.int64)
        out = augment(images, dsa.FULL_STRATEGY, draws.rows(rows))
        assert_close(out, arrays[f"S{case}_{side}"])


@pytest.mark.golden("aug_dsa_full")
@pytest.mark.parametrize("mode", ["siam", "indep"])
def test_all_operations_in_order_match_authors(mode: str) -> None:
    arrays = golden("aug_dsa_full")
    out = tensor(arrays["x_real"])
    first = 0
    for name, count in (("color", 3), ("crop", 2), ("cutout", 2), ("flip", 1), ("scale", 2), ("rotate", 1)):
        values = torch.zeros(len(out), 3)
        for k in range(count):
            draw = arrays[f"M_{mode}_draw{first + k}"]
            values[:, k] = float(draw[0]) if mode == "siam" else tensor(draw).float()
        out = dsa.OPERATIONS[name](out, values)
        first += count
    assert_close(out, arrays[f"M_{mode}_out"])


@pytest.mark.golden("aug_mtt_affine", "mtt", "tesla")
@pytest.mark.parametrize("name", ["scale", "rotate"])
@pytest.mark.parametrize("mode", ["siam", "indep"])
def test_affine_with_aligned_corners_matches_mtt(name: str, mode: str) -> None:
    arrays = golden("aug_mtt_affine")
    images = tensor(arrays["x"])
    values = values_of(arrays, f"{name}_{mode}", len(images), mode == "siam")
    out = getattr(dsa, name)(images, values, align_corners=True)
    assert_close(out, arrays[f"{name}_{mode}_out"])


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
