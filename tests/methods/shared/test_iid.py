"""IID: the authors' image update through our `distill`, its two constraints, and its trained networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.experts import ExpertSettings
from harness.core.nets import Network
from methods import dm, idm, iid_dm, iid_idm, resolve
from methods.shared import iid
from methods.shared.matching import ClassMatcher, Seen

ARCH = "ConvNetW16D2"
FEW = {"pretrained": 2, "pretrained_arch": None, "pretrained_epochs": 1, "pretrained_steps": 2}


class GoldenExperts:
    """The golden file's second network in place of all trained ones; notes which are asked for."""

    def __init__(self, trained: Network) -> None:
        self.asked: list[tuple[int, int]] = []
        self._trained = trained

    def load_into(self, net: Network, expert: int, epoch: int) -> None:
        self.asked.append((expert, epoch))
        net.load_state_dict(self._trained.state_dict())


@pytest.mark.golden("trace_iid", "iid_dm")
def test_one_update_of_the_authors(watch: list, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_iid")
    experts = GoldenExperts(golden_network(arrays, "v", "vnames", "ConvNet"))
    monkeypatch.setattr(iid, "train_experts", lambda context, data, settings: experts)
    networks = [golden_network(arrays, name, f"{name}names", "ConvNet") for name in ("v", "w")]

    class ScriptedNetworks(ScriptedContext):
        def network(self, data: object, role: str = "net", *, arch: str | None = None) -> Any:
            return super().network(data, role)

    context = ScriptedNetworks(networks)
    convolutions = [weight for weight in networks[-1].parameters() if weight.ndim == 4]
    context.arch = f"ConvNetW{len(convolutions[-1])}D{len(convolutions)}"
    config = iid_dm.Config(iterations=1, lr_img=float(arrays["lr_img"]), strategy="")
    data = ScriptedData(arrays | {"real_idx": arrays["real_idx"][None]})
    ipc = arrays["init_idx"].shape[1]
    final = iid_dm.distill(data, ipc, config=config, context=context).images  # type: ignore[arg-type]
    assert_close(context.states[0]["images"], arrays["x0"])
    ((losses, gradient),) = watch
    torch.testing.assert_close(float(losses.sum()), float(arrays["loss"]), rtol=2e-5, atol=0)
    assert_close(gradient, arrays["grad"])
    assert_close(final, arrays["x1"])
    ((expert, epoch),) = experts.asked
    assert 0 <= expert < 1000
    assert epoch == 40


@pytest.mark.golden("trace_iid", "iid_dm", "iid_idm")
def test_the_terms_of_the_authors() -> None:
    arrays = golden("trace_iid")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    trained = golden_network(arrays, "v", "vnames", "ConvNet")
    images, own = tensor(arrays["images"]), tensor(arrays["x0"])
    classes, ipc = arrays["init_idx"].shape
    sizes = (arrays["real_idx"].shape[1],) * classes
    with torch.no_grad():
        channels = net.features(images[:1]).shape[1]
        real = net.embed(images[tensor(arrays["real_idx"]).flatten()])
        synthetic = net.embed(own).unflatten(0, (classes, ipc))
        seen_by_trained = trained.embed(own).unflatten(0, (classes, ipc))
    for covariance, centralisation, wanted in (
        (0.0, 0.0, arrays["dm"]),
        (0.01, 0.0, arrays["dm"] + arrays["cov"]),
        (0.0, 0.05, arrays["dm"] + arrays["cent"]),
    ):
        weights = iid.Constraints(covariance, centralisation)
        distance = iid.ConstrainedDistance.to(weights, channels, real, sizes)
        got = float(distance(Seen(synthetic, extra=(seen_by_trained,), classes=slice(0, classes))).sum())
        torch.testing.assert_close(got, float(wanted), rtol=2e-5, atol=0)
    gap = iid.class_covariances(real, sizes, channels) - iid.covariances(synthetic, channels)
    torch.testing.assert_close(float(0.01 * gap.square().sum()), float(arrays["cov"]), rtol=2e-5, atol=0)


def covariance_by_image(features: Tensor, channels: int) -> Tensor:
    """Mean over images of L L^T, one product for each, as the authors have it."""
    maps = (features - features.mean(dim=0)).unflatten(1, (channels, -1))
    return torch.stack([image @ image.T for image in maps]).mean(dim=0)


def test_covariances_are_means_over_images_whatever_the_sizes() -> None:
    features = torch.randn(9, 5 * 4)
    sizes = (4, 2, 3)
    got = iid.class_covariances(features, sizes, 5)
    for c, part in enumerate(features.split(sizes)):
        torch.testing.assert_close(got[c], covariance_by_image(part, 5))
    alike = iid.class_covariances(features, (3, 3, 3), 5)
    torch.testing.assert_close(alike, iid.covariances(features.view(3, 3, -1), 5))
    torch.testing.assert_close(alike[1], covariance_by_image(features[3:6], 5))
    shifted = iid.class_covariances(features + torch.randn(20), sizes, 5)
    torch.testing.assert_close(shifted, got, rtol=1e-4, atol=1e-5)


def test_scatter_sums_over_images() -> None:
    features = torch.randn(2, 4, 6)
    wanted = [sum(float((row - rows.mean(dim=0)).square().sum()) for row in rows) for rows in features]
    torch.testing.assert_close(iid.scatter(features), torch.tensor(wanted))
    assert (iid.scatter(features[:, :1]) == 0).all()


@pytest.mark.parametrize(("arch", "channels"), [("ConvNetW8D2", 8), ("MLP", 128), ("ResNet18", 512)])
def test_channels_are_those_of_the_last_map(arch: str, channels: int) -> None:
    assert iid.final_channels(Context(arch=arch), toy(shape=(3, 32, 32))) == channels


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "constrained"), [(dm, iid_dm), (idm, iid_idm)])
def test_without_weights_it_is_the_method_it_builds_on(loop: Any, constrained: Any) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    name, base = constrained.__name__.rpartition(".")[2], loop.__name__.rpartition(".")[2]
    settings = resolve(base, "toy", 2, "smoke", {"iterations": 3}).config
    whole = loop.distill(data, 2, config=settings, context=Context(arch=ARCH))
    none = FEW | {"iterations": 3, "covariance_weight": 0.0, "centralisation_weight": 0.0}
    if loop is idm:
        none["meter_reset_every"] = settings.meter_reset_every
    config = resolve(name, "toy", 2, "smoke", none).config
    plain = constrained.distill(data, 2, config=config, context=Context(arch=ARCH))
    torch.testing.assert_close(plain.images, whole.images, rtol=1e-5, atol=1e-5)
    for weight in ("covariance_weight", "centralisation_weight"):
        config = resolve(name, "toy", 2, "smoke", none | {weight: 5.0}).config
        other = constrained.distill(data, 2, config=config, context=Context(arch=ARCH))
        assert (other.images - whole.images).abs().max() > 1e-3


