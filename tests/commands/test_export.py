"""`export`: each form is read back as the set that it was written from, and trains to the same accuracies."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trials import digits_trial, made_up_set

from harness.commands.cli import main
from harness.core.context import Context
from harness.core.data import Dataset, Normalization, load, parse
from harness.core.distilled import Distilled
from harness.core.learned_steps import LearnedSteps
from harness.core.tangent import KernelRidge, TangentKernel
from harness.engine.record_files import read_records, record_bytes, write_atomically
from harness.engine.records import Record
from harness.submit import importers
from harness.submit.cases import prepare
from harness.submit.importers.common import Imported
from harness.submit.request import SubmitRequest, add_arguments, request_from
from methods import random
from methods.shared.whitening import whitened

IPC = 2
FILES = {"dc": "set.pt", "npz": "set.npz", "imagefolder": "set", "safetensors": "set.safetensors"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse("digits", Path(".")), Path("."))


@pytest.fixture(scope="module")
def real() -> Distilled:
    """Real images: whole numbers of grey levels, which also survive in a PNG."""
    return random.distill("digits", IPC, context=Context(seed=4))


@pytest.fixture(scope="module")
def learned(real: Distilled) -> Distilled:
    """As methods leave a set: any numbers, soft labels, a rate and an augmentation of its own."""
    noise = torch.randn(real.images.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.one_hot(real.labels, 10) * 0.9 + 0.01
    return replace(
        real, images=real.images + 0.3 * noise, labels=rows, learned_lr=0.0123, augmentation="crop_scale"
    )


def saved(found: Distilled, folder: Path, name: str = "ours.safetensors") -> Path:
    path = folder / name
    found.save(path)
    return path


def export(path: Path, kind: str, output: Path, *more: str) -> int:
    return main(["export", str(path), "--format", kind, "-o", str(output), *more])


def request_of(shown: str, **written: str) -> SubmitRequest:
    """What the printed command asks for, with what stands for words in it written out."""
    (command,) = [line for line in shown.splitlines() if line.startswith("read back: ")]
    for name, word in written.items():
        command = command.replace(name, word)
    words = shlex.split(command.removeprefix("read back: "))
    assert words[:4] == ["python", "-m", "harness", "submit"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return request_from(parser.parse_args([*words[4:], "--lint-only"]))


def read(path: Path, data: Dataset) -> Imported:
    (found,) = importers.read(importers.find(path), data)
    return found


@pytest.fixture(scope="module")
def stepped(real: Distilled) -> Distilled:
    """As DD leaves a set: with the steps that learn from it."""
    rows = torch.arange(len(real.images)).view(-1, IPC).T.contiguous()
    return replace(real, steps=LearnedSteps(rows, torch.tensor([0.1, 0.2, 0.3])))


@pytest.mark.parametrize("kind", ["dc", "npz", "imagefolder"])
def test_other_forms_say_that_they_drop_the_learned_steps(
    kind: str, stepped: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / FILES[kind]
    assert export(saved(stepped, tmp_path), kind, output) == 0
    lines = capsys.readouterr().out.splitlines()
    (dropped,) = [line for line in lines if line.startswith("dropped: ")]
    assert "the order of 3 steps and their sizes (0.1 to 0.3)" in dropped
    assert read(output, digits).steps is None


def test_our_own_form_keeps_the_learned_steps(
    stepped: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / FILES["safetensors"]
    assert export(saved(stepped, tmp_path), "safetensors", output) == 0
    assert "dropped" not in capsys.readouterr().out
    found = read(output, digits).steps
    assert found is not None
    assert stepped.steps is not None
    assert torch.equal(found.rows, stepped.steps.rows)
    assert torch.equal(found.sizes, stepped.steps.sizes)


@pytest.fixture(scope="module")
def swapped(real: Distilled) -> Distilled:
    """As `label_swap` and KIP leave a set: soft labels whose largest entries are not those of the classes."""
    rows = torch.nn.functional.one_hot(real.labels.roll(3), 10) * 0.9 + 0.01
    return replace(real, labels=rows, classes=real.labels)


@pytest.mark.parametrize("kind", ["dc", "npz", "safetensors"])
def test_classes_that_soft_labels_do_not_tell_come_along(
    kind: str, swapped: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(saved(swapped, tmp_path), kind, tmp_path / FILES[kind]) == 0
    shown = capsys.readouterr().out
    assert "dropped" not in shown
    request = request_of(shown)
    (case,) = prepare(request)
    assert not [finding for finding in case.findings if finding.level == "error"]
    assert case.distilled.digest() == swapped.digest()


def test_each_set_of_a_file_has_its_own_classes(
    real: Distilled, swapped: Distilled, digits: Dataset, tmp_path: Path
) -> None:
    turned = replace(swapped, classes=real.labels.flip(0))
    paths = [
        saved(one, tmp_path, f"{k}.safetensors")
        for k, one in enumerate((swapped, turned, replace(swapped, classes=None)))
    ]
    output = tmp_path / "all.pt"
    assert main(["export", *map(str, paths), "--format", "dc", "-o", str(output)]) == 0
    first, second, third = importers.read(importers.find(output), digits)
    assert first.classes is not None
    assert second.classes is not None
    assert torch.equal(first.classes, real.labels)
    assert torch.equal(second.classes, real.labels.flip(0))
    assert third.classes is None


def test_hard_labels_need_no_classes_beside_them(swapped: Distilled, digits: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "set.npz"
    assert export(saved(swapped, tmp_path), "npz", output, "--labels", "hard") == 0
    found = read(output, digits)
    assert found.classes is None
    assert torch.equal(found.labels, swapped.hard_labels())


@pytest.mark.parametrize("kind", ["dc", "npz", "safetensors"])
def test_everything_is_read_back_unchanged(
    kind: str, learned: Distilled, digits: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / FILES[kind]
    assert export(saved(learned, tmp_path), kind, output) == 0
    found = read(output, digits)
    images = found.images.movedim(3, 1) if kind == "npz" else found.images
    assert torch.equal(images, learned.images)
    assert torch.equal(found.labels, learned.labels)
    assert found.transform is not None
    ours, theirs = learned.transform.state(), found.transform.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found.class_names == learned.class_names
    assert (found.learned_lr, found.augmentation, found.factor) == (0.0123, "crop_scale", 1)


def test_folder_is_read_back_to_within_eight_bits(
    learned: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set"
    assert export(saved(learned, tmp_path), "imagefolder", output, "--labels", "hard") == 0
    found = read(output, digits)
    assert torch.equal(found.labels, learned.labels.argmax(dim=1))
    deviation = (found.images.float() / 255 - learned.pixels()).abs().max()
    assert 0 < float(deviation) <= 0.5 / 255 + 1e-6
    shown = capsys.readouterr().out
    assert "8 bits a channel: pixels in [0, 1] are off by up to 0.00" in shown
    assert "of the values lay outside and were clamped" in shown
    assert "--raw --augmentation crop_scale --lr 0.0123" in shown
    assert sorted(folder.name for folder in output.iterdir()) == [str(k) for k in range(10)]


def test_folders_sort_as_their_labels_do(tmp_path: Path) -> None:
    """Other evaluators number classes by the alphabet."""
    data = load(parse("digits", Path(".")), Path("."))
    images = data.batch(slice(12))
    names = tuple(f"class {k}" for k in range(12))
    found = Distilled(images, torch.arange(12), 1, "twelve", names, data.transform, "random")
    assert export(saved(found, tmp_path), "imagefolder", tmp_path / "set") == 0
    folders = sorted(folder.name for folder in (tmp_path / "set").iterdir())
    assert list(map(int, folders)) == list(range(12))


def test_whitened_sets_are_read_back(tmp_path: Path) -> None:
    data = load(parse("digits", Path("."), zca=True), Path("."))
    found = random.distill(data, IPC, context=Context(seed=4))
    for kind in ("dc", "npz"):
        output = tmp_path / FILES[kind]
        assert export(saved(found, tmp_path), kind, output) == 0
        again = read(output, data)
        assert again.transform is not None
        assert torch.equal(again.transform.state()["whiten"], found.transform.state()["whiten"])


@pytest.mark.slow
def test_other_readers_find_images_and_labels_where_they_look(real: Distilled, tmp_path: Path) -> None:
    path = saved(real, tmp_path)
    for kind, name in FILES.items():
        assert export(path, kind, tmp_path / name) == 0
    images, labels = torch.load(tmp_path / "set.pt", weights_only=True)["data"][-1]
    assert torch.equal(images, real.images)
    assert torch.equal(labels, real.labels)
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (20, 8, 8, 1)
        assert arrays["labels"].tolist() == real.labels.tolist()
    from torchvision.datasets import ImageFolder

    assert [label for _, label in ImageFolder(str(tmp_path / "set")).samples] == real.labels.tolist()


def test_several_sets_are_the_repetitions_of_one_file(
    real: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(replace(real, learned_lr=0.1), tmp_path, "one.safetensors")
    two = saved(replace(real, images=real.images + 1), tmp_path, "two.safetensors")
    output = tmp_path / "both.pt"
    words = ["export", str(one), str(two), "-o", str(output), "--format"]
    assert main([*words, "npz"]) == 2
    assert "npz holds one set, 2 were given" in capsys.readouterr().err
    assert main([*words, "dc"]) == 0
    first, second = importers.read(importers.find(output), digits)
    assert torch.equal(second.images, first.images + 1)
    assert [first.experiment, second.experiment] == [0, 1]
    assert [first.learned_lr, second.learned_lr] == [0.1, None]
    saved(replace(real, augmentation="flip"), tmp_path, "two.safetensors")
    assert main([*words[:-2], str(tmp_path / "third.pt"), "--format", "dc"]) == 2
    assert "differ in augmentation" in capsys.readouterr().err


def test_grids_are_decoded_or_kept_as_asked(
    real: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(replace(real, factor=2), tmp_path)
    for kind in ("dc", "npz", "imagefolder"):
        assert export(path, kind, tmp_path / kind) == 2
        assert "--tiles decode" in capsys.readouterr().err
        assert not (tmp_path / kind).exists()
    assert export(path, "dc", tmp_path / "decoded.pt", "--tiles", "decode") == 0
    found = read(tmp_path / "decoded.pt", digits)
    images, labels = replace(real, factor=2).decoded()
    order = labels.argsort(stable=True)
    assert torch.equal(found.images, images[order])
    assert torch.equal(found.labels, labels[order])
    assert found.factor == 1
    assert export(path, "dc", tmp_path / "kept.pt", "--tiles", "keep") == 0
    kept = read(tmp_path / "kept.pt", digits)
    assert torch.equal(kept.images, real.images)
    assert kept.factor == 2
    assert export(path, "safetensors", tmp_path / "same.safetensors") == 0
    assert (tmp_path / "same.safetensors").read_bytes() == path.read_bytes()


def test_soft_labels_are_not_lost_unasked(
    learned: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(saved(learned, tmp_path), "imagefolder", tmp_path / "set") == 2
    assert "--labels hard writes classes" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_mistakes_are_one_line_and_nothing_is_overwritten(
    real: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(real, tmp_path)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"no set")
    plain = tmp_path / "plain.safetensors"
    from safetensors.torch import save_file

    save_file({"images": real.images}, plain)
    mistakes = {
        ("dc", path, taken): "taken exists and is not overwritten",
        ("dcc", path, tmp_path / "new"): "did you mean 'dc'",
        ("dc", tmp_path / "absent", tmp_path / "new"): "no distilled set at",
        ("dc", foreign, tmp_path / "new"): "is damaged or no safetensors file",
        ("dc", plain, tmp_path / "new"): "is not a distilled set of this harness",
    }
    for (kind, source, output), complaint in mistakes.items():
        assert export(source, kind, output) == 2
        shown = capsys.readouterr()
        assert complaint in shown.err
        assert shown.err.count("\n") == 1
    assert export(path, "dc", tmp_path / "new", "--labels", "harder") == 2
    assert export(path, "dc", tmp_path / "new", "--tiles", "both") == 2
    assert taken.read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert not [left for left in tmp_path.iterdir() if left.name.endswith(".tmp")]


SUBMIT = ("--dataset", "digits", "--scale", "smoke", "--arch", "ConvNetW8", "--evals", "1", "--force")


@pytest.mark.slow
def test_exported_sets_are_measured_as_the_original(
    real: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same seed and the same numbers: the same accuracies, whatever the form."""
    path = saved(real, tmp_path)
    names = {"original": path} | {kind: tmp_path / name for kind, name in FILES.items()}
    for kind, output in names.items():
        if kind != "original":
            capsys.readouterr()
            assert export(path, kind, output) == 0
            assert capsys.readouterr().out.count("read back: python -m harness submit") == 1
        augmentation = ["--augmentation", real.augmentation] if kind == "imagefolder" else []
        words = ("--method", kind, "--results", str(tmp_path / "results"), *SUBMIT, *augmentation)
        assert main(["submit", str(output), *words]) == 0
    records = {record.trial.method.partition("@")[0]: record for record in read_records(tmp_path / "results")}
    assert set(records) == set(names)
    facts = {(tuple(record.accuracies), tuple(record.train_losses)) for record in records.values()}
    assert len(facts) == 1


