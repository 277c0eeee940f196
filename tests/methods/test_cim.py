"""CIM against the authors' whole loop, and what it refuses."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.augment import Draws
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import DataError
from harness.core.siamese import Siamese
from harness.core.teachers import Teacher, TeacherRecipe
from methods import cim, resolve
from methods.shared.recover import Adam

ARCH = "ConvNetW8D2"
# IDC's stages, and how many numbers each operation draws; one of several operations is chosen by a draw.
STAGES = (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",))
NUMBERS = {"flip": 1, "color": 3, "crop": 2, "scale": 2, "rotate": 1, "cutout": 2}


class Images(ScriptedData):
    """The golden pixels, class after class, as a dataset that knows where each class is."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        of_each = int(arrays["mipc"])
        classes = len(arrays["images"]) // of_each
        labels = torch.arange(classes).repeat_interleave(of_each)
        super().__init__({**arrays, "labels": labels.numpy(), "init_idx": arrays["anchors"], "real_idx": []})
        self.index.table = torch.arange(len(labels)).view(classes, of_each)
        self.index.counts = (of_each,) * classes


def stages_of(strategy: str) -> list[list[str]]:
    """The operations that a strategy of the file lists, stage by stage."""
    listed = strategy.split("_")
    found = [[name for name in stage if name in listed] for stage in STAGES]
    return [names for names in found if names]


def drawn(stages: Sequence[list[str]], numbers: Iterator[float]) -> Draws | None:
    """Draws of one row from the numbers of all stages, as they were made."""
    if not stages:
        return None
    choice = int(next(numbers)) if set(stages[0]) <= set(STAGES[2]) else 0
    values = torch.zeros(1, 3)
    for k in range(NUMBERS[stages[0][choice]]):
        values[0, k] = next(numbers)
    return Draws(torch.tensor([choice]), values, drawn(stages[1:], numbers))


def joined(rows: Sequence[Draws | None]) -> Draws | None:
    """Draws of several rows in one."""
    given = [row for row in rows if row is not None]
    if not given:
        return None
    operations, values = (
        torch.cat([getattr(row, part) for row in given]) for part in ("operation", "values")
    )
    return Draws(operations, values, joined([row.then for row in given]))


def scripted_draws(arrays: dict[str, Any], strategy: str) -> deque[Siamese]:
    """The augmentations of the updates, one row for each class."""
    stages = stages_of(str(arrays["strategy"]))
    updates = ([drawn(stages, iter(row.tolist())) for row in rows] for rows in arrays["draws"].swapaxes(0, 1))
    return deque(Siamese(strategy, joined(rows)) for rows in updates)


def observer_of(arrays: dict[str, Any]) -> Teacher:
    net = golden_convnet({**arrays, "x": arrays["images"]}).net
    recipe = TeacherRecipe("golden", 1)
    context = Context()
    return Teacher(net, context, "ConvNetBN", recipe, 1.0, 0.5, "", context.cost())


@pytest.mark.golden("trace_cim", "cim")
def test_the_authors_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_cim")
    data, observer = Images(arrays), observer_of(arrays)
    config = cim.Config(
        iterations=int(arrays["iters"]),
        lr_img=float(arrays["lr"]),
        weight_decay=float(arrays["weight_decay"]),
        factor=int(arrays["factor"]),
        mipc=int(arrays["mipc"]),
        layer=int(arrays["layer"]),
        matching_strategy=">".join("_".join(names) for names in stages_of(str(arrays["strategy"]))),
    )
    ipc = int(arrays["ipc"])
    draws, chosen, losses = scripted_draws(arrays, config.matching_strategy), [], []
    gradients, residuals = [], []
    monkeypatch.setattr(cim, "train_teacher", lambda *arguments: observer)
    monkeypatch.setattr(cim.Siamese, "draw", classmethod(lambda cls, *arguments: draws.popleft()))
    choose, tiles, step = cim.choose_anchors, cim.tile_by_tile, Adam.step

    def watched(targets: Tensor) -> Any:
        loss = tiles(targets)

        def of_class(seen: Any) -> Tensor:
            losses.append(loss(seen))
            return losses[-1]

        return of_class

    def stepped(optimizer: Adam, gradient: Tensor, lr: float) -> None:
        step(optimizer, gradient, lr)
        gradients.append(gradient)
        residuals.append(optimizer.images.clone())

    monkeypatch.setattr(Adam, "step", stepped)
    monkeypatch.setattr(cim, "choose_anchors", lambda *a: chosen.append(choose(*a)) or chosen[-1])
    monkeypatch.setattr(cim, "tile_by_tile", watched)
    made = cim.distill(data, ipc, config=config, context=ScriptedContext([]))  # type: ignore[arg-type]

    firsts = data.index.table[:, :1]
    assert torch.equal(chosen[0] - firsts, tensor(arrays["anchors"]).long())
    mosaic = cim.assemble(data, cim.in_decoding_order(chosen[0], config.factor), config.factor)  # type: ignore[arg-type]
    assert_close(mosaic, arrays["init"].reshape(mosaic.shape))
    assert_close(torch.stack(losses).T, arrays["loss"])
    assert_close(gradients[0], arrays["grad0"].reshape(mosaic.shape))
    for name, authors in arrays.items():
        if match := re.fullmatch(r"delta(\d+)", name):
            assert_close(residuals[int(match[1]) - 1], authors.reshape(mosaic.shape), relative=1e-3)
    final = data.transform.inverse(made.images)
    assert_close(final, arrays["final"].reshape(final.shape), relative=1e-4)


def test_too_few_images_are_refused_before_the_observer_is_trained() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    for ipc, mipc in ((2, 7), (6, 300)):
        config = resolve("cim", data.name, ipc, "smoke", {"mipc": mipc}).config
        with pytest.raises(DataError, match=f"at ipc {ipc} fills {4 * ipc} tiles of each class"):
            cim.distill(data, ipc, config=config, context=Context(arch=ARCH))


def test_a_residual_without_updates_leaves_the_mosaic() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    settings = {"mipc": 8, "iterations": 0, "teacher_epochs": 3, "teacher_steps": 10}
    config = resolve("cim", data.name, 2, "smoke", settings).config
    made = cim.distill(data, 2, config=config, context=Context(arch=ARCH))
    assert (made.factor, len(made.images)) == (2, 6)
    pixels = data.transform.inverse(made.images)
    assert float(pixels.min()) >= -1e-5
    assert float(pixels.max()) <= 1 + 1e-5


@pytest.mark.slow
def test_the_layer_may_be_any_block() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    settings = {"mipc": 8, "iterations": 2, "teacher_epochs": 3, "teacher_steps": 10}
    sets = [
        cim.distill(
            data,
            1,
            config=resolve("cim", data.name, 1, "smoke", {**settings, "layer": layer}).config,
            context=Context(arch=ARCH),
        )
        for layer in (0, 1, -1)
    ]
    assert sets[1].digest() == sets[2].digest()
    assert sets[0].digest() != sets[1].digest()
