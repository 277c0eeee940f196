"""Students trained as the authors train them: every batch's loss and the final weights, from golden files.

Settings, draws and numbers of epochs are read from the files; what AdamW makes of a gradient that is rounding
noise (the bias of a convolution in front of a norm, and the running mean behind it) is not compared.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import GoldenConvNet, assert_close, golden, golden_convnet, tensor
from torch import Tensor, nn

from harness.core import sgd
from harness.core.augment import cutmix_window
from harness.core.context import Context
from harness.core.loop import StoppedEarly
from harness.core.nets.base import Features, Network
from harness.engine import optimisers, schedules, training
from harness.engine.mixing import Mix
from harness.engine.parts import (
    KL,
    SGD,
    Accumulation,
    AdamW,
    CrossEntropy,
    CutMix,
    Epochs,
    Loss,
    Mixup,
    Optimiser,
    SoftCrossEntropy,
    SquaredError,
    StepsByImages,
)
from harness.engine.protocol import Protocol, Recipe
from harness.engine.relabel import Committee, teacher_weights
from harness.engine.schedules import Cosine, Drops, Rule
from harness.engine.training import Mixes, Script, Teacher, TrainingSet, train_network

Arrays = Mapping[str, np.ndarray]


class Lessons:
    """The batches that a student was shown, and the mean loss of each before its step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[Tensor] = []
        self.losses: list[float] = []
        backward = training.backward

        def spy(forward: Any, net: Any, images: Tensor, *rest: Any) -> Tensor:
            loss = backward(forward, net, images, *rest)
            self.images.append(images)
            self.losses.append(float(loss))
            return loss

        monkeypatch.setattr(training, "backward", spy)


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> Lessons:
    return Lessons(monkeypatch)


def script(arrays: Arrays, prefix: str, batch: int, kind: str = "none") -> Script:
    """Batches and mixing as the file has them: `order` (epoch, image) and draws (epoch, batch, ...)."""
    orders = (tensor(order).split(batch) for order in arrays[f"{prefix}order"])
    mixes = _unmixed if kind == "none" else _mixes(arrays, prefix, kind)
    return Script(lambda: next(orders), mixes)


def _unmixed(count: int, size: tuple[int, int]) -> None:
    return None


def _mixes(arrays: Arrays, prefix: str, kind: str) -> Mixes:
    lambdas = arrays[f"{prefix}lam"]
    places = iter(np.ndindex(*lambdas.shape))

    def draw(count: int, size: tuple[int, int]) -> Mix | None:
        place = next(places)
        own, partner = float(lambdas[place]), tensor(arrays[f"{prefix}perm"][place][:count])
        if own < 0:
            return None
        if kind == "mixup":
            return Mix(partner, own)
        return Mix(partner, own, cutmix_window(size, 1 - own, arrays[f"{prefix}centre"][place].tolist()))

    return draw


def optimiser(kind: str, lr: float, decay: float, **rest: Any) -> Optimiser:
    return SGD(lr, weight_decay=decay) if kind == "sgd" else AdamW(lr, decay, **rest)


def check(
    trained: GoldenConvNet, arrays: Arrays, prefix: str, recipe: Recipe, relative: float = 2e-5
) -> None:
    """Final weights and buffers, but for those that are rounding noise under AdamW."""
    noisy = isinstance(recipe.optimiser, AdamW)
    compared = 0
    for k, (value, is_conv_bias) in enumerate(zip(trained.parameters, trained.conv_biases, strict=True)):
        if not (noisy and is_conv_bias):
            assert_close(value, arrays[f"{prefix}wf{k:02d}"], relative)
            compared += 1
    for k, value in enumerate(trained.buffers):
        is_mean = k % 2 == 0
        if f"{prefix}bf{k:02d}" in arrays and not (noisy and is_mean):
            assert_close(value, arrays[f"{prefix}bf{k:02d}"], relative)
    assert compared >= 2


def check_losses(seen: Lessons, authors: np.ndarray, relative: float = 2e-5, classes: int = 1) -> None:
    """The losses of all batches, in their order.

    classes: of divergences, which are differences of numbers near log(classes) and may miss two roundings of
    these.
    """
    rounding = 2 * float(np.finfo(np.float32).eps) * math.log(classes)
    relative = max(relative, rounding / float(authors.max()))
    assert_close(torch.tensor(seen.losses).reshape(authors.shape), authors, relative)