def test_command_stays_free_of_torch_until_it_writes() -> None:
    code = "import sys, harness.commands.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_set_for_a_kernel_loses(
    learned: Distilled, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = whitened(digits, 0.1)
    images = view.transform(learned.pixels())
    made = replace(
        learned, images=images, transform=view.transform, ridge=KernelRidge(TangentKernel("vec", 3), 1e-6)
    )
    path = saved(made, tmp_path)
    for kind in ("dc", "npz"):
        assert export(path, kind, tmp_path / FILES[kind]) == 0
        said = capsys.readouterr().out
        assert "dropped: the kernel that the set is for (vec, regulariser 1e-06)" in said
        assert "the images are whitened as only their method does" in said
    assert export(path, "safetensors", tmp_path / FILES["safetensors"]) == 0
    assert "dropped" not in capsys.readouterr().out
    assert Distilled.load(tmp_path / FILES["safetensors"]).ridge == made.ridge


def test_a_dataset_of_pairs_says_what_it_drops(learned: Distilled) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned.to_dataset()
    with pytest.warns(UserWarning, match=r"an ordinary dataset drops the kernel that the set is for \(fc"):
        pairs = replace(learned, ridge=KernelRidge(TangentKernel("fc", 2), 1e-6)).to_dataset()
    assert len(pairs) == len(learned.images)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A folder of images, whose path and classes have to be quoted."""
    root = tmp_path / "my data" / "two birds"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 6, 12, 12, 3), dtype=np.uint8)
    for part, split in zip(pixels, ("train", "test"), strict=True):
        for images, name in zip(part, ("a hen", "a rook"), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{k}.png")
    return root


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("recorded", [True, False])
def test_sets_of_a_folder_are_read_back_as_is_printed(
    size: int | None, recorded: bool, birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load(parse(f"folder:{birds}", tmp_path, size), tmp_path)
    path = saved(random.distill(data, IPC, context=Context(seed=4)), tmp_path)
    if recorded:
        trial = digits_trial(dataset="two birds", dataset_source="folder", image_size=size)
        record = made_up_set(Record(id=trial.id, trial=trial, status="done", images_digest="0" * 64))
        write_atomically(path.with_suffix(".json"), record_bytes(record))
    output = tmp_path / "their set.npz"
    assert export(path, "npz", output) == 0
    shown = capsys.readouterr().out
    assert "--dataset 'folder:PATH/two birds'" in shown
    assert ("--image-size" in shown) == (size is not None or not recorded)
    request = request_of(shown, PATH=str(birds.parent))
    assert request.file == output
    (case,) = prepare(request)
    assert case.distilled.digest() == Distilled.load(path).digest()


def test_a_folder_of_images_that_are_no_squares_was_not_resized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Normalization.of((0.5,), (0.5,))
    wide = Distilled(torch.zeros(2, 1, 4, 8), torch.arange(2), 1, "wide", ("a", "b"), data)
    assert export(saved(wide, tmp_path), "dc", tmp_path / "set.pt") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--dataset folder:PATH/wide --method NAME")
