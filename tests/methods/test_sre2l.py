"""SRe2L, CDA, SRe2L++ and FADRM: whole iterations of the authors through our `distill`; what is refused."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor, nn

from harness.core.context import Context
from harness.core.data import Normalization
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.loop import StoppedEarly
from harness.core.nets.base import Features, Network
from harness.core.teachers import RECIPES, TeacherRecipe, teacher_network, train_teacher
from methods import cda, fadrm, g_vbsm, resolve, sre2l, sre2l_pp
from methods.shared import recover
from methods.shared.recover import Adam, View
from methods.shared.statistics import BatchNormStatistics

ARCH = "ConvNetW8D2"
FAMILY = [sre2l, cda, sre2l_pp, fadrm]
# The images' advised tolerance: Adam makes a whole step of the sign of a gradient that is hardly any.
PIXELS = 2e-4


class Watch:
    """What a recovery does: logits and terms of each pass, and rate, gradient and images of each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[Tensor, Tensor]] = []
        self.nets: list[Network] = []
        self.rates: list[float] = []
        self.gradients: list[Tensor] = []
        see, step = BatchNormStatistics.__call__, Adam.step

        def seen(statistics: BatchNormStatistics, *arguments: Any) -> tuple[Tensor, Tensor]:
            logits, terms = see(statistics, *arguments)
            self.nets.append(arguments[0])
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
    return [
        View(window, bool(flip), tuple(roll))
        for window, flip, roll in zip(windows, flips, rolls, strict=True)
    ]


def taught(net: Network, accuracy: float = 0.5) -> Any:
    """A network in place of a teacher, with an accuracy in [0, 1]."""
    return SimpleNamespace(net=net, accuracy=accuracy)


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
    for method in (sre2l, cda):
        for steps in afters(arrays):
            watch = Watch(monkeypatch)
            net = golden_convnet({**arrays, "x": arrays["x0"]}).net
            data = scripted(arrays, method, [net], monkeypatch)
            monkeypatch.setattr(method, "squeezed", lambda *rest, net=net: [taught(net)])
            monkeypatch.setattr(method, "starting_images", lambda *rest: tensor(arrays["x0"]).clone())
            config = method.Config(**settings)
            made = method.distill(data, 1, config=config, context=Context(limit_steps=steps))
            if f"x{steps}" in arrays:
                assert_close(made.images, arrays[f"x{steps}"], PIXELS)
        assert_close(torch.tensor(watch.rates), arrays["lrs"])
        assert_close(entropies(watch), arrays["ce"])
        terms = torch.stack([terms[:, 0] for _, terms in watch.passes])
        terms[:, 0] *= first
        assert_close(terms, arrays["r_layers"])
        assert_close(watch.gradients[0], arrays["grad0"])
        assert_close(made.pixels()[: len(arrays["stored"])], arrays["stored"], PIXELS)


def afters(arrays: dict[str, np.ndarray]) -> list[int]:
    """Iterations after which the file has the images, and all of them."""
    found = {int(name[1:]) for name in arrays if re.fullmatch(r"x[1-9]\d*", name)}
    assert found
    return sorted(found | {int(arrays["iters"])})


def prefixed(arrays: dict[str, np.ndarray]) -> list[str]:
    """Prefixes of the voters' arrays, v0_, v1_, ..."""
    found = sorted(name.removesuffix("wnames") for name in arrays if re.fullmatch(r"v\d+_wnames", name))
    assert found
    return found


