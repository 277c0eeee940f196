"""KIP: the authors' loss, updates and label solve, and what must hold beyond them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data import RegularisedZCA
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.tangent import KernelRidge
from methods import kip, resolve

Arrays = dict[str, np.ndarray]


def config_of(arrays: Arrays, case: str, updates: int) -> kip.Config:
    """The settings of a golden case."""
    lr = float(arrays[f"{case}lr"])
    return kip.Config(
        kernel=str(arrays[f"{case}kind"]),  # type: ignore[arg-type]
        depth=int(arrays[f"{case}depth"]),
        extra=int(arrays[f"{case}pre"]),
        w_std=float(arrays["W_std"]),
        b_std=float(arrays["b_std"]),
        reg=float(arrays[f"{case}reg"]),
        iterations=updates,
        lr_img=lr,
        lr_label=lr if arrays[f"{case}learn"] else 0.0,
    )


def trace_data(arrays: Arrays, case: str, updates: int) -> ScriptedData:
    """The golden images as a dataset; the set begins with the support in the file's order."""
    support, targets = arrays[f"{case}xs0"], arrays[f"{case}xt"]
    rows = len(support) + np.arange(len(targets))
    data = ScriptedData(
        {
            "images": np.concatenate([support, targets]),
            "labels": np.concatenate([arrays[case + name].argmax(1) for name in ("ys0", "yt")]),
            "init_idx": np.arange(len(support))[None],
            "real_idx": np.broadcast_to(rows, (updates, 1, len(rows))),
        }
    )
    data.num_classes = arrays[f"{case}ys0"].shape[1]
    return data


def cases_of(arrays: Arrays) -> list[str]:
    """The prefixes of the cases of a file."""
    found = [name.removesuffix("kind") for name in arrays if name.endswith("_kind")]
    assert found
    return found


@pytest.mark.slow
@pytest.mark.golden("kip_loss", "kip")
def test_updates_are_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("kip_loss")
    # The file's images are of classes in any order, as many of each as there are.
    kept = SimpleNamespace(
        of=lambda data, images, labels, **rest: SimpleNamespace(images=images, labels=labels)
    )
    monkeypatch.setattr(kip, "Distilled", kept)
    for case in cases_of(arrays):
        updates = sum(name.startswith(f"{case}loss") for name in arrays)
        found: list[tuple[Tensor, ...]] = []
        original = KernelRidge.gradients

        def spy(self: KernelRidge, *given: Tensor, original: Any = original, found: Any = found) -> Any:
            found.append(tuple(part.detach().clone() for part in (*original(self, *given), *given)))
            return found[-1][:3]

        data, classes = trace_data(arrays, case, updates), tensor(arrays[f"{case}ys0"]).argmax(1)
        with monkeypatch.context() as patch:
            patch.setattr(KernelRidge, "gradients", spy)
            patch.setattr(kip, "class_labels", lambda *_, classes=classes: classes)
            made = kip.distill(
                data,  # type: ignore[arg-type]
                len(classes) // data.num_classes,
                config=config_of(arrays, case, updates),
                context=ScriptedContext([]),
            )
        assert len(found) == updates
        for k, (loss, by_images, by_labels, images, labels, *_) in enumerate(found):
            assert_close(loss, arrays[f"{case}loss{k}"])
            assert_close(images, arrays[f"{case}xs{k}"])
            assert_close(labels, arrays[f"{case}ys{k}"])
            if f"{case}gx{k}" in arrays:
                assert_close(by_images, arrays[f"{case}gx{k}"])
            if f"{case}gy{k}" in arrays and arrays[f"{case}learn"]:
                assert_close(by_labels, arrays[f"{case}gy{k}"])
        assert_close(made.images.double(), arrays[f"{case}xs{updates}"].astype(np.float64))
        assert_close(made.labels.double(), arrays[f"{case}ys{updates}"])


@pytest.mark.golden("kip_loss", "kip")
def test_predictions_and_solved_labels_are_the_authors() -> None:
    arrays = golden("kip_loss")
    for case in cases_of(arrays):
        ridge = kip.ridge_of(config_of(arrays, case, 1))
        support, labels, targets, wanted = (
            tensor(arrays[case + name]) for name in ("xs0", "ys0", "xt", "yt")
        )
        predicted = ridge.predict(support, labels, targets)
        assert_close(predicted, arrays[f"{case}pred0"])
        right = (predicted.argmax(1) == wanted.argmax(1)).double().mean()
        assert float(right) == float(arrays[f"{case}acc0"])
        among, across = ridge.matrix(support, support), ridge.matrix(targets, support)
        assert_close(kip.label_solve(among, across, wanted, ridge.reg), arrays[f"{case}ls"])


def test_solved_labels_fit_better_than_classes() -> None:
    data = toy(3, (1, 8, 8), 20)

    def loss(first_labels: Any) -> float:
        config = dataclasses.replace(
            resolve("kip@fc", data.name, 2, "smoke").config, first_labels=first_labels
        )
        config = dataclasses.replace(config, iterations=1, lr_img=0.0, lr_label=0.0, double=True)
        made = kip.distill(data, 2, config=config, context=Context())
        assert made.ridge is not None
        predicted = made.ridge.predict(made.images, made.labels, data.batch(slice(None)))
        wanted = torch.nn.functional.one_hot(data.labels, 3) - 1 / 3
        return float((predicted - wanted).square().mean())

    assert loss("solved") < 0.9 * loss("classes")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["kip", "kip@vec", "kip@fc"])
def test_the_loss_falls_and_the_set_carries_its_kernel(variant: str, tmp_path: Path) -> None:
    data = toy(3, (3, 8, 8), 20)
    config = dataclasses.replace(resolve(variant, data.name, 1, "smoke").config, iterations=15, zca_reg=0.1)
    losses: list[float] = []
    context = Context(on_progress=lambda progress: losses.append(progress.loss or 0.0))
    context.log = lambda loss: losses.append(float(loss))  # type: ignore[method-assign]
    made = kip.distill(data, 1, config=config, context=context)
    assert losses[-1] < 0.5 * losses[0]
    made.save(tmp_path / "set.safetensors")
    again = Distilled.load(tmp_path / "set.safetensors")
    assert again.ridge == made.ridge == kip.ridge_of(config)
    assert isinstance(again.transform, RegularisedZCA)
    assert torch.equal(again.images, made.images)


def test_kernels_that_take_too_long_or_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(10, (3, 32, 32), 12)
    slow = resolve("kip", data.name, 10).config
    with pytest.raises(UserError, match=r"15,050 pairs.* on this CPU, the whole run [\d.]+ days.*kip@vec"):
        kip.distill(data, 10, config=slow, context=Context())
    monkeypatch.setattr(kip, "_memory_of", lambda device: 2**18)
    with pytest.raises(UserError, match=r"take [\d.]+ KiB, and this CPU has 256 KiB; choose a lower --ipc"):
        kip.distill(data, 10, config=resolve("kip@vec", data.name, 10).config, context=Context())
