"""FRePo: the authors' own network, loss and updates, and what must hold beyond them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedContext, ScriptedData, ScriptedDraws
from support import assert_close, golden, tensor
from torch import Tensor, nn

from harness.core.context import Context
from harness.core.data import ZCA
from harness.core.data.toy import toy
from harness.core.errors import DivergedError, UserError
from harness.core.nets import Network, build
from methods import frepo, resolve

Arrays = dict[str, np.ndarray]


def golden_net(arrays: Arrays, prefix: str, size: tuple[int, int]) -> Network:
    """FRePo's network with the golden weights and, where it has a norm, running statistics."""
    weights = [tensor(arrays[f"{prefix}w{k:02d}"]) for k in range(len(arrays[f"{prefix}wnames"]))]
    convolutions = [weight for weight in weights if weight.ndim == 4]
    norm = "PB" if f"{prefix}stat00" in arrays else "NN"
    net = build(
        f"ConvNetD{len(convolutions)}W{len(convolutions[0])}{norm}DW",
        channels=convolutions[0].shape[1],
        image_size=size,
        classes=len(weights[-1]),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    with torch.no_grad():
        for ours, theirs in zip(net.parameters(), weights, strict=True):
            ours.copy_(theirs)
        for k, ours in enumerate(running(net)):
            ours.copy_(tensor(arrays[f"{prefix}stat{k:02d}"]))
    return net


def running(net: Network) -> list[Tensor]:
    """Running means and variances, in turn."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    return [part for norm in norms for part in (norm.running_mean, norm.running_var) if part is not None]


@pytest.mark.golden("net_frepo", "frepo")
def test_the_network_is_the_authors() -> None:
    arrays = golden("net_frepo")
    for prefix in sorted({name.removesuffix("wnames") for name in arrays if name.endswith("wnames")}):
        images = tensor(arrays[f"{prefix}x"])
        net = golden_net(arrays, prefix, (images.shape[2], images.shape[3])).eval()
        features, logits = net.embed_and_logits(images)
        assert_close(features, arrays[f"{prefix}feat"])
        assert_close(logits, arrays[f"{prefix}logits"])
        if f"{prefix}logits_train" in arrays:
            features, logits = net.train().embed_and_logits(images)
            assert_close(features, arrays[f"{prefix}feat_train"])
            assert_close(logits, arrays[f"{prefix}logits_train"])
            for k, found in enumerate(running(net)):
                assert_close(found, arrays[f"{prefix}newstat{k}"])


@pytest.mark.golden("frepo_kernel", "frepo")
def test_the_loss_is_the_authors() -> None:
    arrays = golden("frepo_kernel")
    for prefix in sorted(name.removesuffix("reg") for name in arrays if name.endswith("_reg")):
        support, labels = (tensor(arrays[prefix + name]).requires_grad_() for name in ("fp", "yp"))
        targets, wanted = (tensor(arrays[prefix + name]) for name in ("ft", "yt"))
        predicted = frepo.predictions(support, labels, targets, float(arrays[f"{prefix}reg"]))
        assert_close(predicted, arrays[f"{prefix}pred"])
        kernel, margin = frepo.kernel_loss(predicted, wanted), frepo.margin_loss(labels)
        assert_close(kernel, arrays[f"{prefix}kernel_loss"])
        assert_close(margin, arrays[f"{prefix}label_loss"])
        total = kernel + margin
        assert_close(total, arrays[f"{prefix}total"])
        by_support, by_labels = torch.autograd.grad(total, (support, labels))
        assert_close(by_support, arrays[f"{prefix}grad_fp"])
        assert_close(by_labels, arrays[f"{prefix}grad_yp"])


class TraceContext(ScriptedContext):
    """The golden network for every member, and a loop that is cut off without being told so."""

    def __init__(self, net: Network, updates: int, draws: dict[str, Any]) -> None:
        super().__init__([net], draws)
        self._limit_steps = updates

    def network(self, data: object, role: str = "net", *, arch: str | None = None) -> Network:
        return super().network(data, role)


def trace_data(arrays: Arrays) -> tuple[ScriptedData, list[Tensor]]:
    """The golden images as a dataset, and which of them each real batch has."""
    first, real = arrays["x0"], arrays["real"]
    data = ScriptedData(
        {
            "images": np.concatenate([first, real.reshape(-1, *first.shape[1:])]),
            "labels": np.concatenate([arrays["y0"].argmax(1), arrays["real_y"].flatten()]),
            "init_idx": np.arange(len(first))[None],
            "real_idx": np.empty((0, 0)),
        }
    )
    data.num_classes = arrays["y0"].shape[1]
    rows = len(first) + torch.arange(real.shape[0] * real.shape[1]).view(real.shape[:2])
    return data, list(rows)


@pytest.mark.golden("trace_frepo", "frepo")
def test_updates_are_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_frepo")
    updates, size = len(arrays["real"]), arrays["x0"].shape[2:]
    seen: list[tuple[Tensor, float]] = []
    step = frepo.Lamb.step

    def spy(self: frepo.Lamb, gradient: Tensor, lr: float) -> None:
        seen.append((gradient, lr))
        step(self, gradient, lr)
        seen.append((self.tensor.detach().clone(), lr))

    losses: list[Tensor] = []
    for name in ("kernel_loss", "margin_loss"):
        original = getattr(frepo, name)
        monkeypatch.setattr(
            frepo, name, lambda *given, original=original: losses.append(original(*given)) or losses[-1]
        )
    monkeypatch.setattr(frepo.Lamb, "step", spy)
    monkeypatch.setattr(frepo.Pool, "advance", lambda self, images, labels: None)
    data, rows = trace_data(arrays)
    net = golden_net(arrays, "", (size[0], size[1]))
    config = frepo.Config(
        iterations=int(arrays["total"]),
        lr_img=float(arrays["lr"]),
        lr_label=float(arrays["lr"]),
        flip=bool(arrays["flip"]),
        reg=float(arrays["reg"]),
        batch_real=arrays["real"].shape[1],
        networks=1,
    )
    classes = tensor(arrays["y0"]).argmax(1)
    monkeypatch.setattr(frepo, "class_labels", lambda *_: classes)
    start = frepo.initial_labels(data.num_classes, len(arrays["x0"]) // data.num_classes, data.device)
    assert_close(start, arrays["y0"])
    with ScriptedDraws():
        found = frepo.distill(
            data,  # type: ignore[arg-type]
            len(arrays["x0"]) // data.num_classes,
            config=config,
            context=TraceContext(net, updates, {"real": rows}),
        )
    assert len(seen) == 4 * updates
    for k in range(updates):
        (by_images, lr), (images, _), (by_labels, _), (labels, _) = seen[4 * k : 4 * k + 4]
        assert lr == pytest.approx(float(arrays["lrs"][k]), rel=1e-5)
        assert_close(by_images, arrays[f"grad_x{k}"])
        assert_close(by_labels, arrays[f"grad_y{k}"])
        assert_close(images, arrays[f"x{k + 1}"])
        assert_close(labels, arrays[f"y{k + 1}"])
    assert_close(torch.stack(losses[::2]), arrays["kernel_loss"])
    assert_close(torch.stack(losses[1::2]), arrays["label_loss"])
    assert_close(found.images, arrays[f"x{updates}"])
    assert_close(found.labels, arrays[f"y{updates}"])


@pytest.mark.golden("frepo_pool", "frepo")
def test_networks_of_the_pool_learn_as_the_authors() -> None:
    arrays = golden("frepo_pool")
    images, labels = tensor(arrays["p_x"]), tensor(arrays["p_y"])
    net = golden_net(arrays, "p_", (images.shape[2], images.shape[3]))
    member = frepo.Member(net, float(arrays["p_lr"]), 0, lambda net, images: net(images))
    for k, loss in enumerate(arrays["p_loss"]):
        assert_close(member.learn(images, labels), np.asarray(loss))
        if k == 0:
            for i, found in enumerate(running(net)):
                assert_close(found, arrays[f"p_stat_a{i}"])
    for k, value in enumerate(net.parameters()):
        assert_close(value, arrays[f"p_wf{k:02d}"])
    for k, found in enumerate(running(net)):
        assert_close(found, arrays[f"p_stat_b{k}"])


@pytest.mark.golden("frepo_schedules", "frepo")
def test_rates_of_images_and_labels_are_the_authors() -> None:
    arrays = golden("frepo_schedules")
    lr, total, share = float(arrays["lr"]), int(arrays["total"]), frepo.Config().final_share
    found = [lr * frepo.rate_share(int(step), total, share) for step in arrays["at"]]
    assert_close(torch.tensor(found), arrays["rate"])


def test_labels_that_diverge_are_said_in_a_line() -> None:
    data = toy(3, (3, 8, 8), 20)
    config = dataclasses.replace(resolve("frepo", data.name, 1, "smoke").config, iterations=30, lr_label=1e30)
    with pytest.raises(DivergedError) as error:
        frepo.distill(data, 1, config=config, context=Context(arch="ConvNetW8D2"))
    assert "\n" not in str(error.value)
    assert "learning rate" in str(error.value)


def test_whitening_is_refused_on_whitened_images() -> None:
    data = toy(3, (3, 8, 8), 20)
    config = dataclasses.replace(resolve("frepo", data.name, 1, "smoke").config, iterations=1, zca_reg=0.1)
    with pytest.raises(UserError, match=r"whitened already.*drop --zca.*METHOD\.zca_reg=0"):
        frepo.distill(
            data.seen_through(ZCA.fit(data.images)), 1, config=config, context=Context(arch="ConvNetW8D2")
        )


@pytest.mark.slow
def test_the_loss_falls_and_sets_are_whitened() -> None:
    data = toy(3, (3, 8, 8), 20)
    config = dataclasses.replace(resolve("frepo", data.name, 1, "smoke").config, iterations=40, zca_reg=0.1)
    losses: list[float] = []
    context = Context(arch="ConvNetW8D2")
    context.log = lambda loss: losses.append(float(loss))  # type: ignore[method-assign]
    made = frepo.distill(data, 1, config=config, context=context)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert made.whitened_by_method
    assert made.labels.shape == (3, 3)


def test_a_network_makes_room_after_its_updates() -> None:
    data = toy(3, (3, 8, 8), 20)
    config = dataclasses.replace(resolve("frepo", data.name, 1, "smoke").config, networks=1, max_updates=2)
    pool = frepo.Pool(Context(arch="ConvNetW8D2"), data, config)
    images, labels = data.batch(torch.arange(3)), frepo.initial_labels(3, 1, data.device)
    counts = []
    for _ in range(5):
        pool.advance(images, labels)
        counts.append(pool.members[0].updates)
    assert counts == [1, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("ConvNet", "ConvNetPBDW"), ("ConvNetW32D4", "ConvNetD4W32PBDW"), ("ResNet18", "ResNet18")],
)
def test_the_network_has_the_papers_habits(arch: str, expected: str) -> None:
    assert frepo.pool_arch(arch) == expected


def test_weights_begin_as_flax_draws_them() -> None:
    net = build(
        "ConvNetNNDW",
        channels=3,
        image_size=(32, 32),
        classes=10,
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    weights = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert [len(weight) for weight in weights] == [128, 256, 512, 10]
    for weight in weights:
        deviation = weight[0].numel() ** -0.5
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.05)
        assert float(weight.detach().abs().max()) <= 2.274 * deviation
    assert not any(bool(module.bias.any()) for module in net.modules() if isinstance(module, nn.Conv2d))
