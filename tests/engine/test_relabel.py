"""Teachers that go by the statistics of what they are shown: what must hold of their labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.engine.mixing import Mix
from harness.engine.parts import Epochs, Mixup
from harness.engine.protocol import PROTOCOLS
from harness.engine.relabel import Committee, by_batch
from harness.engine.training import Script, TrainingSet, train_network


@dataclass(frozen=True)
class Seen(Committee):
    """A committee that keeps the batches that it is shown."""

    shown: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return super().__call__(images)


def test_a_label_depends_on_the_half_that_its_image_is_in() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    images = data.batch(torch.arange(0, 60, 10))
    committee = Committee([net], torch.ones(1))
    whole = committee(images).float()
    other = torch.cat([images[:3], images[3:].flip(0) * 2])
    torch.testing.assert_close(committee(other)[:3].float(), whole[:3])
    assert not torch.allclose(committee(images.roll(1, 0))[1:3].float(), whole[:2], atol=1e-2)
    assert not torch.allclose(by_batch(net, other)[:3], by_batch(net, images)[:3], atol=1e-2)


@pytest.mark.parametrize("before", [True, False])
def test_mixup_may_label_the_images_before_mixing(before: bool) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    rows = torch.arange(0, 60, 10)
    images = data.batch(rows)
    mix = Mix(torch.arange(6).roll(1), 0.5)
    usual = PROTOCOLS["kd-mixup-smoke"]
    recipe = dataclasses.replace(
        usual.recipe, mixing=Mixup(asked_before=before), statistics="half", augmentation="none"
    )
    protocol = dataclasses.replace(usual, recipe=recipe, length=Epochs(1))
    mixed = 0.5 * images + 0.5 * images.roll(1, 0)
    committee = Seen([net], torch.ones(1))
    script = Script(lambda: [torch.arange(6)], lambda count, size: mix)
    student = Context(1).network(data, arch="ConvNetW8D2BN")
    train_network(
        student, TrainingSet(images, data.labels[rows]), protocol, Context(), teacher=committee, script=script
    )
    (shown,) = committee.shown
    torch.testing.assert_close(shown, images if before else mixed)
    assert not torch.allclose(images, mixed, atol=1e-2)


def test_a_batch_of_one_image_is_one_clear_line() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    with pytest.raises(UserError, match="batch of one image") as found:
        Committee([net], torch.ones(1))(data.batch(slice(0, 1)))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("count", [2, 15, 17, 25, 33])
def test_no_image_is_labelled_alone(count: int) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    rows = torch.arange(count)
    protocol = dataclasses.replace(PROTOCOLS["kd-bssl-smoke"], length=Epochs(2))
    training_set = TrainingSet(data.batch(rows), data.labels[rows], "flip")
    student = Context(1).network(data, arch="ConvNetW8D2BN")
    committee = Seen([net], torch.ones(1))
    train_network(student, training_set, protocol, Context(), teacher=committee)
    shown = [len(images) for images in committee.shown]
    assert sum(shown) == 2 * count
    assert min(shown) > 1
    assert max(shown) <= 17


def test_a_function_cannot_be_asked_in_train_mode() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    training_set = TrainingSet(data.batch(torch.arange(6)), data.labels[:6])
    for name in ("kd-bssl-smoke", "kd-mixup-smoke"):
        with pytest.raises(UserError, match=rf"protocol {name} .* a network, not a function"):
            train_network(net, training_set, PROTOCOLS[name], Context(), teacher=lambda images: net(images))
