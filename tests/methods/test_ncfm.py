"""NCFM's losses against the authors', and its rounds against a plain loop of classes."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.augment import augment
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.experts import ExpertSettings
from harness.core.formation import decode
from harness.core.siamese import Siamese
from methods import ncfm, resolve
from methods.shared.blends import NetworkPair
from methods.shared.idc_line import initial_pixels
from methods.shared.matching import ClassMatcher, Seen, embedding_and_logits

ARCH = "ConvNetW8D2"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "batch_real": 6,
    "frequencies": 32,
    "networks": 2,
    "train_epochs": 2,
    "train_steps": 3,
}


class Given:
    """Frequencies given in advance, about which nothing is learnt."""

    def __init__(self, *frequencies: Tensor) -> None:
        self._waiting = deque(frequencies)

    def draw(self) -> Tensor:
        return self._waiting.popleft()

    def parameters(self) -> list[Tensor]:
        return []

    def ascend(self, gradients: object) -> None:
        pass


@pytest.mark.golden("match_ncfm", "ncfm")
@pytest.mark.parametrize(
    "weights", [name.removesuffix("_alpha") for name in golden("match_ncfm") if name.endswith("_alpha")]
)
def test_gap_of_features(weights: str) -> None:
    arrays = golden("match_ncfm")
    alpha, beta = (float(arrays[f"{weights}_{name}"]) for name in ("alpha", "beta"))
    features = tensor(arrays["feat_syn"]).requires_grad_()
    gap = ncfm.characteristic_gap(tensor(arrays["feat_real"]), features, tensor(arrays["t"]), alpha, beta)
    torch.testing.assert_close(float(gap.detach()), float(arrays[f"{weights}_loss"]), rtol=2e-5, atol=0)
    assert_close(*torch.autograd.grad(gap, features), arrays[f"{weights}_grad"])


@pytest.mark.golden("match_ncfm", "ncfm")
def test_matching_through_a_network() -> None:
    arrays = golden("match_ncfm")
    net = golden_convnet(arrays).net.requires_grad_(False)
    data = toy(num_classes=1, shape=arrays["x_real"].shape[1:])
    siamese = Siamese("", None)
    matcher = ClassMatcher(Context(), data, net, view=ncfm.unit_embedding, real_view=ncfm.unit_embedding)
    real = ncfm.unit_embedding(net, tensor(arrays["x_real"])).embeddings
    frequencies: Any = Given(tensor(arrays["t_img"]))
    half = ncfm.Config(alpha=0.5, beta=0.5)
    loss = ncfm.matching_loss([real.detach()], frequencies, ncfm.characteristic_gap, half)
    images = tensor(arrays["x_syn"]).requires_grad_()
    losses = matcher.descend(net, images, siamese, loss)
    torch.testing.assert_close(float(losses[0]), float(arrays["match"]), rtol=2e-5, atol=0)
    assert images.grad is not None
    assert_close(images.grad, arrays["match_grad"], relative=1e-3)  # a root of a difference of near equals


@pytest.mark.golden("match_ncfm", "ncfm")
def test_calibration_through_a_network() -> None:
    arrays = golden("match_ncfm")
    net = golden_convnet(arrays).net.requires_grad_(False)
    images = tensor(arrays["x_syn"]).requires_grad_()
    seen = embedding_and_logits(net, images)

    def losses(weight: float) -> Tensor:
        """Of each image as the only one of its class."""
        loss, each = ncfm.calibration_loss(weight), seen.each(lambda part: part[:, None, None])
        images = zip(each.embeddings, each.logits, arrays["y"].tolist(), strict=True)
        return torch.cat([loss(Seen(*of, classes=slice(label, label + 1))) for *of, label in images])

    torch.testing.assert_close(float(losses(1.0).detach().mean()), float(arrays["calib"]), rtol=2e-5, atol=0)
    assert_close(*torch.autograd.grad(losses(1.0).mean(), images, retain_graph=True), arrays["calib_grad"])
    torch.testing.assert_close(losses(2.5), 2.5 * losses(1.0))


def test_the_gap_is_that_of_complex_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    real, own, t = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 4, 64))
    phi_real, phi = (torch.exp(1j * (x @ t.T)).mean(dim=0) for x in (real, own))
    got = ncfm.characteristic_gap(real, own, t, 0.5, 0.5)
    torch.testing.assert_close(got, (phi_real - phi).abs().mean() / 2**0.5)
    got = ncfm.characteristic_gap(real, own, t, 0.3, 0.7)
    amplitudes = (phi_real.abs() - phi.abs()).square()
    phases = 2 * (phi_real.abs() * phi.abs() - (phi_real * phi.conj()).real)
    torch.testing.assert_close(got, (0.3 * amplitudes + 0.7 * phases).sqrt().mean())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"sampler": True}], ids=["ncfm", "sampler"])
@pytest.mark.parametrize("factor", [1, 2])
def test_rounds_equal_a_loop_of_classes(settings: dict[str, Any], factor: int) -> None:
    # SGD: Adam makes much of rounding where a gradient is nearly zero (test_classwise has AdamW).
    config = ncfm.Config(**SMALL | settings, optimizer="sgd", lr_img=0.01, factor=factor)
    data = toy(num_classes=3, shape=(3, 8, 8))
    got = data.transform.inverse(ncfm.distill(data, 2, config=config, context=Context(arch=ARCH)).images)
    wanted = plain_loop(config, 2)
    moved = plain_loop(ncfm.Config(**SMALL | settings | {"iterations": 1}, optimizer="sgd", factor=factor), 2)
    assert float((wanted - moved).abs().max()) > 0.01
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-4)


def plain_loop(config: ncfm.Config, ipc: int) -> Tensor:
    """The algorithm class after class, with torch's optimiser, on the draws that `distill` makes."""
    context = Context(arch=ARCH)
    data = toy(num_classes=3, shape=(3, 8, 8))
    pair = NetworkPair(context, data, ncfm.expert_settings(config))
    images = initial_pixels(data, ipc, config.factor, context).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=config.lr_img, momentum=config.momentum)
    frequencies = ncfm.frequency_source(config, pair.trained.feature_dim, context)
    adam = torch.optim.Adam(frequencies.parameters() or [torch.zeros(1)], lr=1e-3, maximize=True)

    def own(c: int, siamese: Siamese) -> Tensor:
        tiles = data.transform(decode(images[c * ipc : (c + 1) * ipc], config.factor))
        return augmented(tiles, c, siamese)

    def augmented(x: Tensor, c: int, siamese: Siamese) -> Tensor:
        assert siamese.draws is not None
        return augment(x, siamese.strategy, siamese.draws.rows(torch.full((len(x),), c)))

    for _ in range(config.iterations):
        images.data.clamp_(0, 1)
        pair.draw()
        batch = data.index.draw(config.batch_real, context.generator("real"))
        siamese = Siamese.draw(config.matching_strategy, data, context)
        for c, rows in enumerate(batch.indices.split(list(batch.sizes))):
            real = F.normalize(pair.blend.embed(augmented(data.batch(rows), c, siamese)))
            synthetic = F.normalize(pair.blend.embed(own(c, siamese)))
            t = frequencies.draw()
            loss = 300 * ncfm.characteristic_gap(real, synthetic, t, config.alpha, config.beta)
            optimizer.zero_grad()
            adam.zero_grad()
            loss.backward()
            optimizer.step()
            adam.step()
        siamese = Siamese.draw(config.matching_strategy, data, context)
        for c in range(data.num_classes):
            scores = pair.trained(own(c, siamese))
            loss = F.cross_entropy(scores, torch.full((len(scores),), c))
            optimizer.zero_grad()
            (config.calibration * loss).backward()
            optimizer.step()
    return images.detach()


