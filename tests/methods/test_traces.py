"""DM, IDM and BACON against three iterations of the authors' own loops, through our `distill`.

The dataset, the networks and every draw are scripted from the golden files; all else is what users run.
"""

from __future__ import annotations

from typing import Any

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
    final = dm.distill(ScriptedData(arrays), 2, config=config, context=context).images  # type: ignore[arg-type]
    assert_close(final, arrays[f"x{iterations}"])
    assert_close(watch[0][1], arrays["grad0"])
    for k, (losses, _) in enumerate(watch):
        torch.testing.assert_close(float(losses.sum()), float(arrays["loss"][k]), rtol=2e-5, atol=0)


def run_pooled(method: Any, arrays: dict[str, Any], iterations: int) -> Tensor:
    """IDM or BACON for some iterations with all draws scripted; the images as the authors leave them."""
    full = "match_net" in arrays
    if full:
        networks = [golden_network(arrays, f"w{k}_", f"w{k}_names", "ConvNet") for k in range(5)]
        picks = [
            torch.tensor(choice)
            for k in range(3)
            for choice in ([int(arrays["match_net"][k])], arrays["train_nets"][k])
        ]
        train = [tensor(rows) for rows in arrays["train_idx"].reshape(-1, arrays["train_idx"].shape[-1])]
        settings = {"ce_weight": float(arrays["ce_weight"]), "factor": 2, "push_every": 2, "train_steps": 2}
    else:
        networks = [golden_network(arrays, "w0_", "w0_names", "ConvNet") for _ in range(6)]
        picks, train = [torch.tensor([0]), torch.tensor([], dtype=torch.int64)] * 3, []
        settings = {"ce_weight": 0.0, "factor": 1, "train_steps": 0}
    config = method.Config(
        iterations=iterations, lr_img=float(arrays["lr_img"]), meter_reset_every=0, strategy="", **settings
    )
    context = ScriptedContext(networks, {"pool": picks, "train": train})
    with ScriptedDraws():
        return method.distill(ScriptedData(arrays), 2, config=config, context=context).images


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
    for iterations in (1, 2, 3):
        watch.clear()
        final = run_pooled(method, arrays, iterations)
        assert_close(final, arrays[f"x{iterations}"])
    for k, (losses, _) in enumerate(watch):
        torch.testing.assert_close(losses, tensor(arrays["loss_c"][k]), rtol=2e-5, atol=0)
    if "grad0" in arrays:
        assert_close(watch[0][1].view(arrays["grad0"].shape), arrays["grad0"])


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
    run_pooled(bacon if "bacon" in item else idm, arrays, 3)
    torch.testing.assert_close(torch.tensor(accuracies), tensor(arrays["acc_percent"][:, 0]).float())
    torch.testing.assert_close(torch.stack(losses), tensor(arrays["train_loss"]).flatten(), rtol=2e-5, atol=0)
    trained = {name[2] for name in arrays if name.startswith("wf")}
    assert trained
    for k in trained:
        for j, value in enumerate(pools[0].members[int(k)].net.parameters()):
            assert_close(value, arrays[f"wf{k}_{j:02d}"])
