"""The losses against the authors' values and gradients, and where theirs break down."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.formation import decode
from methods import bacon
from methods.shared import kernels
from methods.shared.matching import MeanDistance, Seen, class_entropy, distance_and_entropy

ONLY_CLASS = slice(0, 1)
TERMS = sorted(key.removesuffix("_fs") for key in golden("bacon_terms") if key.endswith("_fs"))


@pytest.mark.golden("bacon_terms", "bacon")
@pytest.mark.parametrize("case", TERMS)
@pytest.mark.parametrize("precision", [32, 64])
def test_bacon_terms_match_authors(case: str, precision: int) -> None:
    arrays = golden("bacon_terms")
    dtype = torch.float64 if precision == 64 else torch.float32
    suffix = "64" if precision == 64 else ""
    real = tensor(arrays[f"{case}_fr"]).to(dtype)
    synthetic = tensor(arrays[f"{case}_fs"]).to(dtype).requires_grad_()
    posterior = bacon.Posterior.of(bacon.Weights(), real, (len(real),))
    terms = likelihood_and_variation(posterior, synthetic)
    terms["clip2d"] = kernels.clip_prior(real[None], synthetic[None])
    for name, value in terms.items():
        assert_close(value[0], arrays[f"{case}_{name}{suffix}"])
        (gradient,) = torch.autograd.grad(value.sum(), synthetic, retain_graph=True)
        assert_close(gradient, arrays[f"{case}_{name}_grad{suffix}"])
    seen = Seen(synthetic[None], classes=ONLY_CLASS)
    assert abs(posterior.clip(seen) - arrays[f"{case}_clip{suffix}"]) <= 1e-6
    total = posterior(seen)
    assert_close(total[0], arrays[f"{case}_total{suffix}"])
    (gradient,) = torch.autograd.grad(total.sum(), synthetic)
    assert_close(gradient, arrays[f"{case}_total_grad"])  # which is there in one precision alone


def likelihood_and_variation(posterior: bacon.Posterior, synthetic: Tensor) -> dict[str, Tensor]:
    """The terms of BACON's distance for synthetic embeddings (n, D) of its only class."""
    mean = synthetic.mean(0, keepdim=True)
    return {
        "nll": kernels.gaussian_nll(posterior.means, posterior.stds, mean),
        "tv": kernels.half_total_variation(posterior.means, mean),
    }


@pytest.mark.golden("bacon_class_loss", "bacon")
@pytest.mark.parametrize("suffix", ["", "_lastm1"])
def test_bacon_gradient_through_network_matches_authors(suffix: str) -> None:
    arrays = golden("bacon_class_loss")
    features = golden_convnet(arrays).net.features
    if suffix:
        features = features[:-1]  # the scripts' default leaves out the last pooling, their commands do not
    images = tensor(arrays["x_syn"]).requires_grad_()
    real = features(tensor(arrays["x_real"])).flatten(1).detach()
    synthetic = features(images).flatten(1)
    posterior = bacon.Posterior.of(bacon.Weights(), real, (len(real),))
    terms = likelihood_and_variation(posterior, synthetic)
    seen = Seen(synthetic[None], classes=ONLY_CLASS)
    assert abs(posterior.clip(seen) - arrays[f"clip{suffix}"]) <= 1e-6
    for name, value in {**terms, "total": posterior(seen)}.items():
        assert_close(value[0], arrays[f"{name}{suffix}"])
    (gradient,) = torch.autograd.grad(posterior(seen).sum(), images, retain_graph=True)
    assert_close(gradient, arrays[f"grad{suffix}"])
    if not suffix:
        assert_close(real, arrays["feat_real"])
        assert_close(synthetic, arrays["feat_syn"])
        (gradient,) = torch.autograd.grad(terms["nll"].sum(), images)
        assert_close(gradient, arrays["grad_nll"])


@pytest.mark.golden("idm_class_loss", "idm")
@pytest.mark.parametrize("suffix", ["", "_multi"])
def test_idm_gradient_through_network_matches_authors(suffix: str) -> None:
    arrays = golden("idm_class_loss")
    net = golden_convnet(arrays).net
    images = tensor(arrays["x_syn"]).requires_grad_()
    features, logits = net.embed_and_logits(decode(images, 2) if suffix else images)
    label, real = int(arrays["label"]), net.embed(tensor(arrays["x_real"])).detach()
    # The label's place among the classes is the class's: those before it have an image each, of no account.
    sizes = (1,) * label + (len(real),)
    distance = MeanDistance.to(torch.cat([torch.zeros(label, real.shape[1]), real]), sizes)
    own, weight = slice(label, label + 1), float(arrays["ce_weight"]) * float(arrays["acc_percent"])
    seen = Seen(features[None], logits[None], classes=own)
    assert_close(class_entropy(seen)[0], arrays[f"ce{suffix}"])
    for name, value in (("match", distance(seen)), ("total", distance_and_entropy(distance, weight, seen))):
        assert_close(value[0], arrays[f"{name}{suffix}"])
        (gradient,) = torch.autograd.grad(value.sum(), images, retain_graph=True)
        assert_close(gradient, arrays[f"grad_{name}{suffix}"])


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