@pytest.mark.slow
def test_frequencies_are_learnt_uphill_from_no_change() -> None:
    config = ncfm.Config(sampler=True, frequencies=64)
    source, plain = (
        ncfm.frequency_source(ncfm.Config(sampler=sampler, frequencies=64), 6, Context())
        for sampler in (True, False)
    )
    assert isinstance(source, ncfm.LearntFrequencies)
    assert not isinstance(plain, ncfm.LearntFrequencies)
    torch.testing.assert_close(source.draw().detach(), plain.draw())
    generator = torch.Generator().manual_seed(0)
    real, own = torch.randn(9, 6, generator=generator), torch.randn(4, 6, generator=generator)
    loss = ncfm.matching_loss([real], source, ncfm.characteristic_gap, config)
    gaps = [float(loss(Seen(own[None], classes=slice(0, 1)))) for _ in range(300)]
    assert np.mean(gaps[-20:]) > 1.05 * np.mean(gaps[:20])


def test_a_blend_lies_between_start_and_end_of_one_training() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    settings = ExpertSettings(count=3, epochs=2, batch=16, snapshots="ends")
    pair = NetworkPair(Context(arch=ARCH), data, settings)
    shares = []
    for _ in range(60):
        pair.draw()
        final = [p.clone() for p in pair.trained.parameters()]
        starts = [pair._experts.parameters(k, 0) for k in range(3)]
        trained = next(
            k for k in range(3) if torch.equal(pair._experts.parameters(k, settings.epochs)[0], final[0])
        )
        gaps = torch.cat([(e - s).flatten() for s, e in zip(starts[trained], final, strict=True)])
        blend = [p - s for s, p in zip(starts[trained], pair.blend.parameters(), strict=True)]
        done = torch.cat([part.flatten() for part in blend])
        share = float((done @ gaps) / (gaps @ gaps))
        torch.testing.assert_close(done, share * gaps, rtol=0, atol=1e-6)
        shares.append(share)
    assert 0 <= min(shares) < 0.1 < 0.9 < max(shares) <= 1
    assert abs(np.mean(shares) - 0.5) < 0.1
    assert not any(p.requires_grad for p in pair.blend.parameters())


@pytest.mark.slow
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=12)
    config = ncfm.Config(**SMALL, optimizer="sgd", lr_img=0.01)
    init = ClassMatcher.__init__
    found = []
    for rows_at_once in (None, 8, 21):

        def in_pieces(self: ClassMatcher, *rest: Any, rows: int | None = rows_at_once, **named: Any) -> None:
            init(self, *rest, **named)
            self.rows_at_once = rows

        monkeypatch.setattr(ClassMatcher, "__init__", in_pieces)
        found.append(ncfm.distill(data, 2, config=config, context=Context(arch=ARCH)).pixels())
    for pixels in found[1:]:
        torch.testing.assert_close(pixels, found[0], rtol=0, atol=1e-4)


def test_settings() -> None:
    assert resolve("ncfm", "cifar10", 10).config == ncfm.Config()
    assert (ncfm.Config().frequencies, ncfm.Config().sampler) == (4096, False)
    sampler = resolve("ncfm@sampler", "cifar10", 10).config
    assert (sampler.frequencies, sampler.sampler) == (1024, True)
    row = resolve("ncfm", "cifar100", 10).config
    assert (row.optimizer, row.lr_img, row.momentum) == ("sgd", 0.01, 0.5)
    assert resolve("ncfm", "cifar100", 50).config.optimizer == "adamw"
    assert resolve("ncfm", "digits", 1).config.factor == 1
    assert ncfm.expert_settings(ncfm.Config()).decay_epochs == (40, 50)