@pytest.mark.golden("recover_cvdd", "sre2l_pp")
def test_whole_iterations_of_a_committee(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("recover_cvdd")
    settings = {
        "iterations": int(arrays["iters"]),
        "lr_img": float(arrays["lr"]),
        "r_bn": float(arrays["r_bn"]),
        "first_weight": float(arrays["first"]),
        "vote_temp": float(arrays["temp"]),
    }
    assert_close(
        torch.tensor(sre2l_pp.vote_weights(arrays["prior"].tolist(), settings["vote_temp"])),
        arrays["weights"],
    )
    for steps in afters(arrays):
        watch = Watch(monkeypatch)
        nets = [golden_convnet({**arrays, "x": arrays["x0"]}, prefix).net for prefix in prefixed(arrays)]
        data = scripted(arrays, sre2l_pp, nets, monkeypatch)
        teachers = [taught(net, float(a) / 100) for net, a in zip(nets, arrays["prior"], strict=True)]
        monkeypatch.setattr(sre2l_pp, "squeezed", lambda *rest, teachers=teachers: teachers)
        monkeypatch.setattr(sre2l_pp, "starting_patches", lambda *rest: tensor(arrays["x0"]).clone())
        made = sre2l_pp.distill(
            data, 1, config=sre2l_pp.Config(**settings), context=Context(limit_steps=steps)
        )
        if f"x{steps}" in arrays:
            assert_close(made.images, arrays[f"x{steps}"], PIXELS)
    assert_close(torch.tensor(watch.rates), arrays["lrs"])
    assert_close(entropies(watch).view(arrays["ce"].shape), arrays["ce"])
    assert_close(
        torch.stack([terms[:, 0] for _, terms in watch.passes]).view(arrays["r_layers"].shape),
        arrays["r_layers"],
    )
    assert_close(watch.gradients[0], arrays["grad0"])


@pytest.mark.golden("trace_fadrm", "fadrm")
def test_whole_stages_of_fadrm(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_fadrm")
    budget, sizes = arrays["budget"].tolist(), arrays["sizes"].tolist()
    config = fadrm.Config(
        iterations=sum(budget),
        stages=tuple(budget),
        sides=tuple(sizes),
        alpha=float(arrays["alpha"]),
        lr_img=float(arrays["lr"]),
        r_bn=float(arrays["r_bn"]),
        first_weight=float(arrays["first"]),
    )
    watch = Watch(monkeypatch)
    nets = [any_size_network(arrays, prefix) for prefix in prefixed(arrays)]
    data = scripted({**arrays, "x0": arrays["patch"]}, fadrm, nets, monkeypatch)
    monkeypatch.setattr(fadrm, "squeezed", lambda *rest: [taught(net) for net in nets])
    monkeypatch.setattr(sre2l_pp, "starting_patches", lambda *rest: tensor(arrays["patch"]))
    starts, ends = [tensor(arrays["start"])], []
    begin = fadrm.Staged._begin

    def begins(staged: fadrm.Staged, stage: int, images: Tensor) -> None:
        if stage > 0:
            ends.append(staged.images.clone())
        begin(staged, stage, starts.pop() if stage == 0 else images)

    monkeypatch.setattr(fadrm.Staged, "_begin", begins)
    final = fadrm.distill(data, 1, config=config, context=Context()).images
    assert_close(torch.tensor(watch.rates), arrays["lrs"])
    assert_close(entropies(watch), arrays["ce"])
    assert [nets.index(net) for net in watch.nets] == arrays["who"].tolist()
    assert_close(watch.gradients[0], arrays["grad0"])
    if len(budget) > 1:
        assert_close(watch.gradients[budget[0]], arrays["grad_next"], 2e-4)
    assert len(ends) == len(budget) - 1
    for stage in (int(name[5:]) for name in arrays if re.fullmatch(r"stage\d+", name)):
        assert_close(ends[stage], arrays[f"stage{stage}"], 5e-4)
    # What is stored has the dataset's size, whatever that of the last stage is.
    theirs = fadrm.resized(tensor(arrays["final"]), (final.shape[2], final.shape[3]))
    assert_close(final, theirs.numpy(), 5e-4)


def any_size_network(arrays: dict[str, np.ndarray], prefix: str) -> Network:
    """The file's test network: convolutions of stride 1, then 2, with batch norm; the mean of all pixels."""
    state = {
        str(name): tensor(arrays[f"{prefix}{kind}{k:02d}"])
        for kind in "wb"
        for k, name in enumerate(arrays[f"{prefix}{kind}names"])
    }
    weights = [state[name] for name in state if name.startswith("conv.") and name.endswith(".weight")]
    layers: list[nn.Module] = []
    for k, weight in enumerate(weights):
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], 1 if k == 0 else 2, padding=1)
        norm = nn.BatchNorm2d(weight.shape[0])
        for name, module in ((f"conv.{k}.", conv), (f"norm.{k}.", norm)):
            own = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
            module.load_state_dict(own, strict=False)
            assert {key for key, _ in module.named_parameters()} <= set(own)
        layers += [conv, norm, nn.ReLU()]
    (name,) = {key.partition(".")[0] for key in state} - {"conv", "norm"}
    classifier = nn.Linear(*reversed(state[f"{name}.weight"].shape))
    classifier.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
    return Network(Features(*layers, nn.AdaptiveAvgPool2d(1)), {"classifier": classifier})


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


def made(method: ModuleType, ipc: int = 2, arch: str = ARCH, **settings: Any) -> Distilled:
    """A set of the toy data at smoke scale, of networks that are not trained for long."""
    data, name = toy(num_classes=3, shape=(3, 8, 8), per_class=20), method.__name__.partition(".")[2]
    short = {"iterations": 4, "teacher_epochs": 1, "teacher_steps": 1}
    config = resolve(name, data.name, ipc, "smoke", short | settings).config
    return method.distill(data, ipc, config=config, context=Context(arch=arch))


