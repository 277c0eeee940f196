"""Teachers that go by a batch's own statistics, and students of them: CV-DD's code, and what must hold."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

import pytest
import torch
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.augment import cutmix_window
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.engine.mixing import Mix
from harness.engine.parts import KL, Accumulation, AdamW, CutMix, Epochs, Mixup
from harness.engine.protocol import PROTOCOLS, Protocol, Recipe
from harness.engine.relabel import Committee, by_batch, teacher_weights
from harness.engine.schedules import Cosine
from harness.engine.training import Script, TrainingSet, train_network


@dataclass(frozen=True)
class Checked(Committee):
    """A committee whose labels must be those of a file, batch after batch; students get the file's."""

    wanted: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        found, wanted = super().__call__(images), self.wanted.pop(0)[: len(images)]
        assert found.dtype == torch.float16
        # A rounding to half precision may go to either side.
        assert_close(found.float(), wanted.numpy(), 1e-3)
        return wanted


@pytest.mark.golden("relabel_cvdd", "sre2l_pp", "fadrm")
def test_labels_of_every_batch_and_a_student_of_them() -> None:
    arrays = golden("relabel_cvdd")
    images, batch, accum = tensor(arrays["x"]), int(arrays["batch"]), int(arrays["accum"])
    names = sorted({name[: name.index("_") + 1] for name in arrays if re.match(r"t\d+_", name)})
    teachers = [golden_convnet(arrays, name) for name in names]
    labels = tensor(arrays["label"])
    committee = Checked(
        [teacher.net for teacher in teachers],
        teacher_weights(arrays["weight"].tolist()),
        wanted=list(labels.flatten(0, 1).float()),
    )
    recipe = Recipe(
        "",
        labels="teacher",
        loss=KL(float(arrays["T"])),
        optimiser=AdamW(float(arrays["lr"]), float(arrays["wd"]), decayed="matrices"),
        rule=Cosine(stretch=float(arrays["eta"])),
        batch=batch // accum,
        accumulation=Accumulation(accum),
        mixing=CutMix() if str(arrays["mix"]) == "cutmix" else Mixup(asked_before=True),
        statistics="half",
        together=accum,
    )
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
    training_set = TrainingSet(images, torch.zeros(len(images), dtype=torch.int64), "none")
    student = golden_convnet(arrays, "s_")
    course = protocol.course(training_set.size(labels.shape[-1]))
    assert_close(torch.tensor([course.schedule.lr_in(k) for k in range(len(arrays["lrs"]))]), arrays["lrs"])

    last = train_network(
        student.net, training_set, protocol, Context(), teacher=committee, script=as_drawn(arrays, images)
    )
    assert not committee.wanted, "every batch was labelled"
    for name, teacher in zip(names, teachers, strict=True):
        for k, buffer in enumerate(teacher.buffers):
            assert_close(buffer, arrays[f"{name}bf{k:02d}"])
    assert last == pytest.approx(last_mean(arrays, batch, accum), rel=5e-4, abs=5e-4)
    for k, (value, is_conv_bias) in enumerate(zip(student.parameters, student.conv_biases, strict=True)):
        if not is_conv_bias:  # AdamW makes steps of their rounding noise
            assert_close(value, arrays[f"wf{k:02d}"], 2e-4)
    compared = [k for k in range(len(student.buffers)) if k % 2 == 1 and f"bf{k:02d}" in arrays]
    assert compared
    for k in compared:
        assert_close(student.buffers[k], arrays[f"bf{k:02d}"], 2e-4)


def as_drawn(arrays: dict, images: Tensor) -> Script:
    """The batches and the mixing of the file, pass by pass."""
    batch, size = int(arrays["batch"]), (images.shape[2], images.shape[3])
    orders, mixes = [], []
    for epoch, order in enumerate(arrays["order"]):
        orders.append(tensor(order).split(batch))
        for k, rows in enumerate(orders[-1]):
            own, window = float(arrays["lam"][epoch, k]), None
            if str(arrays["mix"]) == "cutmix":
                window = cutmix_window(size, 1 - own, arrays["centre"][epoch, k].tolist())
            mixes.append(Mix(tensor(arrays["perm"][epoch, k][: len(rows)]), own, window))
    return Script(lambda: orders.pop(0), lambda count, size: mixes.pop(0))


def last_mean(arrays: dict, batch: int, accum: int) -> float:
    """Mean loss of the last epoch's images, of which the file has that of every small batch."""
    sizes = [
        len(small)
        for rows in torch.arange(len(arrays["x"])).split(batch)
        for small in rows.split(batch // accum)
    ]
    losses = arrays["small_loss"][-len(sizes) :].tolist()
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / len(arrays["x"])


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
    wanted = Committee([net], torch.ones(1))(images if before else mixed)
    committee = Checked([net], torch.ones(1), wanted=[wanted.float()])
    script = Script(lambda: [torch.arange(6)], lambda count, size: mix)
    student = Context(1).network(data, arch="ConvNetW8D2BN")
    train_network(
        student, TrainingSet(images, data.labels[rows]), protocol, Context(), teacher=committee, script=script
    )
    assert not committee.wanted


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
    shown: list[int] = []

    class Seen(Committee):
        def __call__(self, images: Tensor) -> Tensor:
            shown.append(len(images))
            return super().__call__(images)

    train_network(student, training_set, protocol, Context(), teacher=Seen([net], torch.ones(1)))
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
