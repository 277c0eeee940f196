"""Labels of whole batches, stored, and students of them: against CV-DD's code, and by what must hold."""

from __future__ import annotations

import re

import pytest
import torch
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.augment import cutmix_window
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.engine.mixing import Mix
from harness.engine.parts import KL, Accumulation, AdamW, Epochs, SetSize
from harness.engine.protocol import Protocol, Recipe
from harness.engine.relabel import LabelledBatch, batch_logits, labelled, learn, teacher_weights
from harness.engine.schedules import Cosine


@pytest.mark.golden("relabel_cvdd", "sre2l_pp", "fadrm")
def test_labels_of_every_batch_and_a_student_of_them() -> None:
    arrays = golden("relabel_cvdd")
    images, batch, accum = tensor(arrays["x"]), int(arrays["batch"]), int(arrays["accum"])
    names = sorted({name[: name.index("_") + 1] for name in arrays if re.match(r"t\d+_", name)})
    teachers = [golden_convnet(arrays, name) for name in names]
    weights, size = teacher_weights(arrays["weight"].tolist()), images.shape[2:]
    passes: list[list[LabelledBatch]] = []
    for epoch, order in enumerate(arrays["order"]):
        passes.append([])
        for k, rows in enumerate(tensor(order).split(batch)):
            own, window = float(arrays["lam"][epoch, k]), None
            if str(arrays["mix"]) == "cutmix":
                window = cutmix_window((size[0], size[1]), 1 - own, arrays["centre"][epoch, k].tolist())
            mix = Mix(tensor(arrays["perm"][epoch, k][: len(rows)]), own, window)
            stored = labelled([teacher.net for teacher in teachers], weights, images, rows, mix)
            assert stored.logits.dtype == torch.float16
            # A rounding to half precision may go to either side.
            assert_close(stored.logits.float(), arrays["label"][epoch, k][: len(rows)], 1e-3)
            passes[-1].append(stored)
    for name, teacher in zip(names, teachers, strict=True):
        for k, buffer in enumerate(teacher.buffers):
            assert_close(buffer, arrays[f"{name}bf{k:02d}"])

    recipe = Recipe(
        "",
        labels="stored",
        loss=KL(float(arrays["T"])),
        optimiser=AdamW(float(arrays["lr"]), float(arrays["wd"]), decayed="matrices"),
        rule=Cosine(stretch=float(arrays["eta"])),
        batch=batch // accum,
        accumulation=Accumulation(accum),
    )
    course = Protocol("golden", "", recipe, Epochs(int(arrays["E"]))).course(
        SetSize(len(teachers[0].parameters[-1]), 1, len(images), len(images), False)
    )
    assert_close(torch.tensor([course.schedule.lr_in(k) for k in range(len(arrays["lrs"]))]), arrays["lrs"])
    student, losses = golden_convnet(arrays, "s_"), []
    # The student's own numbers are those of the labels in the file.
    given = [
        [
            LabelledBatch(one.rows, one.mix, tensor(arrays["label"][epoch, k][: len(one.rows)]))
            for k, one in enumerate(batches)
        ]
        for epoch, batches in enumerate(passes)
    ]
    learn(student.net, images, given, recipe, course, Context(), losses.append)
    assert_close(torch.stack(losses), arrays["small_loss"], 5e-4)  # a small difference of large numbers
    for k, (value, is_conv_bias) in enumerate(zip(student.parameters, student.conv_biases, strict=True)):
        if not is_conv_bias:  # AdamW makes steps of their rounding noise
            assert_close(value, arrays[f"wf{k:02d}"], 2e-4)
    compared = [k for k in range(len(student.buffers)) if k % 2 == 1 and f"bf{k:02d}" in arrays]
    assert compared
    for k in compared:
        assert_close(student.buffers[k], arrays[f"bf{k:02d}"], 2e-4)


def test_a_label_depends_on_the_half_that_its_image_is_in() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    images = data.batch(torch.arange(0, 60, 10))

    def logits(of: Tensor) -> Tensor:
        return batch_logits([net], torch.ones(1), of).float()

    whole = logits(images)
    other = torch.cat([images[:3], images[3:].flip(0) * 2])
    torch.testing.assert_close(logits(other)[:3], whole[:3])
    assert not torch.allclose(logits(images.roll(1, 0))[1:3], whole[:2], atol=1e-2)


def test_mixup_labels_the_images_before_mixing() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    images, rows = data.batch(torch.arange(60)), torch.arange(0, 60, 10)
    partner = torch.arange(6).roll(1)
    plain = labelled([net], torch.ones(1), images, rows, None)
    mixup = labelled([net], torch.ones(1), images, rows, Mix(partner, 0.5))
    pasted = labelled([net], torch.ones(1), images, rows, Mix(partner, 0.5, (slice(0, 6), slice(0, 6))))
    assert torch.equal(mixup.logits, plain.logits)
    assert not torch.equal(pasted.logits, plain.logits)
    assert not torch.equal(mixup.images(images), plain.images(images))


def test_a_batch_of_one_image_is_one_clear_line() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    net = Context().network(data, arch="ConvNetW8D2BN")
    with pytest.raises(UserError, match="batch of one image") as found:
        batch_logits([net], torch.ones(1), data.batch(slice(0, 1)))
    assert "\n" not in str(found.value)
