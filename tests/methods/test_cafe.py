"""CAFE: the authors' image update through our `distill`, its parts, and its rules for going on."""

from __future__ import annotations

import re
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_network, tensor
from torch import Tensor, nn

from harness.core.augment import FULL_STRATEGY
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.siamese import Siamese
from methods import cafe, resolve
from methods.shared.layers import Layers, class_means, gap_of_means

ARCH = "ConvNetW8"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Losses (C,) and image gradients of every image step."""
    seen: list[tuple[Tensor, Tensor]] = []
    descend = cafe.Aligner.descend

    def spy(self: cafe.Aligner, images: Tensor) -> Tensor:
        losses = descend(self, images)
        assert images.grad is not None
        seen.append((losses, images.grad.clone()))
        return losses

    monkeypatch.setattr(cafe.Aligner, "descend", spy)
    return seen


def replay(arrays: dict[str, Any], **settings: Any) -> Tensor:
    """One image step of `distill` on the golden draws; a window of 1 leaves the network after it."""
    config = cafe.Config(
        iterations=1, lr_img=float(arrays["lr_img"]), init="real", window=1, strategy="", **settings
    )
    of_the_loss_and_the_query = np.stack([arrays["real_idx"]] * 2)
    data = ScriptedData(arrays | {"real_idx": of_the_loss_and_the_query})
    context = ScriptedContext([golden_network(arrays, "w", "wnames", "ConvNet")])
    ipc = arrays["init_idx"].shape[1]
    return cafe.distill(data, ipc, config=config, context=context).images  # type: ignore[arg-type]


@pytest.mark.golden("trace_cafe", "cafe")
def test_one_update_of_the_authors(watch: list) -> None:
    arrays = golden("trace_cafe")
    final = replay(arrays)
    ((losses, gradient),) = watch
    torch.testing.assert_close(float(losses.sum()), float(arrays["loss"]), rtol=2e-5, atol=0)
    assert_close(gradient, arrays["grad"])
    assert_close(final, arrays["x0"] - arrays["lr_img"] * arrays["grad"])


@pytest.mark.golden("trace_cafe", "cafe@paper")
def test_the_clean_variant_counts_the_last_map_once(watch: list) -> None:
    arrays = golden("trace_cafe")
    replay(arrays, **cafe.VARIANTS["paper"])
    ((losses, _),) = watch
    wanted = float(arrays["loss"] - arrays["Mz"])
    torch.testing.assert_close(float(losses.sum()), wanted, rtol=2e-5, atol=0)


@pytest.mark.golden("trace_cafe", "cafe", "cafe@paper")
def test_the_terms_of_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_cafe")
    sides: list[cafe.RealSide] = []
    real_side = cafe.Aligner.real_side

    def spy(self: cafe.Aligner, centres: Tensor, siamese: Siamese) -> cafe.RealSide:
        sides.append(real_side(self, centres, siamese))
        return sides[-1]

    monkeypatch.setattr(cafe.Aligner, "real_side", spy)
    replay(arrays)
    (real,) = sides
    torch.testing.assert_close(float(real.constant.sum()), float(arrays["ce_real"]), rtol=2e-5, atol=0)
    torch.testing.assert_close(float(real.discrimination.sum()), float(arrays["disc"]), rtol=2e-5, atol=0)

    net = golden_network(arrays, "w", "wnames", "ConvNet")
    with torch.no_grad():
        images = tensor(arrays["x0"])
        maps = [out.unflatten(0, arrays["init_idx"].shape) for out in Layers(net)(net, images)]
        maps.append(net.embed(images).unflatten(0, arrays["init_idx"].shape))
    names = [*(f"M{k + 1}" for k in range(len(maps) - 1)), "Mz"]
    assert sorted(names) == sorted(name for name in arrays if re.fullmatch(r"M\w", name))
    for name, mean, own in zip(names, [*real.means, real.means[-1]], maps, strict=True):
        gap = gap_of_means([mean], [own], [1.0]).sum()
        torch.testing.assert_close(float(gap), float(arrays[name]), rtol=2e-5, atol=0)


def noise(data: Dataset, ipc: int) -> Tensor:
    """Synthetic images to begin with."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(data.num_classes * ipc, *data.shape, generator=generator).requires_grad_()