def check_rates(protocol: Protocol, authors: np.ndarray) -> None:
    """The learning rate of each epoch."""
    rule, lr = protocol.recipe.rule, protocol.recipe.optimiser.lr
    found = [lr * rule.share(epoch, len(authors) - rule.extra) for epoch in range(len(authors))]
    assert_close(torch.tensor(found), authors)


def prefixes(arrays: Arrays, ending: str) -> list[str]:
    """What stands before `ending` in the names of the arrays: the cases of a file."""
    found = [name.removesuffix(ending) for name in arrays if name.endswith(ending)]
    assert found
    return found


@pytest.mark.golden("train_cutmix", "idc", "dream")
def test_cutmix_in_a_share_of_the_batches(lessons: Lessons) -> None:
    arrays = golden("train_cutmix")
    student, batch = golden_convnet(arrays), int(arrays["batch"])
    share = float(arrays["p"])
    assert ((arrays["u"] < share) == (arrays["lam"] >= 0)).all()
    sgd = SGD(*(float(arrays[name]) for name in ("lr", "mom", "wd")))
    recipe = Recipe("", optimiser=sgd, rule=schedules.IDC, batch=batch, mixing=CutMix(share))
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
    training_set = TrainingSet(tensor(arrays["x"]), tensor(arrays["y"]))
    train_network(student.net, training_set, protocol, Context(), script=script(arrays, "", batch, "cutmix"))
    check_losses(lessons, arrays["batch_loss"])
    check_rates(protocol, arrays["lrs"])
    check(student, arrays, "", recipe)


@pytest.mark.golden("eval_datm", "datm", "pad")
def test_datm_trains_on_the_softmax_of_its_label_logits(lessons: Lessons) -> None:
    arrays = golden("eval_datm")
    student, batch = golden_convnet(arrays), int(arrays["batch"])
    recipe = Recipe("", labels="stored", optimiser=SGD(), rule=schedules.DC, batch=batch)
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
    images = tensor(arrays["x"])
    training_set = TrainingSet(images, tensor(arrays["y"]).softmax(dim=1), lr=float(arrays["lr"]))
    in_order = Script(lambda: torch.arange(len(images)).split(batch), _unmixed)
    train_network(student.net, training_set, protocol, Context(), script=in_order)
    counts = [len(shown) for shown in lessons.images]
    by_batch = torch.tensor(lessons.losses) * torch.tensor(counts)
    epochs = len(arrays["loss_epoch"])
    assert_close(by_batch.reshape(epochs, -1).sum(dim=1) / len(images), arrays["loss_epoch"])
    check(student, arrays, "", recipe)
    with torch.no_grad():
        logits, classes = student.net.eval()(tensor(arrays["x_test"])), tensor(arrays["y_test"])
    scores = [float(F.cross_entropy(logits, classes)), float((logits.argmax(1) == classes).float().mean())]
    assert_close(torch.tensor(scores), arrays["test"])


@pytest.mark.golden("eval_softlabel")
def test_stored_soft_labels_under_sgd_and_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("eval_softlabel")
    rules: dict[str, Rule] = {"sgd_": schedules.QUARTERS, "adamw_": Cosine(extra=1)}
    for prefix in prefixes(arrays, "E"):
        student, batch, seen = golden_convnet(arrays), int(arrays["batch"]), Lessons(monkeypatch)
        kind, lr = prefix.strip("_"), float(arrays[f"{prefix}lr"])
        decay = 5e-4 if kind == "sgd" else 0.01
        recipe = Recipe(
            "", labels="stored", optimiser=optimiser(kind, lr, decay), rule=rules[prefix], batch=batch
        )
        protocol = Protocol("golden", "", recipe, Epochs(int(arrays[f"{prefix}E"])))
        rows = tensor(arrays["label_logits"]).softmax(dim=1)
        training_set = TrainingSet(tensor(arrays["x"]), rows)
        train_network(student.net, training_set, protocol, Context(), script=script(arrays, prefix, batch))
        check_losses(seen, arrays[f"{prefix}batch_loss"])
        check(student, arrays, prefix, recipe, 2e-5 if kind == "sgd" else 2e-4)
        if int(arrays[f"{prefix}E"]) < 200:  # else the authors look earlier too, and keep the best
            with torch.no_grad():
                hits = student.net.eval()(tensor(arrays["x_test"])).argmax(1) == tensor(arrays["y_test"])
            assert_close(hits.float().mean(), arrays[f"{prefix}test_acc"])


