"""The distilled set: bit for bit through its file, an ordinary Dataset to train on, and clear refusals."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import methods
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DivergedError, UserError
from harness.core.tangent import KernelRidge, TangentKernel
from methods import bacon, random


@pytest.fixture
def distilled() -> Distilled:
    config = bacon.Config(iterations=1, train_steps=1, batch_real=8)
    return bacon.distill(toy(), 2, config=config, context=Context(arch="ConvNetW8"))


def test_saved_set_reloads_and_saves_to_the_same_bytes(distilled: Distilled, tmp_path: Path) -> None:
    distilled.save(tmp_path / "a.safetensors")
    again = Distilled.load(tmp_path / "a.safetensors")
    again.save(tmp_path / "b.safetensors")
    assert torch.equal(again.images, distilled.images)
    assert torch.equal(again.labels, distilled.labels)
    assert again.digest() == distilled.digest()
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for field in dataclasses.fields(Distilled):
        if field.name not in ("images", "labels", "transform"):
            assert getattr(again, field.name) == getattr(distilled, field.name)


def test_soft_labels_keep_their_rows(distilled: Distilled, tmp_path: Path) -> None:
    soft = dataclasses.replace(distilled, labels=torch.rand(6, 3), learned_lr=0.02)
    soft.save(tmp_path / "soft.safetensors")
    again = Distilled.load(tmp_path / "soft.safetensors")
    assert torch.equal(again.labels, soft.labels)
    assert again.learned_lr == 0.02
    assert again.decoded()[1].shape == (24, 3)


def test_it_is_an_ordinary_dataset(distilled: Distilled) -> None:
    images, labels = next(iter(DataLoader(distilled.to_dataset(), batch_size=24)))
    assert images.shape == (24, 3, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] * 4
    assert 0 <= distilled.pixels().min() <= distilled.pixels().max() <= 1
    assert distilled.stored_bytes == 6 * 3 * 8 * 8 * 4 + 6 * 8


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x10" + b"\0" * 40])
def test_foreign_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or no safetensors file") as caught:
        Distilled.load(path)
    assert "\n" not in str(caught.value)


def test_truncated_file_is_refused(distilled: Distilled, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    distilled.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        Distilled.load(path)
    with pytest.raises(UserError, match="no distilled set at"):
        Distilled.load(tmp_path / "absent.safetensors")


def test_images_that_are_not_finite_are_refused(distilled: Distilled) -> None:
    with pytest.raises(DivergedError, match="not finite"):
        dataclasses.replace(distilled, images=distilled.images * float("nan"))


def test_labels_that_are_not_finite_are_refused(distilled: Distilled) -> None:
    rows = torch.full((len(distilled.images), len(distilled.class_names)), float("inf"))
    with pytest.raises(
        DivergedError, match="ended with labels that are not finite; lower the labels' learning"
    ):
        dataclasses.replace(distilled, labels=rows)


def test_a_file_tells_of_a_kernel_only_where_there_is_one(distilled: Distilled, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    distilled.save(path)
    assert b"ridge" not in path.read_bytes()  # as files were before there were kernels
    assert Distilled.load(path).ridge is None
    ridge = KernelRidge(TangentKernel("pool", 3, 1, side=8), 1e-5, double=False)
    dataclasses.replace(distilled, ridge=ridge).save(path)
    assert Distilled.load(path).ridge == ridge


@pytest.mark.parametrize("name", [name for name in methods.discover() if "@" not in name])
def test_every_method_has_the_same_call(name: str) -> None:
    parameters = inspect.signature(methods.load(name).distill).parameters
    assert list(parameters) == ["dataset", "ipc", "config", "context"]
    assert [parameters[key].kind.name for key in ("config", "context")] == ["KEYWORD_ONLY"] * 2


def test_a_name_and_an_ipc_are_enough() -> None:
    distilled = random.distill("digits", 1)
    assert distilled.images.shape == (10, 1, 8, 8)
    assert distilled.class_names == tuple(str(digit) for digit in range(10))


def test_weights_drawn_anew_follow_the_seed_and_the_role() -> None:
    def drawn(seed: int, *roles: str) -> torch.Tensor:
        context = Context(seed, arch="ConvNetW4D2")
        net = context.network(toy())
        for role in roles:
            context.redraw(net, role)
        return torch.cat([weights.detach().flatten() for weights in net.parameters()])

    assert torch.equal(drawn(0, "net"), drawn(0, "net"))
    others = (drawn(0), drawn(0, "net", "net"), drawn(1, "net"), drawn(0, "other"))
    assert not any(torch.equal(drawn(0, "net"), other) for other in others)
