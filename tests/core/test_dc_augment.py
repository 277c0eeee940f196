"""DC's evaluation augmentation against the authors' outputs, and its draws."""

from __future__ import annotations

import pytest
import torch
from support import assert_close, golden, tensor

from harness.core import dc_augment
from harness.core.dc_augment import DCDraws, augment, operations, sample_draws
from harness.core.errors import UnknownNameError

EVERYTHING = "dc:crop_scale_rotate_noise"
CASES = sorted(key.removesuffix("_choice") for key in golden("aug_dc_eval") if key.endswith("_choice"))


@pytest.mark.golden("aug_dc_eval")
@pytest.mark.parametrize("case", CASES)
def test_matches_authors(case: str) -> None:
    arrays = golden("aug_dc_eval")
    strategy = "dc:crop_noise" if f"{case}_noise" in arrays else "dc:crop_scale_rotate"
    choice, pairs = tensor(arrays[f"{case}_choice"]), tensor(arrays[f"{case}_draws"])
    values = {name: pairs[choice == k] for k, name in enumerate(operations(strategy))}
    if "rotate" in values:
        values["rotate"] = values["rotate"][:, 0]
    if "noise" in values:
        values["noise"] = tensor(arrays[f"{case}_noise"])
    images = tensor(arrays[f"{case}_x"])
    assert_close(augment(images, strategy, DCDraws(choice, values)), arrays[f"{case}_out"])
    assert torch.equal(images, tensor(arrays[f"{case}_x"])), "the images given stay as they are"


def test_draws_cover_the_authors_ranges_and_nothing_else() -> None:
    draws = sample_draws(EVERYTHING, (4000, 1, 8, 8), torch.Generator().manual_seed(0))
    counts = draws.operation.bincount().tolist()
    assert all(900 < count < 1100 for count in counts)
    values = draws.values
    assert [len(values[name]) for name in operations(EVERYTHING)] == counts
    assert values["crop"].unique().tolist() == list(range(8))
    assert (int(values["rotate"].min()), int(values["rotate"].max())) == (-45, 44)
    assert 0.8 <= float(values["scale"].min()) < 0.81
    assert 1.19 < float(values["scale"].max()) < 1.2
    assert abs(float(values["noise"].std()) - 1) < 0.02


def test_only_the_operations_that_were_drawn_change_an_image() -> None:
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    nothing = {
        "crop": torch.tensor([[dc_augment.CROP_PIXELS] * 2]),
        "scale": torch.ones(1, 2),
        "noise": torch.zeros(1, 2, 8, 8),
        "rotate": torch.empty(0),
    }
    draws = DCDraws(torch.tensor([0, 3, 1]), nothing)
    assert torch.equal(augment(images, EVERYTHING, draws), images)


@pytest.mark.parametrize(
    "shape", [(5, 3, 32, 32), (5, 1, 8, 8), (5, 3, 64, 64), (5, 3, 12, 20), (1, 1, 28, 28)]
)
def test_any_shape_goes_through(shape: tuple[int, int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(shape, generator=generator)
    for name in dc_augment.OPERATIONS:
        strategy = f"dc:{name}"
        out = augment(images, strategy, sample_draws(strategy, shape, generator))
        assert out.shape == shape
        assert bool(torch.isfinite(out).all())


def test_strategies_of_other_kinds_hold_none_of_its_operations() -> None:
    assert operations("") == operations("color_crop") == operations("none") == ()
    for strategy in ("dc:blur", "dc:", "dc:crop>flip"):
        with pytest.raises(UnknownNameError, match="unknown augmentation"):
            operations(strategy)