LOSSES: dict[str, Callable[[float, float], Loss]] = {
    "kl": lambda a, b: KL(a, scaled=bool(b)),
    "sce": lambda a, b: SoftCrossEntropy(a, scaled=bool(b)),
    "mse_gt": SquaredError,
}
RANKED: dict[str, Rule] = {"cosine": schedules.HALF_COSINE, "cosineannealing": schedules.COSINE}


@pytest.mark.golden("eval_ddranking")
def test_stored_logits_and_mean_teachers_of_dd_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored labels are not mixed; what is left of a pass when gradients are accumulated is a step."""
    arrays = golden("eval_ddranking")
    for prefix in prefixes(arrays, "loss_kind"):
        named = {name: str(arrays[f"{prefix}{name}"]) for name in ("loss_kind", "opt", "sch", "mode", "mix")}
        value = {name: float(arrays[f"{prefix}{name}"]) for name in ("a", "b", "lr", "wd", "step", "E")}
        student, batch, seen = golden_convnet(arrays, "s_"), int(arrays["batch"]), Lessons(monkeypatch)
        size = int(value["step"])
        rule = RANKED.get(named["sch"]) or Drops(lambda E, size=size: tuple(range(size, E, size)), decay=0.1)
        mixing = {"cutmix": CutMix, "mixup": Mixup}.get(named["mix"])
        recipe = Recipe(
            "",
            labels="stored" if named["mode"] == "S" else "teacher",
            loss=LOSSES[named["loss_kind"]](value["a"], value["b"]),
            optimiser=optimiser(named["opt"], value["lr"], value["wd"]),
            rule=rule,
            batch=batch,
            mixing=None if mixing is None else mixing(mixes_labels=False),
            accumulation=Accumulation(int(arrays[f"{prefix}accum"]), "stepped"),
        )
        protocol = Protocol("golden", "", recipe, Epochs(int(value["E"])))
        labels = tensor(arrays["stored" if named["mode"] == "S" else "y"])
        kind = "none" if mixing is None else named["mix"]
        train_network(
            student.net,
            TrainingSet(tensor(arrays["x"]), labels),
            protocol,
            Context(),
            teacher=_mean(arrays) if named["mode"] == "M" else None,
            script=script(arrays, prefix, batch, kind),
        )
        adamw = named["opt"] == "adamw"
        divergence = named["loss_kind"] == "kl"
        small = (5e-3 if adamw else 1e-4) if divergence else 2e-5
        classes = student.net.classifier.out_features if divergence else 1
        check_losses(seen, arrays[f"{prefix}batch_loss"], small, classes)
        check_rates(protocol, arrays[f"{prefix}lrs"])
        check(student, arrays, prefix, recipe, 1e-3 if adamw else 2e-5)
        if f"{prefix}mixed0" in arrays:
            assert_close(seen.images[0], arrays[f"{prefix}mixed0"])


def _mean(arrays: Arrays) -> Teacher:
    """The mean of all teachers' logits, in evaluation mode."""
    teachers = [golden_convnet(arrays, name.removesuffix("wnames")).net.eval() for name in _teachers(arrays)]
    return lambda images: torch.stack([teacher(images) for teacher in teachers]).mean(dim=0)


def _teachers(arrays: Arrays) -> list[str]:
    return [name for name in arrays if name.startswith("t") and name.endswith("_wnames")]


@pytest.mark.golden("rded_train")
def test_a_teacher_of_rded_labels_each_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' student sees each batch once more in train mode, which moves its running statistics."""
    arrays = golden("rded_train")
    images = tensor(arrays["x"])
    for prefix in prefixes(arrays, "mix"):
        student, batch, seen = golden_convnet(arrays, "s_"), int(arrays["batch"]), Lessons(monkeypatch)
        mix, kind = str(arrays[f"{prefix}mix"]), str(arrays[f"{prefix}opt"])
        lr, decay = float(arrays[f"{prefix}lr"]), float(arrays[f"{prefix}wd"])
        step = AdamW(lr, decay, "matrices") if kind == "adamw" else SGD(lr, weight_decay=decay)
        recipe = Recipe(
            "",
            labels="teacher",
            loss=KL(float(arrays[f"{prefix}T"])),
            optimiser=step,
            rule=schedules.HALF_COSINE,
            batch=batch,
            mixing=CutMix() if mix == "cutmix" else Mixup(),
            accumulation=Accumulation(int(arrays[f"{prefix}accum"]), "lost"),
        )
        protocol = Protocol("golden", "", recipe, Epochs(int(arrays[f"{prefix}E"])))
        unmixed = (images[rows] for order in arrays[f"{prefix}order"] for rows in tensor(order).split(batch))
        with monkeypatch.context() as patched:
            if kind == "sgd":
                patched.setattr(optimisers, "built", _sparing_vectors)
            train_network(
                student.net,
                TrainingSet(images, torch.zeros(len(images), dtype=torch.int64)),
                protocol,
                Context(),
                teacher=_looking_twice(golden_convnet(arrays, "t_").net, student.net, unmixed, mix),
                script=script(arrays, prefix, batch, mix),
            )
        small = 1e-3 if kind == "adamw" else 2e-5
        check_losses(seen, arrays[f"{prefix}batch_loss"], small, student.net.classifier.out_features)
        check_rates(protocol, arrays[f"{prefix}lrs"])
        assert_close(seen.images[0], arrays[f"{prefix}mixed0"])
        check(student, arrays, prefix, recipe, small)


