"""Multi-formation against the authors' tiles, order and gradient."""

from __future__ import annotations

import pytest
import torch
from support import assert_close, golden, tensor

from harness.errors import UserError
from methods.formation import compose, decode, decode_by_class


def test_decode_matches_authors() -> None:
    arrays = golden("idm_partition")
    images = tensor(arrays["x"]).requires_grad_()
    out = decode(images, 2)
    assert_close(out, arrays["out"])
    (gradient,) = torch.autograd.grad((out * tensor(arrays["cot"])).sum(), images)
    assert_close(gradient, arrays["grad"])
    assert_close(decode(tensor(arrays["xg"]), 2), arrays["outg"])


def test_compose_matches_authors() -> None:
    arrays = golden("idm_partition")
    parts = tensor(arrays["init_src"]).split(2)
    assert_close(compose(parts, 2), arrays["init_out"])


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


def test_size_that_cannot_be_tiled_is_refused() -> None:
    with pytest.raises(UserError, match="factor 2 does not divide the image size 7x7"):
        decode(torch.randn(1, 1, 7, 7), 2)
