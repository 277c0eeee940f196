"""The losses against the authors' values and gradients, and where theirs break down."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, golden, golden_network, tensor

from harness.core.formation import decode
from methods import bacon
from methods.shared import kernels
from methods.shared.matching import MeanDistance, Seen, distance_and_entropy

ONLY_CLASS = slice(0, 1)


@pytest.mark.golden("bacon_terms", "bacon")
@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("precision", [32, 64])
def test_bacon_terms_match_authors(case: str, precision: int) -> None:
    arrays = golden("bacon_terms")
    dtype = torch.float64 if precision == 64 else torch.float32
    suffix = "64" if precision == 64 else ""
    real = tensor(arrays[f"{case}_fr"]).to(dtype)
    synthetic = tensor(arrays[f"{case}_fs"]).to(dtype).requires_grad_()
    mean, std = kernels.class_moments(real, (len(real),))
    terms = {
        "nll": kernels.gaussian_nll(mean, std, synthetic.mean(0, keepdim=True)),
        "tv": kernels.half_total_variation(mean, synthetic.mean(0, keepdim=True)),
        "clip2d": kernels.clip_prior(real[None], synthetic[None]),
    }
    for name, value in terms.items():
        assert_close(value[0], arrays[f"{case}_{name}{suffix}"])
        (gradient,) = torch.autograd.grad(value.sum(), synthetic, retain_graph=True)
        key = f"{case}_{name}_grad{suffix}"
        assert_close(gradient, arrays[key])
    distance = bacon.distance_to(bacon.Weights())(real, (len(real),))
    total = distance(Seen(synthetic[None], classes=ONLY_CLASS))
    assert_close(total[0], arrays[f"{case}_total{suffix}"])


@pytest.mark.golden("bacon_class_loss", "bacon")
def test_bacon_gradient_through_network_matches_authors() -> None:
    arrays = golden("bacon_class_loss")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    images = tensor(arrays["x_syn"]).requires_grad_()
    real = net.embed(tensor(arrays["x_real"])).detach()
    assert_close(real, arrays["feat_real"])
    distance = bacon.distance_to(bacon.Weights())(real, (len(real),))
    loss = distance(Seen(net.embed(images)[None], classes=ONLY_CLASS))
    assert_close(loss[0], arrays["total"])
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert_close(gradient, arrays["grad"])


@pytest.mark.golden("idm_class_loss", "idm")
@pytest.mark.parametrize("suffix", ["", "_multi"])
def test_idm_gradient_through_network_matches_authors(suffix: str) -> None:
    arrays = golden("idm_class_loss")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    images = tensor(arrays["x_syn"]).requires_grad_()
    seen = decode(images, 2) if suffix else images
    features, logits = net.embed_and_logits(seen)
    label, real = int(arrays["label"]), net.embed(tensor(arrays["x_real"])).detach()
    # The label's place among the classes is the class's: those before it have an image each, of no account.
    sizes = (1,) * label + (len(real),)
    distance = MeanDistance.to(torch.cat([torch.zeros(label, real.shape[1]), real]), sizes)
    own, weight = slice(label, label + 1), float(arrays["ce_weight"]) * float(arrays["acc_percent"])
    seen_by_net = Seen(features[None], logits[None], classes=own)
    assert_close(distance(seen_by_net)[0], arrays[f"match{suffix}"])
    loss = distance_and_entropy(distance, weight, seen_by_net)
    assert_close(loss[0], arrays[f"total{suffix}"])
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert_close(gradient, arrays[f"grad_total{suffix}"])


def test_likelihood_is_finite_at_a_gap_of_100_sigma() -> None:
    sigma = math.e
    real_mean, real_std = torch.zeros(1, 4), torch.ones(1, 4)
    synthetic = torch.full((1, 4), 100 * sigma, requires_grad=True)
    nll = kernels.gaussian_nll(real_mean, real_std, synthetic)
    torch.testing.assert_close(nll, torch.tensor([4 * (0.5 * 100**2 + 1 + 0.5 * math.log(2 * math.pi))]))
    (gradient,) = torch.autograd.grad(nll.sum(), synthetic)
    torch.testing.assert_close(gradient, torch.full((1, 4), 100 / sigma))


def test_the_authors_likelihood_breaks_where_ours_does_not() -> None:
    """The reason for the closed form: log(density) is -inf in float32 beyond about 14 sigma."""
    density = torch.exp(-0.5 * torch.tensor(20.0) ** 2) / math.sqrt(2 * math.pi)
    assert torch.isinf(torch.log(density))
    assert torch.isfinite(
        kernels.gaussian_nll(torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 20.0))
    )


def test_statistics_of_unequal_classes_equal_those_of_each() -> None:
    sizes = (3, 1, 5)
    features = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    mean, std = kernels.class_moments(features, sizes)
    for c, part in enumerate(features.split(list(sizes))):
        torch.testing.assert_close(mean[c], part.mean(0))
        torch.testing.assert_close(std[c], part.std(0) if len(part) > 1 else torch.zeros(7))


def test_classes_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    real, synthetic = torch.randn(4, 6, 8, generator=generator), torch.randn(4, 2, 8, generator=generator)
    prepare = bacon.distance_to(bacon.Weights(clip_weight=0.2))
    distance = prepare(real.flatten(0, 1), (6,) * 4)
    together = distance(Seen(synthetic, classes=slice(0, 4)))
    for c in range(4):
        alone = prepare(real[c], (6,))(Seen(synthetic[c : c + 1], classes=ONLY_CLASS))
        torch.testing.assert_close(together[c : c + 1], alone)
        torch.testing.assert_close(distance(Seen(synthetic[c : c + 1], classes=slice(c, c + 1))), alone)
