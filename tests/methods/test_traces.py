"""DM, IDM and BACON against some iterations of the authors' own loops, through our `distill`.

The dataset, the networks and every draw are scripted from the golden files; all else is what users run.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedContext, ScriptedData, ScriptedDraws
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from methods import bacon, dm, idm
from methods.shared import pool


@pytest.mark.parametrize(
    ("item", "arch"),
    [
        pytest.param(item, arch, marks=pytest.mark.golden(item, "dm"))
        for item, arch in (("trace_dm", "ConvNet"), ("trace_dm_bn", "ConvNetBN"))
    ],
)
def test_dm(item: str, arch: str, watch: list) -> None:
    arrays = golden(item)
    iterations = len(arrays["loss"])
    fresh = [golden_network(arrays, f"w{k}_", f"w{k}_names", arch) for k in range(iterations)]

    config = dm.Config(iterations=iterations, lr_img=float(arrays["lr_img"]), strategy="")
    context = ScriptedContext([golden_network(arrays, "w0_", "w0_names", arch)], redrawn=fresh)
    ipc = arrays["init_idx"].shape[-1]
    final = dm.distill(ScriptedData(arrays), ipc, config=config, context=context).images  # type: ignore[arg-type]
    for k, images in enumerate([*(state["images"] for state in context.states), final]):
        assert_close(images, arrays[f"x{k}"])
    assert_close(watch[0][1], arrays["grad0"])
    for (losses, _), loss in zip(watch, arrays["loss"], strict=True):
        torch.testing.assert_close(float(losses.sum()), float(loss), rtol=2e-5, atol=0)


def pool_settings(arrays: dict[str, Any], networks: int) -> dict[str, Any]:
    """Settings of multi-formation, cross entropy and pool of a golden file with so many networks.

    The authors push one every two iterations; if one of the file is used before that, all are there at once.
    """
    used = np.column_stack([arrays["match_net"], arrays["train_nets"]]).max(axis=1)
    growth, pushes = 2, 1 + np.arange(len(used)) // 2
    if (used >= networks - pushes[-1] + pushes).any() or networks <= pushes[-1]:
        growth, pushes = len(used), np.ones_like(used)
    _, trained, steps, batch = arrays["train_idx"].shape
    return {
        "ce_weight": float(arrays["ce_weight"]),
        "factor": math.isqrt(arrays["init_idx"].shape[1]),
        "pool_start": networks - int(pushes[-1]),
        "push_every": growth,
        "trained": trained,
        "train_steps": steps,
        "train_batch": batch,
        "lr_net": float(arrays["lr_net"]),
    }


def run_pooled(method: Any, arrays: dict[str, Any], iterations: int) -> Tensor:
    """IDM or BACON for some iterations with all draws scripted; the images as the authors leave them."""
    count = sum(re.fullmatch(r"w\d+_names", name) is not None for name in arrays)
    networks = [golden_network(arrays, f"w{k}_", f"w{k}_names", "ConvNet") for k in range(count)]
    if "match_net" in arrays:
        pairs = zip(arrays["match_net"], arrays["train_nets"], strict=True)
        picks = [torch.tensor(choice) for match, train in pairs for choice in ([match], train)]
        train = list(tensor(arrays["train_idx"]).flatten(0, -2))
        settings = pool_settings(arrays, count)
    else:
        picks, train = [torch.tensor([0]), torch.tensor([], dtype=torch.int64)] * iterations, []
        settings = {"ce_weight": 0.0, "factor": 1, "pool_start": 1, "push": 0, "train_steps": 0}
    config = method.Config(
        iterations=iterations, lr_img=float(arrays["lr_img"]), meter_reset_every=0, strategy="", **settings
    )
    context, ipc = ScriptedContext(networks, {"pool": picks, "train": train}), arrays["init_idx"].shape[-1]
    with ScriptedDraws():
        return method.distill(ScriptedData(arrays), ipc, config=config, context=context).images


def class_steps(start: Tensor, gradient: Tensor, classes: int, lr: float) -> list[Tensor]:
    """The images after the step of each class of the first iteration, by the gradients at their turns."""
    images, found = start.clone().requires_grad_(), []
    optimizer = torch.optim.SGD([images], lr, momentum=0.5)
    for rows in torch.arange(len(images)).chunk(classes):
        images.grad = torch.zeros_like(images)
        images.grad[rows] = gradient[rows]
        optimizer.step()
        found.append(images.detach().clone())
    return found


@pytest.mark.parametrize(
    ("item", "method"),
    [
        pytest.param("trace_idm", idm, marks=pytest.mark.golden("trace_idm", "idm")),
        pytest.param("trace_idm_full", idm, marks=pytest.mark.golden("trace_idm_full", "idm")),
        pytest.param("trace_bacon", bacon, marks=pytest.mark.golden("trace_bacon", "bacon")),
        pytest.param("trace_bacon_full", bacon, marks=pytest.mark.golden("trace_bacon_full", "bacon")),
    ],
)
def test_idm_and_bacon(item: str, method: Any, watch: list) -> None:
    arrays = golden(item)
    for iterations in range(1, len(arrays["loss_c"]) + 1):
        watch.clear()
        final = run_pooled(method, arrays, iterations)
        assert_close(final, arrays[f"x{iterations}"])
    for (losses, _), wanted in zip(watch, arrays["loss_c"], strict=True):
        torch.testing.assert_close(losses, tensor(wanted), rtol=2e-5, atol=0)
    gradient = watch[0][1]
    if "grad0" in arrays:
        assert_close(gradient.view(arrays["grad0"].shape), arrays["grad0"])
    steps = class_steps(tensor(arrays["x0"]), gradient, len(losses), float(arrays["lr_img"]))
    for c, images in enumerate(steps):
        if f"x0_c{c}" in arrays:
            assert_close(images, arrays[f"x0_c{c}"])


@pytest.mark.parametrize(
    "item",
    [
        pytest.param("trace_idm_full", marks=pytest.mark.golden("trace_idm_full", "idm")),
        pytest.param("trace_bacon_full", marks=pytest.mark.golden("trace_bacon_full", "bacon")),
    ],
)
def test_trained_networks_and_meters(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden(item)
    accuracies, losses, pools = [], [], []
    pick, train_member = pool.NetworkPool.pick, pool.NetworkPool.train_member

    def spy_pick(self: pool.NetworkPool) -> pool.Member:
        member = pick(self)
        accuracies.append(float(member.accuracy_percent))
        pools.append(self)
        return member

    def spy_train(self: pool.NetworkPool, member: pool.Member, indices: Tensor) -> Tensor:
        losses.append(train_member(self, member, indices))
        return losses[-1]

    monkeypatch.setattr(pool.NetworkPool, "pick", spy_pick)
    monkeypatch.setattr(pool.NetworkPool, "train_member", spy_train)
    run_pooled(bacon if "bacon" in item else idm, arrays, len(arrays["match_net"]))
    of_classes = tensor(arrays["acc_percent"]).float()
    torch.testing.assert_close(torch.tensor(accuracies)[:, None].expand_as(of_classes), of_classes)
    torch.testing.assert_close(torch.stack(losses), tensor(arrays["train_loss"]).flatten(), rtol=2e-5, atol=0)
    trained = {name.partition("_")[0].removeprefix("wf") for name in arrays if name.startswith("wf")}
    assert trained
    for k in trained:
        for j, value in enumerate(pools[0].members[int(k)].net.parameters()):
            assert_close(value, arrays[f"wf{k}_{j:02d}"])