def _sparing_vectors(optimiser: SGD, net: nn.Module, lr: float) -> sgd.SGD:
    """SGD that decays what has two dimensions or more, as RDED's; our protocols have such an AdamW alone."""
    decayed, spared = ([p for p in net.parameters() if (p.ndim >= 2) is large] for large in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": optimiser.weight_decay},
        {"params": spared},
    ]
    return sgd.SGD(groups, lr=lr, momentum=optimiser.momentum)


def _looking_twice(teacher: nn.Module, student: nn.Module, unmixed: Iterator[Tensor], mix: str) -> Teacher:
    teacher.eval()

    def answer(images: Tensor) -> Tensor:
        original = next(unmixed)
        student(images if mix == "cutmix" else original)
        return teacher(images)

    return answer


@pytest.mark.golden("relabel_sre2l", "sre2l", "cda")
def test_students_of_sre2l_learn_from_mixed_up_batches(lessons: Lessons) -> None:
    """The authors' teacher is in train mode: it normalises by the batch, and its statistics move."""
    arrays = golden("relabel_sre2l")
    student, teacher = golden_convnet(arrays, "s_"), golden_convnet(arrays, "t_")
    batch, images = int(arrays["batch"]), tensor(arrays["x"])
    recipe = Recipe(
        "",
        labels="teacher",
        loss=KL(float(arrays["T"])),
        optimiser=AdamW(float(arrays["lr"]), float(arrays["wd"])),
        rule=schedules.COSINE,
        batch=batch,
        mixing=Mixup(),
        statistics="batch",
    )
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
    answers: list[Tensor] = []
    teacher.net.register_forward_hook(lambda net, images, logits: answers.append(logits))
    train_network(
        student.net,
        TrainingSet(images, torch.zeros(len(images), dtype=torch.int64)),
        protocol,
        Context(),
        teacher=teacher.net,
        script=script(arrays, "", batch, "mixup"),
    )
    assert_close(answers[0], arrays["teacher0"])
    check_losses(lessons, arrays["batch_loss"], 2e-3, student.net.classifier.out_features)
    check_rates(protocol, arrays["lrs"])
    check(student, arrays, "", recipe, 1e-3)
    for k, value in enumerate(teacher.buffers):
        assert_close(value, arrays[f"tb{k:02d}"])


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
def test_students_of_cv_dd_learn_from_labels_of_half_batches(lessons: Lessons) -> None:
    arrays = golden("relabel_cvdd")
    images, batch, accum = tensor(arrays["x"]), int(arrays["batch"]), int(arrays["accum"])
    names = sorted({name[: name.index("_") + 1] for name in arrays if re.match(r"t\d+_", name)})
    teachers, kind = [golden_convnet(arrays, name) for name in names], str(arrays["mix"])
    committee = Checked(
        [teacher.net for teacher in teachers],
        teacher_weights(arrays["weight"].tolist()),
        wanted=list(tensor(arrays["label"]).flatten(0, 1).float()),
    )
    recipe = Recipe(
        "",
        labels="teacher",
        loss=KL(float(arrays["T"])),
        optimiser=AdamW(float(arrays["lr"]), float(arrays["wd"]), decayed="matrices"),
        rule=Cosine(stretch=float(arrays["eta"])),
        batch=batch // accum,
        accumulation=Accumulation(accum),
        mixing=CutMix() if kind == "cutmix" else Mixup(asked_before=True),
        statistics="half",
        together=accum,
    )
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
    student, training_set = golden_convnet(arrays, "s_"), TrainingSet(images, torch.zeros(len(images)).long())
    draws = script(arrays, "", batch, kind)
    train_network(student.net, training_set, protocol, Context(), teacher=committee, script=draws)
    assert not committee.wanted, "every batch was labelled"
    check_losses(lessons, arrays["small_loss"], 1e-3, student.net.classifier.out_features)
    check_rates(protocol, arrays["lrs"])
    assert any(f"bf{k:02d}" in arrays for k in range(1, len(student.buffers), 2))
    check(student, arrays, "", recipe, 2e-4)
    for name, teacher in zip(names, teachers, strict=True):
        for k, buffer in enumerate(teacher.buffers):
            assert_close(buffer, arrays[f"{name}bf{k:02d}"])