def test_one_image_has_neither_covariance_nor_scatter() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    few = {"iterations": 3, "batch_real": 8}
    plain = dm.distill(data, 1, config=dm.Config(**few), context=Context(arch=ARCH))
    config = iid_dm.Config(**few, **FEW, covariance_weight=5.0, centralisation_weight=5.0)
    constrained = iid_dm.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert torch.equal(plain.images, constrained.images)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 20])
@pytest.mark.parametrize("method", [iid_dm, iid_idm])
def test_pieces_change_nothing(method: Any, rows: int, watch: list, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=4, shape=(3, 16, 16), per_class=12)
    name = method.__name__.rpartition(".")[2]
    config = resolve(name, "toy", 3, "smoke", FEW | {"iterations": 1, "batch_real": 9}).config
    init = ClassMatcher.__init__
    for at_once in (None, rows):

        def in_pieces(self: ClassMatcher, *rest: Any, at_once: int | None = at_once, **named: Any) -> None:
            init(self, *rest, **named)
            self.rows_at_once = at_once

        monkeypatch.setattr(ClassMatcher, "__init__", in_pieces)
        method.distill(data, 3, config=config, context=Context(arch=ARCH))
    (whole, gradient), (losses, other) = watch
    torch.testing.assert_close(losses, whole, rtol=1e-4, atol=0)
    assert_close(other, gradient.numpy(), relative=1e-4)


def test_networks_are_trained_as_by_the_authors_and_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ExpertSettings] = []
    loaded: list[tuple[int, int]] = []
    train = iid.train_experts

    def spy(context: Context, data: Any, settings: ExpertSettings) -> Any:
        asked.append(settings)
        experts = train(context, data, settings)
        load: Callable[..., None] = experts.load_into

        def noted(net: Network, expert: int, epoch: int) -> None:
            loaded.append((expert, epoch))
            load(net, expert, epoch)

        monkeypatch.setattr(experts, "load_into", noted)
        return experts

    monkeypatch.setattr(iid, "train_experts", spy)
    config = iid_dm.Config(**FEW | {"pretrained": 3}, iterations=12, batch_real=8)
    iid_dm.distill(toy(shape=(3, 8, 8)), 2, config=config, context=Context(arch=ARCH))
    (settings,) = asked
    assert settings.count == 3
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.01, 0.9, 5e-4)
    assert (settings.batch, settings.strategy, settings.decay_epochs) == (256, "", ())
    assert len(loaded) == 12
    assert set(loaded) == {(0, 1), (1, 1), (2, 1)}


def test_the_trained_network_is_not_changed() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    context = Context(arch=ARCH)
    criterion = iid.constrained(iid_dm.Config(**FEW), data, context)
    criterion.refresh()
    net = context.network(data)
    images = data.batch(torch.arange(6)).requires_grad_()
    (before,) = criterion.view(net, images).extra
    (gradient,) = torch.autograd.grad(before.sum(), images)
    assert gradient.abs().max() > 0
    (after,) = criterion.view(net, images).extra
    assert torch.equal(before, after)


def test_settings() -> None:
    config = resolve("iid_dm", "cifar10", 10).config
    assert config == iid_dm.Config()
    assert (config.covariance_weight, config.centralisation_weight) == (0.01, 0.05)
    assert (config.pretrained, config.pretrained_arch, config.pretrained_epochs) == (1000, "ResNet18", 40)
    assert (config.iterations, config.batch_real, config.lr_img) == (20_000, 256, 1.0)
    config = resolve("iid_idm", "cifar10", 10).config
    assert (config.covariance_weight, config.centralisation_weight) == (0.03, 0.01)
    assert (config.lr_img, config.ce_weight, config.meter_reset_every) == (0.2, 0.5, 5000)
    assert resolve("iid_idm", "cifar10", 1).config.batch_real == 5000
    assert resolve("iid_idm", "digits", 1).config.factor == 1
