"""Crops that a teacher finds easy: RDED's choice against the authors', and what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UserError
from methods.shared import crops
from methods.shared.crops import Scoring


def cases() -> list[str]:
    return sorted(name.removesuffix("_crops") for name in golden("rded_select") if name.endswith("_crops"))


@pytest.mark.golden("rded_select", "rded", "sre2l_pp", "fadrm")
@pytest.mark.parametrize("case", cases())
def test_scores_choice_and_assembly(case: str) -> None:
    arrays = golden("rded_select")
    own: dict[str, Any] = {
        name.removeprefix(f"{case}_"): a for name, a in arrays.items() if name.startswith(f"{case}_")
    }
    size, ipc, factor = (int(own["size"]),) * 2, int(own["ipc"]), int(own["factor"])
    net = golden_convnet({**arrays, "x": own["padded0"]}).net.eval()
    patches = tensor(own["crops"])
    assert_close(crops.padded(patches[: len(own["padded0"]), 0], size), own["padded0"])
    answers: list[Tensor] = []
    net.register_forward_hook(lambda net, images, logits: answers.append(logits))
    scores = crops.crop_scores(net, patches, int(own["label"]), size)
    assert_close(torch.cat(answers).unflatten(0, patches.shape[:2]).swapaxes(0, 1), own["logits"])
    assert_close(scores.T, own["scores"])
    assert scores.argmin(dim=1).tolist() == own["best"].tolist()
    chosen = crops.easiest(patches, scores, ipc * factor**2)
    assert torch.equal(chosen, patches[own["order"], own["best"][own["order"]]])
    assert_close(crops.assembled(chosen, factor, size), own["mixed"])


@pytest.mark.parametrize("side", [(32, 32), (16, 16), (5, 9)])
def test_crops_are_resized_as_by_torch(side: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 3, 32, 24, generator=generator)
    windows = crops.draw_windows(20, (32, 24), generator)
    got = crops.resized_crops(images, windows, side)
    for image, (top, left, height, width), crop in zip(images, windows.tolist(), got, strict=True):
        part = image[None, :, top : top + height, left : left + width]
        torch.testing.assert_close(crop[None], F.interpolate(part, side, mode="bilinear", antialias=True))


def test_windows_have_the_areas_and_aspects_asked_for() -> None:
    size, generator = (40, 40), torch.Generator().manual_seed(0)
    windows = crops.draw_windows(3000, size, generator)
    top, left, height, width = windows.T
    assert (windows >= 0).all()
    assert (height + top <= 40).all()
    assert (width + left <= 40).all()
    share, aspect = height * width / 1600, width / height
    assert 0.06 < float(share.min()) < 0.1
    assert float(share.max()) > 0.95
    assert float(aspect.min()) > 0.68
    assert float(aspect.max()) < 1.47
    middle = (top + height / 2).mean(), (left + width / 2).mean()
    assert all(abs(float(place) - 20) < 0.3 for place in middle)
    square = crops.draw_windows(500, size, generator, aspects=(1.0, 1.0))
    assert torch.equal(square[:, 2], square[:, 3])
    assert len(square.unique(dim=0)) > 300


def test_where_no_window_fits_it_is_the_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    # An area of the whole image at another aspect than its own never fits.
    wide = crops.draw_windows(50, (10, 40), generator, smallest=1.0, aspects=(1.0, 2.0))
    assert torch.equal(wide, torch.tensor([0, 10, 10, 20]).expand(50, 4))
    tall = crops.draw_windows(50, (40, 10), generator, smallest=1.0, aspects=(0.5, 1.0))
    assert torch.equal(tall, torch.tensor([10, 0, 20, 10]).expand(50, 4))
    whole = crops.draw_windows(50, (10, 10), generator, smallest=1.0, aspects=(1.0, 1.0))
    assert torch.equal(whole, torch.tensor([0, 0, 10, 10]).expand(50, 4))


def test_easy_crops_of_all_classes() -> None:
    data, context = toy(num_classes=3, shape=(3, 8, 8)), Context()
    net = context.network(data, arch="ConvNetW8D2BN").eval()
    scoring = Scoring(images=6, crops=2, side=(4, 4))
    kept = crops.easy_crops(context, data, net, 4, scoring)
    assert kept.shape == (3 * 4, 3, 4, 4)
    for label, of_class in enumerate(kept.split(4)):
        scores = crops.crop_scores(net, of_class[:, None], label, (8, 8)).flatten()
        assert torch.equal(scores, scores.sort().values)
    again = crops.easy_crops(Context(), data, net, 4, scoring)
    assert torch.equal(kept, again)
    best = crops.easy_crops(Context(), data, net, 1, scoring)
    assert torch.equal(best, kept[::4])


@pytest.mark.parametrize(
    ("per_class", "mipc", "line"),
    [(20, 5, "set mipc to at least 8"), (5, 300, r"class 0 \(\w+\) has 5 images.* choose a smaller ipc")],
)
def test_too_few_images_are_one_clear_line(per_class: int, mipc: int, line: str) -> None:
    data = toy(3, (3, 8, 8), per_class)
    with pytest.raises(UserError, match=line) as found:
        crops.easy_crops(Context(), data, lambda images: images, 8, Scoring(mipc, 2, (8, 8)))
    assert "\n" not in str(found.value)