@pytest.mark.golden("eval_cim")
def test_students_of_cim_learn_logits_or_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("eval_cim")
    for prefix in prefixes(arrays, "order"):
        student, batch, seen = golden_convnet(arrays, "s_"), int(arrays["batch"]), Lessons(monkeypatch)
        taught = prefix == "kd_"
        recipe = Recipe(
            "",
            labels="teacher" if taught else "hard",
            loss=SquaredError() if taught else CrossEntropy(),
            optimiser=AdamW(float(arrays["lr"]), float(arrays["wd"])),
            rule=schedules.IDC,
            batch=batch,
        )
        protocol = Protocol("golden", "", recipe, Epochs(int(arrays["E"])))
        train_network(
            student.net,
            TrainingSet(tensor(arrays["x"]), tensor(arrays["y"])),
            protocol,
            Context(),
            teacher=golden_convnet(arrays, "t_").net.eval(),
            script=script(arrays, prefix, batch),
        )
        check_losses(seen, arrays[f"{prefix}batch_loss"])
        check_rates(protocol, arrays[f"{prefix}lrs"])
        check(student, arrays, prefix, recipe, 2e-4)


@pytest.mark.golden("frepo_pool")
def test_the_evaluation_network_of_frepo_warms_up_on_learned_labels(lessons: Lessons) -> None:
    arrays = golden("frepo_pool")
    net, (count, updates) = _doubling(arrays), (len(arrays["e_x"]), len(arrays["e_loss"]))
    recipe = Recipe(
        "",
        labels="stored",
        loss=SquaredError(0.5, summed=True),
        optimiser=AdamW(float(arrays["e_lr"]), weight_decay=0.0),
        rule=Cosine(warmup=int(arrays["e_warm"]), floor=0.01),
        batch=500,
        order="stored",
    )
    protocol = Protocol("golden", "", recipe, StepsByImages(((count, int(arrays["e_E"])),)))
    training_set = TrainingSet(tensor(arrays["e_x"]), tensor(arrays["e_y"]))
    with pytest.raises(StoppedEarly):
        train_network(net, training_set, protocol, Context(stop_after=updates))
    check_losses(lessons, arrays["e_loss"])
    check_rates(protocol, arrays["e_lrs"])
    for k, value in enumerate(net.parameters()):
        assert_close(value, arrays[f"e_wf{k:02d}"])


def _doubling(arrays: Arrays) -> Network:
    """FRePo's network without norm, whose width doubles from block to block."""
    weights = [tensor(arrays[f"e_w{k:02d}"]) for k in range(len(arrays["e_wnames"]))]
    layers: list[nn.Module] = []
    for k, weight in enumerate(weights[:-2:2]):
        padding = 3 if k == 0 and weight.shape[1] == 1 else 1
        layers += [nn.Conv2d(weight.shape[1], len(weight), 3, padding=padding), nn.ReLU(), nn.AvgPool2d(2)]
    classes, features = weights[-2].shape
    net = Network(Features(*layers), {"fc": nn.Linear(features, classes)})
    with torch.no_grad():
        for ours, theirs in zip(net.parameters(), weights, strict=True):
            ours.copy_(theirs)
    return net


@pytest.mark.golden("cutmix_box")
def test_windows_of_cutmix_are_the_authors() -> None:
    arrays = golden("cutmix_box")
    for side, own, centre, box in zip(
        *(arrays[name] for name in ("side", "lam", "centre", "box")), strict=True
    ):
        window = cutmix_window((int(side), int(side)), 1 - float(own), centre.tolist())
        assert [*itertools.chain(*((part.start, part.stop) for part in window))] == box.tolist()
