"""SRe2L, CDA and SRe2L++: whole recover iterations of the authors through our `distill`, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset, Normalization
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.teachers import RECIPES
from methods import cda, resolve, sre2l
from methods.shared import recover
from methods.shared.recover import Adam, View
from methods.shared.statistics import BatchNormStatistics

ARCH = "ConvNetW8D2"
FAMILY = [sre2l, cda]


class Watch:
    """What a recovery does: logits and terms of each pass, and rate, gradient and images of each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[Tensor, Tensor]] = []
        self.rates: list[float] = []
        self.gradients: list[Tensor] = []
        see, step = BatchNormStatistics.__call__, Adam.step

        def seen(statistics: BatchNormStatistics, *arguments: Any) -> tuple[Tensor, Tensor]:
            logits, terms = see(statistics, *arguments)
            self.passes.append((logits.detach(), terms.detach()))
            return logits, terms

        def stepped(optimizer: Adam, gradient: Tensor, lr: float) -> None:
            self.gradients.append(gradient.clone())
            self.rates.append(lr)
            step(optimizer, gradient, lr)

        monkeypatch.setattr(BatchNormStatistics, "__call__", seen)
        monkeypatch.setattr(Adam, "step", stepped)


def scripted(
    arrays: dict[str, np.ndarray], module: ModuleType, nets: list[Network], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The golden classes as a dataset, with networks, first images and views as in the file.

    Labels are 0, 1, ... in ours: the classifiers' rows change places accordingly.
    """
    targets = tensor(arrays["targets"]).long()
    others = [c for c in range(nets[0].classifier.out_features) if c not in targets.tolist()]
    order = torch.cat([targets, torch.tensor(others, dtype=torch.int64)])
    for net in nets:
        classifier = net.eval().requires_grad_(False).classifier
        classifier.weight.copy_(classifier.weight[order])
        classifier.bias.copy_(classifier.bias[order])
    views = deque(views_of(arrays))
    monkeypatch.setattr(module, "draw_views", lambda *rest: [views.popleft()])
    data: Any = ScriptedData(
        {
            "images": arrays["x0"],
            "labels": np.arange(len(targets)),
            "init_idx": np.zeros((1, 1)),
            "real_idx": [],
        }
    )
    data.transform = Normalization.of(*([float(v) for v in arrays[name]] for name in ("mean", "std")))
    return data


def views_of(arrays: dict[str, np.ndarray]) -> list[View]:
    """The view of each iteration; without crops and mirroring where the file has none."""
    rolls = arrays["roll"].tolist()
    windows = arrays["crop"].tolist() if "crop" in arrays else [None] * len(rolls)
    flips = arrays["flip"].tolist() if "flip" in arrays else [0] * len(rolls)
    return [View(window, bool(flip), tuple(roll)) for window, flip, roll in zip(windows, flips, rolls)]


def entropies(watch: Watch) -> Tensor:
    """Mean cross entropy of each pass, (passes,); labels are 0, 1, ..."""
    return torch.stack([torch.nn.functional.cross_entropy(z, torch.arange(len(z))) for z, _ in watch.passes])


@pytest.mark.golden("recover_sre2l", "sre2l", "cda")
def test_whole_iterations_of_sre2l(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, first = golden("recover_sre2l"), float(golden("recover_sre2l")["first"])
    settings = {
        "iterations": int(arrays["iters"]),
        "lr_img": float(arrays["lr"]),
        "r_bn": float(arrays["r_bn"]),
        "first_weight": first,
    }
    afters = {int(name[1:]): array for name, array in arrays.items() if name[1:].isdigit() and name[0] == "x"}
    assert max(afters) == len(arrays["lrs"])
    for method in FAMILY:
        for steps in sorted(set(afters) - {0}):
            watch = Watch(monkeypatch)
            net = golden_convnet(arrays, images="x0").net
            data = scripted(arrays, method, [net], monkeypatch)
            monkeypatch.setattr(method, "squeezed", lambda *rest, net=net: net)
            monkeypatch.setattr(method, "starting_images", lambda *rest: tensor(arrays["x0"]).clone())
            config = method.Config(**settings)
            made = method.distill(data, 1, config=config, context=Context(limit_steps=steps))
            assert_close(made.images, arrays[f"x{steps}"])
        assert_close(torch.tensor(watch.rates), arrays["lrs"])
        assert_close(entropies(watch), arrays["ce"])
        terms = torch.stack([terms[:, 0] for _, terms in watch.passes])
        terms[:, 0] *= first
        assert_close(terms, arrays["r_layers"])
        assert_close(watch.gradients[0], arrays["grad0"])
        assert_close(made.pixels()[: len(arrays["stored"])], arrays["stored"])


@pytest.mark.golden("sched_soft", "cda")
def test_crops_grow_smaller_as_the_authors() -> None:
    arrays = golden("sched_soft")
    count = int(arrays["crop_iterations"])
    cases = [name.removesuffix("_milestone") for name in arrays if name.endswith("_milestone")]
    assert cases
    for case in cases:
        for mode in ("step", "linear", "cosine"):
            config = cda.Config(curriculum=mode, milestone=float(arrays[f"{case}_milestone"]))
            found = [cda.smallest_crop(i / count, config) for i in range(count)]
            assert_close(torch.tensor(found), arrays[f"{case}_{mode}"])
    assert cda.smallest_crop(0.5, cda.Config(smallest_crop=None)) is None


@pytest.mark.golden("sched_soft", "sre2l", "cda", "sre2l_pp", "fadrm", "g_vbsm")
def test_rates_of_the_images() -> None:
    arrays = golden("sched_soft")
    count, lr = int(arrays["recover_iterations"]), float(arrays["recover_lr"])
    assert_close(torch.tensor([lr * recover.cosine(i / count) for i in range(count)]), arrays["recover"])
