"""Previews are small, show every class, and are the same for the same set."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from harness.core.preview import MOST_BYTES, preview, write_preview


def made_up(classes: int, ipc: int, channels: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(classes * ipc, channels, side, side, generator=generator)
    return images, torch.arange(classes).repeat_interleave(ipc)


@pytest.mark.parametrize(
    ("classes", "channels", "side"), [(10, 1, 8), (10, 3, 32), (100, 3, 32), (200, 3, 64), (1000, 3, 32)]
)
def test_even_pure_noise_is_small(classes: int, channels: int, side: int) -> None:
    images, labels = made_up(classes, 2, channels, side)
    content = preview(images, labels)
    assert len(content) <= MOST_BYTES
    assert preview(images, labels) == content
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] >= min(classes, 10)


def test_each_class_is_shown_once_in_order_at_its_size(tmp_path: Path) -> None:
    shades = torch.tensor([0.0, 0.25, 0.5, 1.0])
    images = shades.repeat_interleave(3).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    write_preview(images, torch.arange(4).repeat_interleave(3), tmp_path / "set.png")
    with Image.open(tmp_path / "set.png") as picture:
        assert picture.size == (4 * 9 - 1, 8)
        shown = [picture.convert("RGB").getpixel((k * 9 + 4, 4)) for k in range(4)]
    assert shown == [(level,) * 3 for level in (0, 64, 128, 255)]


def test_pixels_beyond_the_range_are_clamped() -> None:
    images = torch.full((1, 1, 8, 8), 3.0)
    with Image.open(io.BytesIO(preview(images, torch.zeros(1, dtype=torch.int64)))) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