@pytest.fixture
def worthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers that are trained for a moment count as better than chance."""
    monkeypatch.setattr("harness.core.teachers._accuracy", lambda *rest: 0.9)


@pytest.mark.parametrize("method", [*FAMILY, g_vbsm])
def test_the_network_is_the_teacher_of_the_evaluation(method: ModuleType) -> None:
    for scale, recipe in RECIPES.items():
        for ipc in (1, 10, 50):
            for dataset in ("cifar10", "cifar100", "tinyimagenet", "digits"):
                name = method.__name__.partition(".")[2]
                config = resolve(name, dataset, ipc, scale).config
                assert (config.teacher_epochs, config.teacher_steps) == (recipe.epochs, recipe.steps)


def test_it_lies_in_the_cache_that_the_evaluation_looks_into(tmp_path: Path, worthy: None) -> None:
    data, context = toy(num_classes=3, shape=(3, 8, 8)), Context(arch=ARCH, cache=tmp_path)
    (teacher,) = recover.squeezed(context, data, TeacherRecipe("SRe2L's network", 1, 1), "sre2l")
    (kept,) = tmp_path.rglob("*.safetensors")
    again = train_teacher(
        Context(7, arch=ARCH, cache=tmp_path), data, teacher_network(ARCH), TeacherRecipe("other", 1, 1)
    )
    assert again.digest == teacher.digest
    assert list(tmp_path.rglob("*.safetensors")) == [kept]
    assert not teacher.net.training
    assert not any(parameter.requires_grad for parameter in teacher.net.parameters())


@pytest.mark.parametrize("method", FAMILY)
def test_a_network_without_batch_norm_is_one_clear_line(
    method: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "train_teacher", lambda *rest: pytest.fail("trained before it was refused"))
    with pytest.raises(UserError, match="ConvNetD2W8GN has none; choose another") as found:
        made(method, arch="ConvNetD2W8GN")
    assert "\n" not in str(found.value)
    if method in (sre2l_pp, fadrm):
        with pytest.raises(UserError, match="ConvNetLN has none"):
            made(method, more_networks=("ConvNetLN",))


@pytest.mark.parametrize("method", [sre2l_pp, fadrm])
def test_a_class_too_small_for_its_patches_is_one_clear_line(method: ModuleType, worthy: None) -> None:
    with pytest.raises(UserError, match=r"class 0 \(class0\) has 20 images.* choose a smaller ipc"):
        made(method, ipc=21)
    with pytest.raises(UserError, match="set mipc to at least 2"):
        made(method, ipc=2, mipc=1)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"stages": (1, 0)}, "expected a positive length"),
        ({"stages": ()}, "expected a positive length"),
        ({"sides": (8,)}, "a side for each or none"),
        ({"sides": (6, 8)}, "take none of 6x6"),
        ({"sides": (1, 8)}, "take none of 1x1"),
    ],
)
def test_stages_that_do_not_fit_are_one_clear_line(settings: dict[str, Any], line: str, worthy: None) -> None:
    with pytest.raises(UserError, match=line) as found:
        made(fadrm, **settings)
    assert "\n" not in str(found.value)


def test_stages_of_fadrm_follow_their_lengths_whatever_the_number_of_iterations() -> None:
    assert [fadrm.stage_at(k / 5, (2, 1, 2)) for k in range(5)] == [0, 0, 1, 2, 2]
    assert [fadrm.stage_at(k / 6, (1, 1, 1)) for k in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [fadrm.stage_at(k / 7, (1,)) for k in range(7)] == [0] * 7
    assert [fadrm.stage_at(k / 3, (1, 1, 1, 1)) for k in range(3)] == [0, 1, 2]


def test_a_blend_brings_images_back_towards_their_patches(worthy: None) -> None:
    patches = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    staged = fadrm.Staged(patches, [(8, 8), (4, 4)], alpha=0.25)
    assert torch.equal(staged.images, patches)
    staged.images.fill_(2.0)
    staged.optimizer.step(torch.ones_like(patches), 0.1)
    before = staged.images.clone()
    staged.enter(0)
    assert torch.equal(staged.images, before)
    staged.enter(1)
    expected = fadrm.resized(0.25 * before + 0.75 * patches, (4, 4))
    torch.testing.assert_close(staged.images, expected)
    assert staged.optimizer._steps == 0
    assert staged.size == (4, 4)
    resumed = fadrm.Staged(patches, [(8, 8), (4, 4)], alpha=0.25)
    resumed.load_state_dict(staged.state_dict())
    assert torch.equal(resumed.images, staged.images)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*FAMILY, g_vbsm])
def test_what_is_timed_for_an_estimate_are_the_updates_of_the_images(method: ModuleType) -> None:
    data, name = toy(num_classes=3, shape=(3, 8, 8)), method.__name__.partition(".")[2]
    config = resolve(name, data.name, 2, "smoke").config
    with pytest.raises(StoppedEarly) as stopped:
        method.distill(data, 2, config=config, context=Context(arch=ARCH, stop_after=1))
    assert stopped.value.total == config.iterations
    assert stopped.value.charged_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", FAMILY)
def test_images_are_pixels_and_each_index_is_recovered_by_itself(method: ModuleType, worthy: None) -> None:
    one, two = made(method, 1), made(method, 2)
    for found in (one, two):
        pixels = found.transform.inverse(found.images)
        assert float(pixels.min()) > -1e-5
        assert float(pixels.max()) < 1 + 1e-5
    assert not torch.equal(two.images[0], two.images[1])
