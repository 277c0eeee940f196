"""Statistics of batch norm layers against the authors', for one group of images and for several."""

from __future__ import annotations

import pytest
import torch
from support import assert_close, golden, tensor
from torch import nn

from harness.core.context import Context
from harness.core.data.toy import toy
from methods.shared.statistics import BatchNormStatistics, first_weighted, moment_gap


@pytest.mark.golden("bn_loss", "sre2l", "cda", "sre2l_pp", "fadrm")
def test_terms_loss_and_gradients_of_given_maps() -> None:
    arrays = golden("bn_loss")
    maps = [tensor(arrays[f"x{k}"]).requires_grad_() for k in range(int(arrays["layers"]))]
    terms = [
        moment_gap(x[None], tensor(arrays[f"mean{k}"]), tensor(arrays[f"var{k}"])) for k, x in enumerate(maps)
    ]
    for k, term in enumerate(terms):
        assert_close(term[0], arrays[f"r{k}"])
    loss = first_weighted(torch.stack(terms), float(arrays["first_multiplier"]))[0]
    assert_close(loss, arrays["loss"])
    for k, gradient in enumerate(torch.autograd.grad(loss, maps)):
        assert_close(gradient, arrays[f"grad{k}"])


@pytest.mark.parametrize("arch", ["ConvNetW8BN", "ResNet18BNW4", "VGG11BNW4"])
def test_groups_in_one_pass_are_as_each_alone(arch: str) -> None:
    data, context = toy(num_classes=3, shape=(3, 32, 32)), Context()
    net = context.network(data, arch=arch)
    net(data.batch(torch.arange(30)))  # running values of some images
    statistics = BatchNormStatistics(net.eval())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, terms = statistics(net, images, groups=3)
    assert terms.shape == (len(norms), 3)
    torch.testing.assert_close(logits, net(images))
    for k, part in enumerate(images.split(4)):
        torch.testing.assert_close(terms[:, k : k + 1], statistics(net, part)[1], rtol=1e-4, atol=1e-5)
    assert len(terms[:, 0].unique()) == len(norms)
