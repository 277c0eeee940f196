"""G-VBSM: statistics, running averages and density of the authors, and what its loop must do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from support import assert_close, golden, tensor
from torch import nn

from harness.core.context import Context
from harness.core.data.toy import toy
from methods import g_vbsm
from methods.g_vbsm import MeanStatistics, RunningGap, channel_statistics, conv_statistics, density

NAMES = ("dd_var", "dd_mean", "patch_var", "patch_mean")
KEPT, ALL = torch.tensor([True]), slice(0, 1)
SMALL = {"iterations": 6, "real_batches": 1, "more_epochs": 1, "more_steps": 2}


def calls(arrays: dict[str, np.ndarray], kind: str) -> list[int]:
    """Numbers of the calls of a kind of layer in the file."""
    found = sorted(int(name.removeprefix(f"{kind}_x")) for name in arrays if re.match(rf"{kind}_x\d", name))
    assert found
    return found


@pytest.mark.golden("gvbsm_stats", "g_vbsm")
def test_terms_of_a_convolution_and_of_a_norm_call_after_call() -> None:
    arrays = golden("gvbsm_stats")
    momentum = float(arrays["momentum"])
    known = {
        "conv": tuple(tensor(arrays[f"conv_{name}"]) for name in NAMES),
        "bn": (tensor(arrays["bn_var"]), tensor(arrays["bn_mean"])),
    }
    for kind, statistics in (("conv", conv_statistics), ("bn", channel_statistics)):
        gap = RunningGap(known[kind], momentum)
        for call in calls(arrays, kind):
            maps = tensor(arrays[f"{kind}_x{call}"]).requires_grad_()
            term = gap(statistics(maps[None]), ALL, KEPT)[0]
            assert_close(term, arrays[f"{kind}_r{call}"])
            assert_close(*torch.autograd.grad(term, maps), arrays[f"{kind}_grad{call}"])


@pytest.mark.golden("gvbsm_stats", "g_vbsm")
def test_reference_statistics_of_a_training_set() -> None:
    arrays, mean = golden("gvbsm_stats"), MeanStatistics()
    for call in calls(arrays, "set"):
        maps = tensor(arrays[f"set_x{call}"])
        mean.add([conv_statistics(maps[None])], len(maps))
    for name, found in zip(NAMES, mean.result()[0], strict=True):
        assert_close(found, arrays[f"set_{name}"])


@pytest.mark.golden("gvbsm_density", "g_vbsm")
def test_density() -> None:
    arrays = golden("gvbsm_density")
    images = tensor(arrays["x"]).requires_grad_()
    loss = density(images, tensor(arrays["y"]), float(arrays["tau"]))
    assert_close(loss, arrays["loss"])
    assert_close(*torch.autograd.grad(loss, images), arrays["grad"])


def test_a_term_that_is_left_out_is_nothing_and_moves_no_average() -> None:
    gap = RunningGap((torch.zeros(2),), 0.5, batches=3)
    own = torch.ones(2, 2, requires_grad=True)
    terms = gap((own,), slice(1, 3), torch.tensor([True, False]))
    assert terms[1] == 0
    assert terms[0] > 0
    (gradient,) = torch.autograd.grad(terms.sum(), own)
    assert torch.equal(gradient[1], torch.zeros(2))
    assert torch.equal(gap.averages[0], torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.0, 0.0]]))


def test_maps_are_enlarged_to_whole_patches() -> None:
    maps = torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    variance, mean, patch_variance, patch_mean = conv_statistics(maps)
    assert variance.shape == mean.shape == (2, 4)
    assert patch_variance.shape == patch_mean.shape == (2, 4)
    grown = nn.functional.interpolate(maps[1], (8, 8), mode="bilinear")
    torch.testing.assert_close(patch_mean[1, 1], grown[:, :, :4, 4:].mean())


def test_batches_keep_averages_of_their_own() -> None:
    data, context = toy(num_classes=3, shape=(3, 8, 8)), Context(arch="ConvNetW8D2")
    config = g_vbsm.Config(**SMALL, drop=0.0)
    net = context.network(data, arch="ConvNetW8D2BN").eval().requires_grad_(False)
    known = g_vbsm.reference_statistics(context, data, net, config, 0)
    labels = torch.arange(3).repeat(2)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = g_vbsm.StatisticsLoss(context, net, known, labels.split(3), config)
    alone = [g_vbsm.StatisticsLoss(context, net, known, [labels[:3]], config) for _ in range(2)]
    for _ in range(2):
        losses = together(images, labels, slice(0, 2))
        each = [one(x, labels[:3], slice(0, 1)) for one, x in zip(alone, images.split(3), strict=True)]
        torch.testing.assert_close(losses, torch.cat(each), rtol=1e-4, atol=1e-4)


def test_networks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    data, context = toy(num_classes=3, shape=(3, 8, 8)), Context(arch="ConvNetW8D2")
    nets = [
        context.network(data, arch=arch).eval().requires_grad_(False)
        for arch in ("ConvNetW8D2BN", "ConvNetW4D1")
    ]
    monkeypatch.setattr(g_vbsm, "backbones", lambda *rest: nets)
    seen: list[int] = []
    call = g_vbsm.StatisticsLoss.__call__

    def spy(loss: g_vbsm.StatisticsLoss, *rest: object) -> torch.Tensor:
        seen.append(nets.index(loss._net))
        return call(loss, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(g_vbsm.StatisticsLoss, "__call__", spy)
    made = g_vbsm.distill(data, 2, config=g_vbsm.Config(**SMALL), context=context)
    assert seen == [0, 1] * 3
    assert made.images.shape == (6, 3, 8, 8)
    pixels = data.transform.inverse(made.images)
    assert float(pixels.min()) > -1e-5
    assert float(pixels.max()) < 1 + 1e-5
