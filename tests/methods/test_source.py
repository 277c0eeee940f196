"""Where settings come from: facts in new records, sentences for people, and the sentences of old records."""

from __future__ import annotations

import msgspec
import pytest

import methods
from harness.engine.provenance import ROOT
from harness.engine.record_files import read_records
from harness.engine.records import Trial
from methods.source import SettingsSource, read_sentence

RESULTS = ROOT / "results"


def source_of(name: str, dataset: str, ipc: int, scale: str = "paper", **overrides: object) -> SettingsSource:
    return methods.resolve(name, dataset, ipc, scale, overrides).source


@pytest.mark.parametrize(
    ("name", "dataset", "ipc", "kind", "sentence"),
    [
        ("bacon", "cifar10", 10, "published", "published: cifar10 ipc 10"),
        ("tesla", "cifar10", 1, "published", "published: cifar10 ipc 1"),
        ("tesla", "cifar100", 50, "published", "published: cifar100 ipc 50"),
        ("tesla", "cifar10", 10, "borrowed", "borrowed from mtt: cifar10 ipc 10"),
        ("dm+bacon", "cifar10", 10, "borrowed", "borrowed from dm: cifar10 ipc 10"),
        ("dm+bacon@paper", "cifar10", 10, "borrowed", "borrowed from dm: cifar10 ipc 10"),
        ("bacon@paper", "cifar10", 10, "borrowed", "borrowed from bacon: cifar10 ipc 10"),
        ("tesla@soft", "cifar10", 10, "borrowed", "borrowed from mtt: cifar10 ipc 10"),
        (
            "idm",
            "cifar10",
            20,
            "borrowed_ipc",
            "default: nothing is published for ipc 20, taken from cifar10 ipc 10",
        ),
        (
            "tesla",
            "cifar10",
            20,
            "borrowed_ipc",
            "default: nothing is published for ipc 20, taken from mtt's cifar10 ipc 10",
        ),
        ("m3d", "cifar10", 10, "unpublished", "default: nothing is published for cifar10"),
        ("dm+bacon", "digits", 10, "unpublished", "default: nothing is published for digits"),
        ("herding", "cifar10", 10, "own", "the method's own on every dataset"),
    ],
)
def test_facts_and_sentence(name: str, dataset: str, ipc: int, kind: str, sentence: str) -> None:
    source = source_of(name, dataset, ipc)
    assert (source.kind, str(source)) == (kind, sentence)
    assert read_sentence(sentence) == source


def test_only_a_methods_own_row_for_the_very_cell_is_published() -> None:
    for name in methods.discover():
        for dataset in ("cifar10", "cifar100", "tinyimagenet", "digits"):
            for ipc in (1, 10, 20, 50):
                source = source_of(name, dataset, ipc)
                own = not source.owner and (source.dataset, source.ipc) == (dataset, ipc)
                assert (source.kind == "published") == str(source).startswith("published") == own, source


def test_scale_and_changes_are_facts() -> None:
    source = source_of("idm", "cifar10", 10, "cpu", lr_img="0.5", factor=1)
    assert (source.scale, source.shortened, source.overrides) == ("cpu", True, ("factor", "lr_img"))
    assert str(source) == "published: cifar10 ipc 10; cpu scale; set by hand: factor, lr_img"
    bare = source_of("random", "digits", 1, "smoke")
    assert not bare.shortened
    assert str(bare) == "the method's own on every dataset; no shortened settings for the smoke scale"
    for found in (source, bare):
        assert read_sentence(str(found)) == found
        assert msgspec.json.decode(msgspec.json.encode(found), type=SettingsSource) == found


@pytest.mark.parametrize(
    ("sentence", "kind", "owner", "overrides"),
    [
        ("dm's (published: cifar10 ipc 10); cpu scale; set by hand: a, b", "borrowed", "dm", ("a", "b")),
        ("dm's (default: nothing is published for x-y); cpu scale", "unpublished", "dm", ()),
        ("published; set by hand: lr", "unknown", "", ("lr",)),
        ("submitted: a; set by hand: b.pt", "submitted", "", ()),
        ("", "unknown", "", ()),
    ],
)
def test_sentences_of_old_records_are_read(
    sentence: str, kind: str, owner: str, overrides: tuple[str, ...]
) -> None:
    source = read_sentence(sentence)
    assert (source.kind, source.owner, source.overrides) == (kind, owner, overrides)


def test_every_committed_record_is_understood_and_printed_as_it_was() -> None:
    for record in read_records(RESULTS):
        trial = record.trial
        assert trial.source.kind != "unknown", trial.settings_source
        assert trial.source.scale == trial.scale
        assert trial.source_sentence == (trial.settings_source or str(trial.settings_from))


def test_a_trial_is_the_same_whatever_is_said_of_its_settings() -> None:
    trial = read_records(RESULTS)[0].trial
    changed = msgspec.structs.replace(
        trial, settings_source="", settings_from=SettingsSource(kind="own", overrides=("lr_img",))
    )
    assert (changed.id, changed.cell) == (trial.id, trial.cell)
    assert msgspec.json.decode(msgspec.json.encode(changed), type=Trial) == changed
