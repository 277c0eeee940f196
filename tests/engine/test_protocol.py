"""Protocols: what each comes to for a set, and the ways to ask for one."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest

from harness.commands.cli import main
from harness.core import dc_augment
from harness.core.augment import operations
from harness.core.data.catalog import DatasetSpec
from harness.core.errors import UnknownNameError
from harness.engine.options import Options, parse_options
from harness.engine.parts import SGD, Accumulation, CrossEntropy, CutMix, Epochs, SetSize
from harness.engine.plan import DatasetFacts, expand
from harness.engine.protocol import (
    GRID,
    PROTOCOLS,
    Course,
    Protocol,
    Recipe,
    protocol_named,
    without_augmentation,
)
from harness.engine.schedules import COSINE
from harness.report.protocols import in_words

DIGITS = DatasetFacts(DatasetSpec("digits", "digits"), (1, 8, 8), 10, 142, 1437)


def course(name: str, *, lr: float | None = None, **size: object) -> Course:
    """What a protocol comes to for 10 classes; `size` are the arguments of SetSize.of."""
    return protocol_named(name).course(SetSize.of(**({"classes": 10, "ipc": 10} | size)), lr=lr)


def test_dc_1000_is_the_fields_protocol() -> None:
    augmented, plain = course("dc-1000"), course("dc-1000", augmented=False)
    assert (augmented.passes, augmented.schedule.drops) == (1001, (502,))
    assert (plain.passes, plain.schedule.drops) == (301, (152,))
    recipe = PROTOCOLS["dc-1000"].recipe
    assert recipe.optimiser == SGD(0.01, 0.9, 5e-4)
    assert (recipe.loss, recipe.mixing, recipe.batch, recipe.labels) == (CrossEntropy(), None, 256, "own")
    assert (augmented.schedule.rule.decay, augmented.schedule.rule.restarts) == (0.1, True)


@pytest.mark.parametrize("name", ["dc-1000", "dc-cpu", "dc-smoke@tuned"])
def test_without_augmentation_all_else_is_equal(name: str) -> None:
    usual, plain = protocol_named(name), protocol_named(str(without_augmentation(name)))
    assert operations(plain.recipe.augmentation or "color") == ()
    recipe = dataclasses.replace(plain.recipe, augmentation=None, source=usual.recipe.source)
    assert (recipe, plain.grid) == (usual.recipe, usual.grid)
    assert plain.course(SetSize.of(10, 10, augmented=False)) == usual.course(SetSize.of(10, 10))
    assert "are not augmented" in in_words(plain)


def test_dc_digits_is_dc_1000_under_dcs_own_augmentation() -> None:
    usual, own = PROTOCOLS["dc-1000"], PROTOCOLS["dc-digits"]
    assert dc_augment.operations(str(own.recipe.augmentation)) == ("crop", "scale", "rotate")
    recipe = dataclasses.replace(own.recipe, augmentation=None, source=usual.recipe.source)
    assert recipe == usual.recipe
    assert course("dc-digits", augmented=False) == course("dc-1000")
    assert "each image has an operation of its own" in in_words(own)


def test_what_has_no_form_without_augmentation() -> None:
    assert [without_augmentation(name) for name in ("idc-1000", "dc-plain", "no-more")] == [None] * 3


def test_idc_1000_is_idcs_protocol() -> None:
    recipe, schedule = PROTOCOLS["idc-1000"].recipe, course("idc-1000", augmented=False).schedule
    assert (schedule.length + schedule.rule.extra, schedule.drops, schedule.rule.decay) == (
        1000,
        (666, 833),
        0.2,
    )
    assert (recipe.batch, recipe.mixing, schedule.rule.restarts) == (64, CutMix(0.5), False)


def test_a_distilled_rate_falls_as_the_protocols_does() -> None:
    usual, own = course("dc-smoke").schedule, course("dc-smoke", lr=0.05).schedule
    for epoch in range(usual.length + usual.rule.extra):
        assert own.lr_in(epoch) == pytest.approx(5 * usual.lr_in(epoch))


def test_rdeds_students_have_the_batches_of_its_commands() -> None:
    sizes = {(10, 1): 10, (10, 10): 50, (10, 50): 100, (100, 1): 20, (100, 10): 100, (100, 50): 200}
    sizes |= {(200, 1): 100, (200, 50): 100, (10, 5): 10, (2, 20): 50}
    for (classes, ipc), batch in sizes.items():
        found = course("kd-300", classes=classes, ipc=ipc)
        assert (found.batch, found.passes) == (batch, 300)
        assert found.batches == -(-classes * ipc // batch)


@pytest.mark.parametrize(("ipc", "epochs"), [(1, 120), (5, 120), (10, 60), (50, 30), (100, 30)])
def test_short_students_go_through_small_sets_more_often(ipc: int, epochs: int) -> None:
    assert course("kd-cpu", ipc=ipc).passes == epochs


@pytest.mark.parametrize(
    ("images", "steps"),
    [(10, 1000), (20, 1000), (100, 2000), (200, 20_000), (400, 5000), (500, 5000), (1000, 10_000)],
)
def test_frepos_steps_go_by_the_number_of_prototypes(images: int, steps: int) -> None:
    found = course("frepo", ipc=images // 10)
    assert found.steps == found.optimizer_steps == steps
    assert found.schedule.lr_in(0) == 0
    assert found.schedule.lr_in(500) == PROTOCOLS["frepo"].recipe.optimiser.lr


@pytest.mark.parametrize("ipc", [1, 10, 30, 50])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_equal_steps_for_every_set_whatever_it_decodes_to(ipc: int, factor: int) -> None:
    """Those of dc-1000 on undecoded images, and the drop at the same share of them."""
    stored = course("dc-1000", ipc=ipc)
    found = course("dc-steps", ipc=ipc, factor=factor)
    assert found.optimizer_steps == stored.optimizer_steps == 1001 * -(-10 * ipc // 256)
    assert found.stride == stored.batches
    assert found.schedule == stored.schedule
    images = [found.images(10 * ipc * factor**2), stored.images(10 * ipc)]
    assert images[0] == pytest.approx(images[1], rel=0.01)


def test_a_set_that_is_not_augmented_makes_as_many_steps() -> None:
    assert course("dc-steps", augmented=False).steps == course("dc-steps").steps


def test_gradients_that_are_gathered_make_fewer_steps() -> None:
    """Five batches a pass, two to a step: the fifth is a step of its own, or lost."""
    steps = {}
    for rest in ("stepped", "lost"):
        recipe = Recipe("", rule=COSINE, batch=20, accumulation=Accumulation(2, rest))
        made = Protocol("t", "", recipe, Epochs(7)).course(SetSize.of(10, 10))
        steps[rest] = made.optimizer_steps
    assert steps == {"stepped": 21, "lost": 14}


def test_every_protocol_tells_its_source_and_is_put_into_words() -> None:
    for protocol in PROTOCOLS.values():
        assert len(protocol.recipe.source) > 10
        words = in_words(protocol)
        assert f"{protocol.recipe.optimiser.lr:g}" in words
        assert words.endswith(".")
    assert "300 epochs of AdamW with learning rate 0.001" in in_words(PROTOCOLS["kd-300"])
    assert "KL divergence at temperature 20" in in_words(PROTOCOLS["kd-300"])
    assert "however many they decode to" in in_words(PROTOCOLS["dc-steps"])
    halves = in_words(PROTOCOLS["kd-bssl"])
    assert "batches of 8, 2 to a step" in halves
    assert "about 16 images at once, in two halves, by the statistics of each" in halves
    assert "random resized crops of 0.08 to 1 times their area and `flip`" in halves
    assert "by the statistics of the batch" in in_words(PROTOCOLS["kd-mixup"])
    assert "the steps of 300, 150, 60 epochs at ipc 1, 10, 50 of the stored" in in_words(
        PROTOCOLS["kd-mse-cpu"]
    )
    drops = "200, 100, 40 and again from 250, 125, 50 at ipc 1, 10, 50 on the rate"
    assert f"from epoch index {drops} is multiplied by 0.2" in in_words(PROTOCOLS["kd-mse-cpu"])
    assert "squared error and 0.15 times the cross entropy" in in_words(PROTOCOLS["kd-mse-gt"])


@pytest.mark.parametrize(
    ("classes", "ipc", "batch"), [(10, 1, 10), (10, 10, 50), (10, 50, 50), (100, 10, 100)]
)
def test_students_of_cim_make_the_steps_of_mosaics_in_batches_of_its_sizes(
    classes: int, ipc: int, batch: int
) -> None:
    size = SetSize.of(classes, ipc, 2)
    course = PROTOCOLS["kd-mse"].course(size)
    assert (course.batch, course.steps) == (batch, 1000 * (-(-classes * ipc // batch)))


def test_a_teacher_that_labels_by_halves_is_asked_about_whole_batches_alone() -> None:
    """16 images are drawn, mixed and labelled together, and make one step of two batches of 8."""
    course = PROTOCOLS["kd-bssl"].course(SetSize.of(10, 10))
    assert (course.batch, course.together, course.batches, course.steps) == (8, 2, 13, 3900)
    assert course.optimizer_steps == 300 * 7
    assert course.schedule.lr_in(150) == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_a_tuned_protocol_is_its_own_with_a_grid() -> None:
    plain, tuned = protocol_named("dc-cpu"), protocol_named("dc-cpu@tuned")
    assert (tuned.name, tuned.grid, plain.grid) == ("dc-cpu@tuned", GRID, ())
    assert (tuned.recipe, tuned.length, tuned.version) == (plain.recipe, plain.length, plain.version)
    assert tuned.networks(3) == 3 + len(GRID)
    assert "on a tenth of train" in in_words(tuned)


def test_the_scales_protocol_gives_way_to_the_one_asked_for() -> None:
    usual, wished = (
        expand(Options(scale="smoke", methods=("random",), ipc=(1,), protocol=names), [DIGITS]).trials[0]
        for names in ((), ("idc-1000",))
    )
    assert (usual.protocol, wished.protocol) == ("dc-smoke", "idc-1000")
    assert usual.id != wished.id


def test_unknown_protocols_are_refused() -> None:
    for name in ("dc-1000", "kd-cpu@tuned"):
        assert parse_options({"protocol": name}).protocol == (name,)
    for ask in (lambda: parse_options({"protocol": "idc-100"}), lambda: protocol_named("idc-100")):
        with pytest.raises(UnknownNameError, match="did you mean 'idc-1000'"):
            ask()


@pytest.mark.parametrize("name", ["dc-cpu@tune", "dc-cpu@", "dc-cpu@tuned@tuned"])
def test_unknown_ways_to_ask_for_a_protocol_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dc-cpu@tuned'"):
        protocol_named(name)


def test_protocols_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "protocols", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == list(PROTOCOLS)
    regimes = {name: entries[name]["regime"] for name in ("dc-1000", "sl-1000", "kd-300")}
    assert regimes == {"dc-1000": "hard", "sl-1000": "stored", "kd-300": "teacher"}
    assert "RDED" in entries["kd-300"]["source"]
    assert main(["list", "protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROTOCOLS) + 1
    line = next(line for line in lines if line.startswith("kd-cpu "))
    assert re.match(r"kd-cpu +teacher +kd-300 cut", line)
    assert line.endswith("120, 60, 30 epochs at ipc 1, 10, 50")
    assert "dc-cpu@tuned" in lines[-1]