def in_pieces_of(rows: int | None, config: cafe.Config, strategy: str = "") -> tuple[cafe.Aligner, Tensor]:
    """An aligner whose images pass the network so many at a time, and the images it has descended on."""
    data = toy(num_classes=4, shape=(3, 16, 16), per_class=12)
    context = Context(arch=ARCH)
    aligner = cafe.Aligner(context.network(data), data, config, strategy, context)
    aligner._matcher.rows_at_once = rows
    return aligner, noise(data, 3)


def discrimination_at_once(aligner: cafe.Aligner, images: Tensor) -> tuple[Tensor, Tensor]:
    """Discrimination and cross entropy of the first real batch as the formula says, in one graph."""
    data, net = aligner.data, aligner.net
    batch = data.index.draw(aligner.config.batch_real, Context(arch=ARCH).generator("real"))
    labels = data.labels[batch.indices]
    with torch.no_grad():
        real, logits = net.embed_and_logits(data.batch(batch.indices))
    centres = net.embed(images).unflatten(0, (data.num_classes, -1)).mean(dim=1)
    return F.cross_entropy(real @ centres.T, labels, reduction="sum"), F.cross_entropy(logits, labels)


@pytest.mark.parametrize("rows", [None, 7])
def test_discrimination_in_pieces_is_that_of_all_classes_at_once(rows: int | None) -> None:
    config = cafe.Config(
        batch_real=9, shallow_weight=0.0, deep_weight=0.0, embedding_weight=0.0, discrimination=0.5
    )
    aligner, images = in_pieces_of(rows, config)
    losses = aligner.descend(images)
    discrimination, constant = discrimination_at_once(aligner, images)
    torch.testing.assert_close(losses.sum(), 0.5 * discrimination + constant, rtol=2e-5, atol=0)
    (gradient,) = torch.autograd.grad(0.5 * discrimination, images)
    assert images.grad is not None
    assert_close(images.grad, gradient.numpy())


@pytest.mark.parametrize("strategy", ["", FULL_STRATEGY])
def test_pieces_change_nothing(strategy: str) -> None:
    found = []
    for rows in (None, 7, 20):
        aligner, images = in_pieces_of(rows, cafe.Config(batch_real=9), strategy)
        found.append((aligner.descend(images), images.grad))
    (whole, gradient), *others = found
    assert gradient is not None
    for losses, other in others:
        torch.testing.assert_close(losses, whole, rtol=1e-4, atol=0)
        assert other is not None
        assert_close(other, gradient.numpy())


def test_class_means_of_pieces_that_cut_classes() -> None:
    sizes = (4, 0, 1, 5)
    values = torch.randn(10, 2, 3)
    classes = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    cuts = [0, 3, 4, 9, 10]
    parts = [(classes[a:b], (values[a:b], values[a:b].sum(dim=2))) for a, b in pairwise(cuts)]
    maps, rows = class_means(parts, sizes)
    for c in (0, 2, 3):
        torch.testing.assert_close(maps[c], values[classes == c].mean(dim=0).flatten())
        torch.testing.assert_close(rows[c], values[classes == c].sum(dim=2).mean(dim=0))
    assert (maps[1] == 0).all()


@pytest.mark.parametrize("arch", [ARCH, "MLP", "ResNet18"])
def test_layers_are_the_outputs_of_the_activations_and_the_final_map(arch: str) -> None:
    data = toy(shape=(3, 32, 32))
    net = Context(arch=arch).network(data)
    layers = Layers(net)
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        if isinstance(module, nn.ReLU):
            seen.append(output.clone())

    images = data.batch(torch.arange(3))
    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        *maps, final = layers(net, images)
    finally:
        hook.remove()
    assert len(maps) == len(seen) == {ARCH: 3, "MLP": 2, "ResNet18": 17}[arch]
    assert all(torch.equal(got, wanted) for got, wanted in zip(maps, seen, strict=True))
    assert torch.equal(final.flatten(1), net.embed(images))


class ScriptedStudent(cafe.CafeStudent):
    """A student whose accuracies are given; notes what is asked of it."""

    accuracies: deque[float]
    log: list[str]

    def begin(self) -> None:
        self.log.append("begin")

    def train_epoch(self, images: Tensor) -> None:
        self.log.append("epoch")

    def query(self) -> float:
        return self.accuracies.popleft()


