"""Multi-formation against the tiles of IDM's and IDC's authors, their order and gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, golden, tensor

from harness.core.errors import UserError
from harness.core.formation import compose, decode, decode_by_class


@pytest.mark.golden("idm_partition", "idm", "bacon")
def test_decode_matches_authors() -> None:
    arrays = golden("idm_partition")
    images = tensor(arrays["x"]).requires_grad_()
    out = decode(images, 2)
    assert_close(out, arrays["out"])
    (gradient,) = torch.autograd.grad((out * tensor(arrays["cot"])).sum(), images)
    assert_close(gradient, arrays["grad"])
    assert_close(decode(tensor(arrays["xg"]), 2), arrays["outg"])


@pytest.mark.golden("idm_partition", "idm", "bacon")
def test_compose_matches_authors() -> None:
    arrays = golden("idm_partition")
    parts = tensor(arrays["init_src"]).split(2)
    assert_close(compose(parts, 2), arrays["init_out"])


def row_by_row(batches: list[torch.Tensor], factor: int) -> list[torch.Tensor]:
    """IDC's order of tiles from IDM's, or the other way round."""
    return [batches[column * factor + row] for row in range(factor) for column in range(factor)]


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("factor", [2, 3])
def test_decode_gives_the_images_of_idc(factor: int) -> None:
    # 16 pixels are not divisible by 3: the authors add two rows and columns of grey.
    arrays = golden("idc_decode")
    tiles = decode(tensor(arrays["x"]), factor, fill=0.5).split(len(arrays["x"]))
    assert_close(torch.cat(row_by_row(list(tiles), factor)), arrays[f"single{factor}"])
    assert len(set(arrays[f"single{factor}_y"].tolist())) == 1


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("factor", [2, 3])
def test_compose_from_nearest_pixels_matches_idc(factor: int) -> None:
    arrays = golden("idc_decode")
    parts = tensor(arrays[f"mix{factor}_src"]).split(len(arrays[f"mix{factor}_out"]))
    images = compose(row_by_row(list(parts), factor), factor, nearest=True)
    assert torch.equal(images, tensor(arrays[f"mix{factor}_out"]))


def test_decoding_by_class_keeps_classes_together() -> None:
    images = torch.randn(6, 3, 8, 8)
    by_class = decode_by_class(images, 2, classes=3)
    for c in range(3):
        torch.testing.assert_close(by_class[8 * c : 8 * (c + 1)], decode(images[2 * c : 2 * c + 2], 2))


def test_factor_one_changes_nothing() -> None:
    images = torch.randn(2, 1, 7, 7)
    assert decode(images, 1) is images
    assert decode_by_class(images, 1, 2) is images
    torch.testing.assert_close(compose([images], 1), images)


@settings(max_examples=50)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(2, 3))
def test_any_size_is_tiled_without_gaps(height: int, width: int, factor: int) -> None:
    parts = [torch.full((1, 1, height, width), float(k)) for k in range(factor**2)]
    for nearest in (False, True):
        images = compose(parts, factor, nearest=nearest)
        assert images.round(decimals=3).unique().tolist() == list(range(factor**2))
    decoded = decode(images, factor)
    assert decoded.shape == (factor**2, 1, height, width)


def test_more_tiles_than_pixels_are_refused() -> None:
    with pytest.raises(UserError, match="factor 8 leaves no pixel of images of 7x7"):
        compose([torch.randn(1, 1, 7, 7)] * 64, 8)
