"""Multi-formation against the tiles of IDM's and IDC's authors, their order and gradient."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, golden, tensor
from torch import Tensor

from harness.core.data import Normalization
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.formation import compose, decode, decode_by_class


def decoded_labels(images: Tensor, labels: np.ndarray, factor: int) -> list[int]:
    """Labels of the decoded images of a set with these labels."""
    plain = Normalization.of((0.0,), (1.0,))
    made = Distilled(images.detach(), tensor(labels), 1, "golden", (), plain, factor=factor)
    return made.decoded()[1].tolist()


@pytest.mark.golden("idm_partition", "idm", "bacon")
def test_decode_matches_authors() -> None:
    arrays = golden("idm_partition")
    images = tensor(arrays["x"]).requires_grad_()
    out = decode(images, 2)
    assert_close(out, arrays["out"])
    assert decoded_labels(images, arrays["y"], 2) == arrays["out_y"].tolist()
    (gradient,) = torch.autograd.grad((out * tensor(arrays["cot"])).sum(), images)
    assert_close(gradient, arrays["grad"])
    assert_close(decode(tensor(arrays["xg"]), 2), arrays["outg"])


@pytest.mark.golden("idm_partition", "idm", "bacon")
def test_decode_of_nine_tiles_matches_authors() -> None:
    arrays = golden("idm_partition")
    images = tensor(arrays["x3"])
    if images.shape[2] % 3 == 0:  # else the authors leave out the last pixels
        tiles = decode(images, 3).split(len(images))
        assert_close(torch.cat(row_by_row(list(tiles), 3)), arrays["out3"])
    assert decoded_labels(images, arrays["out3_y"][: len(images)], 3) == arrays["out3_y"].tolist()


@pytest.mark.golden("idm_partition", "idm", "bacon")
def test_compose_matches_authors() -> None:
    arrays = golden("idm_partition")
    parts = tensor(arrays["init_src"]).split(len(arrays["init_out"]))
    assert_close(compose(parts, 2), arrays["init_out"])


def row_by_row(batches: list[Tensor], factor: int) -> list[Tensor]:
    """IDC's order of tiles from IDM's, or the other way round."""
    return [batches[column * factor + row] for row in range(factor) for column in range(factor)]


def numbers(pattern: str) -> list[int]:
    """The numbers in the names of IDC's arrays of that pattern."""
    found = (re.fullmatch(pattern, name) for name in golden("idc_decode"))
    return sorted(int(match[1]) for match in found if match is not None)


def assert_idcs(images: Tensor, labels: np.ndarray, factors: list[int], name: str) -> None:
    """IDC's decoded images of that name are these images decoded by each of the factors that is theirs."""
    arrays, out, out_labels = golden("idc_decode"), [], []
    for factor in dict.fromkeys(factors):
        rows = [row for row, own in enumerate(factors) if own == factor]
        # Sides that the factor does not divide are extended by grey.
        tiles = decode(images[rows], factor, fill=0.5).split(len(rows))
        out += row_by_row(list(tiles), factor)
        out_labels += decoded_labels(images[rows], labels[rows], factor)
    assert_close(torch.cat(out), arrays[name])
    assert out_labels == arrays[f"{name}_y"].tolist()


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("factor", numbers(r"single(\d+)"))
def test_decode_gives_the_images_of_idc(factor: int) -> None:
    arrays = golden("idc_decode")
    assert_idcs(tensor(arrays["x"]), arrays["y"], [factor] * len(arrays["y"]), f"single{factor}")


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("largest", numbers(r"multi(\d+)"))
def test_decode_by_all_factors_gives_the_images_of_idc(largest: int) -> None:
    arrays = golden("idc_decode")
    images, labels = tensor(arrays["x"]).repeat(largest, 1, 1, 1), np.tile(arrays["y"], largest)
    factors = np.arange(1, largest + 1).repeat(len(arrays["y"]))
    assert_idcs(images, labels, factors.tolist(), f"multi{largest}")


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("bound", numbers(r"bound(\d+)"))
def test_decode_within_a_budget_gives_the_images_of_idc(bound: int) -> None:
    arrays = golden("idc_decode")
    tiles = np.bincount(arrays[f"bound{bound}_y"])  # of each image, which tells its factor
    factors = np.sqrt(tiles).round().astype(int).tolist()
    assert_idcs(tensor(arrays["xb"]), np.arange(len(factors)), factors, f"bound{bound}")


@pytest.mark.golden("idc_decode", "idc", "dream")
@pytest.mark.parametrize("factor", numbers(r"mix(\d+)_out"))
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
