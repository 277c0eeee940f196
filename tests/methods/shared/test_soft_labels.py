"""The rule X@soft: labels by networks that were stopped early, against the authors' and by its invariants."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scripted import GivenExperts, ScriptedContext, ScriptedData
from support import assert_close, golden, golden_convnet, tensor

import methods
from harness.core.context import Context
from harness.core.data.catalog import parse
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.engine.evaluate import evaluate
from harness.engine.options import parse_options
from harness.engine.plan import DatasetFacts, expand
from harness.engine.protocol import protocol_named
from methods import resolve
from methods.shared import soft_labels

ARCH = "ConvNetW8D2"


class Chosen(ScriptedData):
    """The golden images as a dataset that the authors' draw is made from, and learned as a whole."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__({**arrays, "init_idx": arrays["chosen"], "real_idx": []})

    def hold_out(self) -> tuple[Chosen, Chosen]:
        return self, self


def golden_experts(arrays: dict[str, np.ndarray]) -> list[Network]:
    experts = sorted({name.partition("_")[0] for name in arrays if re.fullmatch(r"e\d+_w\d+", name)})
    shared = {f"{expert}_wnames": arrays["wnames"] for expert in experts}
    return [golden_convnet({**arrays, **shared}, f"{expert}_").net for expert in experts]


def labelled(monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray], **settings: int) -> Distilled:
    """Random images with labels, by the golden experts at their epoch."""
    nets, epoch = golden_experts(arrays), int(arrays["epoch"])
    given = GivenExperts({(k, epoch): net for k, net in enumerate(nets)})
    monkeypatch.setattr(soft_labels, "train_experts", lambda *rest: given)
    monkeypatch.setattr(soft_labels, "stopping_epoch", lambda *rest: epoch)
    method, data = methods.load("random@soft"), Chosen(arrays)
    config = method.Config(label_temp=float(arrays["temp"]), **settings)
    context = ScriptedContext(golden_experts(arrays))
    return method.distill(data, int(arrays["ipc"]), config=config, context=context)  # type: ignore[arg-type]


@pytest.mark.golden("label_expert", "random@soft", "herding@soft")
def test_labels_of_one_expert_and_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("label_expert")
    for count, labels in ((1, "label"), (len(golden_experts(arrays)), "label_ensemble")):
        found = labelled(monkeypatch, arrays, label_networks=count)
        assert torch.equal(found.images, tensor(arrays["x"]))
        classes = torch.arange(found.labels.shape[1]).repeat_interleave(int(arrays["ipc"]))
        assert torch.equal(found.hard_labels(), classes)
        assert_close(found.labels, arrays[labels])


@pytest.mark.golden("label_expert", "random@soft", "herding@soft")
def test_swapped_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("label_expert")
    for rank, expected in enumerate(arrays["label_swap"], 1):
        assert_close(soft_labels.swapped(tensor(arrays["label"]), rank), expected)
        assert_close(labelled(monkeypatch, arrays, label_swap=rank).labels, expected)
    assert torch.equal(soft_labels.swapped(tensor(arrays["label"]), 0), tensor(arrays["label"]))


def made(name: str, ipc: int = 2, **settings: object) -> Distilled:
    data = toy(num_classes=3, shape=(3, 8, 8))
    config = resolve(name, data.name, ipc, "smoke", settings).config
    return methods.load(name).distill(data, ipc, config=config, context=Context(arch=ARCH))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "herding", "random_packed", "dm"])
def test_images_are_those_of_the_method_and_labels_probabilities(name: str) -> None:
    settings = {"random_packed": {"factor": 2}, "dm": {"iterations": 3}}.get(name, {})
    hard, soft = made(name, **settings), made(f"{name}@soft", **settings)
    assert torch.equal(hard.images, soft.images)
    images, labels = soft.decoded()
    assert labels.shape == (len(images), 3)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(images)))
    assert torch.equal(soft.hard_labels(), hard.decoded()[1])
    assert soft.stored_bytes > hard.stored_bytes


def test_each_tile_has_a_label_of_its_own_and_keeps_it_in_a_file(tmp_path: Path) -> None:
    soft = made("random_packed@soft", factor=2)
    first, second, *_ = soft.labels.split(len(soft.images))
    assert not torch.equal(first, second)
    soft.save(tmp_path / "set.safetensors")
    found = Distilled.load(tmp_path / "set.safetensors")
    assert found.digest() == soft.digest()
    assert torch.equal(found.hard_labels(), soft.hard_labels())


def test_labels_that_fit_neither_stored_nor_decoded_images_are_refused() -> None:
    soft = made("random@soft")
    with pytest.raises(UserError, match="6 distilled images but 5 labels"):
        Distilled(soft.images, soft.labels[:5], 2, soft.dataset, soft.class_names, soft.transform)


def test_fewer_images_have_an_earlier_teacher() -> None:
    config = soft_labels.Labelling()
    shares = [soft_labels.share_for(config, ipc) for ipc in (1, 5, 10, 50, 100)]
    assert shares == [0.65, 0.65, 0.82, 0.93, 0.93]
    assert soft_labels.share_for(soft_labels.Labelling(label_share=0.5), 50) == 0.5


def test_the_network_is_stopped_at_the_first_pass_that_is_accurate_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, context = toy(num_classes=3, shape=(3, 8, 8)), Context(arch=ARCH)
    settings = soft_labels.expert_settings(soft_labels.Labelling(label_epochs=4, label_steps=1), data)
    learned, held_out = data.hold_out(0.1)
    experts = soft_labels.train_experts(context, learned, settings)
    for share, epoch in ((0.5, 2), (0.75, 3), (1.0, 4)):
        hits = iter((10, 20, 30, 40))
        monkeypatch.setattr(soft_labels, "_right", lambda *_, hits=hits: next(hits))
        assert soft_labels.stopping_epoch(experts, held_out, share, Context(arch=ARCH)) == epoch


def test_the_held_out_images_are_not_learned_from() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    learned, held_out = data.hold_out(0.1)
    assert len(learned) + len(held_out) == len(data)
    assert learned.fingerprint != data.fingerprint


@pytest.mark.slow
def test_under_hard_labels_classes_count_and_not_the_largest_entries() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    soft = made("random@soft")
    wrong = soft.labels.roll(1, dims=1)
    context = Context(arch=ARCH)
    ours = evaluate(soft, data, protocol_named("dc-steps-smoke"), evals=1, context=context)
    rolled = dataclasses.replace(soft, labels=wrong)
    same = evaluate(rolled, data, protocol_named("dc-steps-smoke"), evals=1, context=Context(arch=ARCH))
    assert ours.accuracies == same.accuracies
    stored = evaluate(rolled, data, protocol_named("sl-smoke"), evals=1, context=Context(arch=ARCH))
    assert (ours.regime, stored.regime) == ("hard", "stored")


def test_it_is_planned_under_stored_labels_and_the_others_as_they_call_for(tmp_path: Path) -> None:
    options = parse_options(
        {"methods": "random,random@soft", "ipc": "1", "dataset": "digits", "scale": "smoke"}
    )
    facts = DatasetFacts(parse("digits", tmp_path, None, False), (1, 8, 8), 10, 100, 1000)
    asked = {trial.method: trial.protocol for trial in expand(options, [facts]).trials}
    assert asked == {"random": "dc-smoke", "random@soft": "sl-smoke"}


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(UserError, match="unknown method"):
        methods.find("rand@soft")