def followed(monkeypatch: pytest.MonkeyPatch, accuracies: list[float], **settings: Any) -> str:
    """Letters of what one network of a run does: image steps I and epochs E."""
    ScriptedStudent.accuracies, ScriptedStudent.log = deque(accuracies), []
    descend = cafe.Aligner.descend

    def spy(self: cafe.Aligner, images: Tensor) -> Tensor:
        ScriptedStudent.log.append("image")
        return descend(self, images)

    monkeypatch.setattr(cafe.Aligner, "descend", spy)
    monkeypatch.setattr(cafe, "CafeStudent", ScriptedStudent)
    config = cafe.Config(iterations=1, window=2, batch_real=4, **settings)
    cafe.distill(toy(num_classes=2, shape=(1, 8, 8)), 1, config=config, context=Context(arch="ConvNetW4D2"))
    assert not ScriptedStudent.accuracies
    return "".join(word[0].upper() for word in ScriptedStudent.log).lstrip("B")


def test_a_network_is_left_when_its_accuracy_has_settled_and_trained_until_it_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # After each image step one look; after each epoch one; two equal looks settle, a gap above 0.03 moves.
    looks = [0.1, *(0.2, 0.2, 0.3), 0.5, *(0.5, 0.54), 0.53]
    assert followed(monkeypatch, looks) == "I" + "EEE" + "I" + "EE" + "I"


def test_networks_that_never_settle_and_trainings_that_never_move_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [0.1, *(0.2,) * 4, 0.5, *(0.2,) * 4, 0.9]
    most = {"max_image_steps": 3, "max_epochs": 4}
    assert followed(monkeypatch, looks, **most) == "I" + "EEEE" + "I" + "EEEE" + "I"


@pytest.mark.parametrize("carry_over", [True, False])
def test_accuracies_are_those_of_the_authors_watcher(carry_over: bool) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context, same = Context(arch=ARCH), Context(arch=ARCH)
    config = cafe.Config(batch_query=7, carry_over=carry_over)
    student = cafe.CafeStudent(context.network(data), data, config, "", context)
    student._rows_at_once = 5
    running = 0.0
    for _ in range(3):
        batch = data.index.draw(7, same.generator("query"))
        running = running if carry_over else 0.0
        for c, rows in enumerate(batch.indices.split(list(batch.sizes))):
            with torch.no_grad():
                running += float((student.net(data.batch(rows)).argmax(dim=1) == c).float().mean())
        running /= 3
        torch.testing.assert_close(student.query(), running)
    student.begin()
    assert student._accuracy == 0.0


def test_the_networks_learn_from_the_synthetic_set() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context = Context(arch=ARCH)
    config = cafe.Config(batch_train=4)
    student = cafe.CafeStudent(context.network(data), data, config, "", context)
    images = noise(data, 2)
    labels = torch.arange(3).repeat_interleave(2)

    def error() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(student.net(images), labels))

    before = error()
    for _ in range(30):
        student.train_epoch(images.detach())
    assert error() < 0.8 * before


def test_the_rate_of_the_images_falls_as_published() -> None:
    rates = {
        k: cafe.image_rate(cafe.Config(), k, 2000) for k in (0, 1199, 1200, 1599, 1600, 1799, 1800, 1999)
    }
    assert list(rates.values()) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])


@pytest.mark.slow
def test_the_rate_falls_by_the_steps_that_a_budget_buys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    real = cafe.image_rate

    def noted(config: cafe.Config, iteration: int, iterations: int) -> float:
        asked.append((iteration, iterations))
        return real(config, iteration, iterations)

    monkeypatch.setattr(cafe, "image_rate", noted)
    config = resolve("cafe", "toy", 1, "smoke").config
    data = toy(num_classes=2, shape=(1, 8, 8))
    cafe.distill(data, 1, config=config, context=Context(arch="ConvNetW4D2", budget_flops=1e8))
    (steps,) = {iterations for iteration, iterations in asked if iteration}
    assert steps == len(asked) != config.iterations


@pytest.mark.slow
def test_settings() -> None:
    assert resolve("cafe", "cifar10", 10).config == cafe.Config()
    clean = resolve("cafe@paper", "cifar10", 50).config
    assert (clean.embedding_weight, clean.carry_over) == (1.0, False)
    data = toy(num_classes=2, shape=(1, 8, 8))
    for name, wanted in (("cafe", ""), ("cafe@dsa", FULL_STRATEGY)):
        config = resolve(name, "toy", 1, "smoke", {"iterations": 1}).config
        made = cafe.distill(data, 1, config=config, context=Context(arch="ConvNetW4D2"))
        assert made.augmentation == wanted
