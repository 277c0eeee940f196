"""RDED puts easy crops together; how they are chosen is tested in `shared/test_crops.py`."""

from __future__ import annotations

import pytest
import torch

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.teachers import RECIPES
from methods import cim, rded, resolve

ARCH = "ConvNetW8D2"


def made(ipc: int = 2, **settings: object) -> Distilled:
    data = toy(num_classes=3, shape=(3, 16, 16))
    config = resolve("rded", data.name, ipc, "smoke", settings).config
    return rded.distill(data, ipc, config=config, context=Context(arch=ARCH))


def test_factors_give_as_many_images_and_more_to_train_on() -> None:
    whole, packed = made(), made(factor=2)
    assert whole.images.shape == packed.images.shape == (6, 3, 16, 16)
    assert (len(whole.to_dataset()), len(packed.to_dataset())) == (6, 24)


def test_a_single_whole_crop_of_each_image_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.shared import crops

    def whole(count: int, size: tuple[int, int], generator: object, **rest: object) -> torch.Tensor:
        return torch.tensor([0, 0, *size]).expand(count, 4)

    monkeypatch.setattr(crops, "draw_windows", whole)
    data = toy(num_classes=3, shape=(3, 16, 16))
    images = made(crops=1).images
    real = data.batch(slice(0, len(data)))
    gaps = torch.cdist(images.flatten(1), real.flatten(1)).min(dim=1)
    assert float(gaps.values.max()) < 0.1, "of images whose length is about 28"
    assert torch.equal(data.labels[gaps.indices], torch.arange(3).repeat_interleave(2))


def test_more_crops_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="too few for the 24 that"):
        made(ipc=6, factor=2)


@pytest.mark.parametrize("method", [rded, cim])
@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_the_teacher_is_the_one_of_the_evaluation(method: object, scale: str) -> None:
    name = str(getattr(method, "__name__")).rpartition(".")[2]  # noqa: B009
    config, recipe = resolve(name, "cifar10", 10, scale).config, RECIPES[scale]
    assert (config.teacher_epochs, config.teacher_steps) == (recipe.epochs, recipe.steps)
