"""Every source read from its true format, and what happens when files are absent or damaged."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets import ImageFolder

from harness.core.data import ZCA, Dataset, embedded, load, parse
from harness.core.data import archives as archives_module
from harness.core.data.catalog import KNOWN
from harness.core.errors import DataError

PUBLISHED = ["mnist", "fashionmnist", "svhn", "cifar10", "cifar100", "tinyimagenet"]


def _load(name: str, data_dir: Path, **options) -> Dataset:
    return load(parse(name, data_dir), data_dir, **{"download": False, **options})


def _same(images: torch.Tensor, labels: torch.Tensor, written: tuple[np.ndarray, np.ndarray]) -> bool:
    return np.array_equal(images.numpy(), written[0]) and np.array_equal(labels.numpy(), written[1])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formats(name: str, write, tmp_path: Path) -> None:
    written = write(name, tmp_path)
    dataset = _load(name, tmp_path)
    test = dataset.test()
    assert dataset.shape == KNOWN[name].shape
    assert dataset.images.dtype == torch.uint8
    assert dataset.images.is_contiguous()
    assert dataset.labels.dtype == torch.int64
    assert _same(dataset.images, dataset.labels, written.train)
    assert _same(test.images, test.labels, written.test)
    assert dataset.num_classes == {"cifar100": 100, "tinyimagenet": 3}.get(name, 10)
    assert torch.equal(dataset.transform.state()["mean"], torch.tensor(KNOWN[name].mean))
    assert torch.equal(dataset.transform.state()["std"], torch.tensor(KNOWN[name].std))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("fact", ["train", "test", "classes", "shape"])
def test_what_is_not_the_published_dataset_is_refused(
    name: str, fact: str, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(name, tmp_path)
    here = KNOWN[name]
    other = (1, 2, 3) if fact == "shape" else 4 * getattr(here, fact)
    monkeypatch.setitem(KNOWN, name, dataclasses.replace(here, **{fact: other}))
    with pytest.raises(DataError) as caught:
        _load(name, tmp_path).test()
    split, count = ("test", here.test) if fact == "test" else ("train", here.train)
    message = str(caught.value)
    shape = "x".join(map(str, here.shape))
    assert "\n" not in message
    assert (
        f"is not {name}: its {split} split has {count} images of {here.classes} classes at {shape}" in message
    )
    assert message.endswith("--dataset folder:PATH")
    assert "PATH/train/<class>/" in message


def test_a_few_images_do_not_pass_for_mnist(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = KNOWN["mnist"]
    write("mnist", tmp_path)
    monkeypatch.setitem(KNOWN, "mnist", published)
    with pytest.raises(DataError, match=r"20 images of 10 classes.*the published one 60,000 images of 10"):
        _load("mnist", tmp_path)


def test_a_class_without_images_is_missed(write, tmp_path: Path) -> None:
    labels = write("mnist", tmp_path).files["train"][1]
    labels.write_bytes(labels.read_bytes()[:8] + bytes(20))
    with pytest.raises(DataError, match=r"20 images of 1 classes"):
        _load("mnist", tmp_path)


def test_class_names(write, tmp_path: Path) -> None:
    for name in PUBLISHED:
        write(name, tmp_path)
    assert _load("mnist", tmp_path).class_names == tuple("0123456789")
    assert _load("fashionmnist", tmp_path).class_names[0] == "T-shirt/top"
    assert _load("cifar10", tmp_path).class_names[9] == "c9"
    assert _load("tinyimagenet", tmp_path).class_names == ("n01", "n02", "n03")


def test_gzipped_idx_files_serve_without_unpacking(write, tmp_path: Path) -> None:
    written = write("mnist.gz", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    dataset = _load("mnist", tmp_path)
    assert _same(dataset.images, dataset.labels, written.train)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", PUBLISHED)
def test_test_files_are_not_read_before_asked_for(name: str, write, tmp_path: Path) -> None:
    for file in write(name, tmp_path).files["test"]:
        file.write_bytes(b"broken")
    dataset = _load(name, tmp_path)
    with pytest.raises(DataError):
        dataset.test()
    assert dataset.test_looks == 0


@pytest.mark.parametrize("name", PUBLISHED[:-1])
def test_a_missing_test_file_is_noticed_at_once(name: str, write, tmp_path: Path) -> None:
    missing = write(name, tmp_path).files["test"][0]
    missing.unlink()
    with pytest.raises(DataError, match=f"there is no .*{missing.name}"):
        _load(name, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_truncated_files(name: str, write, tmp_path: Path) -> None:
    file = write(name, tmp_path).files["train"][0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"damaged|cannot decode") as caught:
        _load(name, tmp_path)
    _assert_teaches(str(caught.value), tmp_path)


def test_truncated_gzip(write, tmp_path: Path) -> None:
    file = Path(f"{write('mnist.gz', tmp_path).files['train'][0]}.gz")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="train-images-idx3-ubyte is cut short"):
        _load("mnist", tmp_path)


def test_images_and_labels_that_do_not_belong_together(write, tmp_path: Path) -> None:
    files = write("mnist", tmp_path).files
    files["train"][1].write_bytes(files["test"][1].read_bytes())
    with pytest.raises(DataError, match="20 images do not match 10 labels"):
        _load("mnist", tmp_path)


def _assert_teaches(message: str, data_dir: Path) -> None:
    assert "\n" not in message
    assert f"put it under {data_dir}" in message
    assert "--data DIR" in message
    assert "--dataset digits" in message


@pytest.mark.parametrize("name", PUBLISHED)
def test_absent(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no") as caught:
        _load(name, tmp_path / "none")
    _assert_teaches(str(caught.value), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def _offer_mnist(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let torchvision download from a folder of .gz files; returns where they lie."""
    raw = folder / "MNIST" / "raw"
    offered = [
        (name, hashlib.md5((raw / name).read_bytes()).hexdigest()) for name, _ in datasets.MNIST.resources
    ]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/MNIST/raw/"])
    monkeypatch.setattr(datasets.MNIST, "resources", offered)
    return raw


def test_download_replaces_what_an_interrupted_one_left(
    write, server, tmp_path: Path, monkeypatch, capsys
) -> None:
    written = write("mnist.gz", server[0])
    _offer_mnist(*server, monkeypatch)
    data_dir = tmp_path / "data"
    half = data_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"\0\0\x08")
    dataset = _load("mnist", data_dir, download=True)
    test = dataset.test()
    assert _same(dataset.images, dataset.labels, written.train)
    assert _same(test.images, test.labels, written.test)
    assert capsys.readouterr().out == ""
    assert {path.name for path in data_dir.iterdir()} <= {"MNIST", ".download.lock"}


def test_interrupted_download_leaves_nothing_behind(write, server, tmp_path: Path, monkeypatch) -> None:
    write("mnist.gz", server[0])
    (_offer_mnist(*server, monkeypatch) / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="the download failed") as caught:
        _load("mnist", tmp_path / "data", download=True)
    _assert_teaches(str(caught.value), tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {".download.lock"}


def test_download_of_both_svhn_files(write, server, tmp_path: Path, monkeypatch) -> None:
    written = write("svhn", server[0])
    for split in ("train", "test"):
        _, name, md5 = datasets.SVHN.split_list[split]
        monkeypatch.setitem(datasets.SVHN.split_list, split, [f"{server[1]}/{name}", name, md5])
    dataset = _load("svhn", tmp_path / "data", download=True)
    for file in server[0].iterdir():
        file.unlink()
    test = dataset.test()
    assert _same(test.images, test.labels, written.test)


def test_download_of_tinyimagenet(write, server, pack, tmp_path: Path, monkeypatch) -> None:
    written = write("tinyimagenet", server[0])
    packed = pack(server[0] / "tiny-imagenet-200", server[0] / "tiny-imagenet-200.zip")
    monkeypatch.setattr(archives_module, "TINY_URL", f"{server[1]}/{packed.name}")
    dataset = _load("tinyimagenet", tmp_path / "data", download=True)
    assert _same(dataset.images, dataset.labels, written.train)
    assert not list((tmp_path / "data").glob("*.zip"))


def test_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="download failed"):
        _load("mnist", tmp_path / "file", download=True)


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    dataset, raw = _load("digits", tmp_path), load_digits()
    test = dataset.test()
    for part, rows in zip(
        (dataset, test),
        train_test_split(np.arange(len(raw.target)), test_size=0.2, stratify=raw.target, random_state=0),
        strict=True,
    ):
        assert part.labels.tolist() == raw.target[np.sort(rows)].tolist()
    assert (len(dataset), len(test)) == (KNOWN["digits"].train, KNOWN["digits"].test)
    images = torch.cat([dataset.images, test.images])
    assert int(images.max()) == 255
    order = np.lexsort(images.flatten(1).numpy().T)
    expected = np.rint(raw.data * 255 / 16)
    assert np.array_equal(images.flatten(1).numpy()[order], expected[np.lexsort(expected.T)])
    shares = dataset.labels.bincount() / torch.cat([dataset.labels, test.labels]).bincount()
    assert ((shares - 0.8).abs() < 0.01).all()
    pixels = dataset.images.double() / 255
    state = dataset.transform.state()
    assert torch.allclose(state["mean"], pixels.mean().float())
    assert torch.allclose(state["std"], pixels.std(correction=0).float())


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("digits", "bf76ec0be0393266", "114c5b584083d83b"),
        ("fashion-mini", "13bb65c37df1f40a", "386191329d196cd9"),
    ],
)
def test_embedded_data_stay_what_they_are(name: str, train: str, test: str, tmp_path: Path) -> None:
    dataset = _load(name, tmp_path)
    assert (dataset.fingerprint, dataset.test().fingerprint) == (train, test)


def test_fashion_mini_is_stratified_and_keeps_its_notice(tmp_path: Path) -> None:
    dataset, known = _load("fashion-mini", tmp_path), KNOWN["fashion-mini"]
    assert (dataset.shape, dataset.num_classes) == (known.shape, known.classes)
    assert dataset.labels.bincount().tolist() == [400] * 10
    assert dataset.test().labels.bincount().tolist() == [200] * 10
    files = [embedded.FOLDER / f"fashion-mini.{suffix}" for suffix in ("npz", "LICENSE")]
    assert "Permission is hereby granted" in files[1].read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in files) < 3e6


def test_folder_reads_as_torchvision_does(image_folder: Path) -> None:
    dataset = _load("folder:pets", image_folder.parent)
    test = dataset.test()
    for split, images, labels in (
        ("train", dataset.images, dataset.labels),
        ("test", test.images, test.labels),
    ):
        theirs = ImageFolder(image_folder / split)
        assert labels.tolist() == theirs.targets
        assert np.array_equal(images.permute(0, 2, 3, 1), [np.asarray(image) for image, _ in theirs])
    assert dataset.class_names == ("cat", "dog")
    pixels = dataset.images.double() / 255
    assert torch.allclose(dataset.transform.state()["mean"], pixels.mean((0, 2, 3)).float())
    assert torch.allclose(dataset.transform.state()["std"], pixels.std((0, 2, 3), correction=0).float())


def test_folder_of_various_sizes(image_folder: Path) -> None:
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(image_folder / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is 12x4, 0\.png is 10x8; pass --image-size S"):
        _load("folder:pets", image_folder.parent)
    dataset = load(parse("folder:pets", image_folder.parent, 4), image_folder.parent)
    assert dataset.shape == (3, 4, 4)
    assert (dataset.images[1] == 200).all()


def test_folder_with_a_broken_image(image_folder: Path) -> None:
    file = image_folder / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"folder dataset pets: cannot decode .*dog.1\.png"):
        _load("folder:pets", image_folder.parent)


def test_folder_that_changed_since_the_plan(image_folder: Path) -> None:
    spec = parse("folder:pets", image_folder.parent)
    (image_folder / "train" / "dog" / "1.png").unlink()
    with pytest.raises(DataError, match="changed since"):
        load(spec, image_folder.parent)


def test_decoded_cache_is_used_and_remade_when_cut_short(image_folder: Path, monkeypatch) -> None:
    data_dir = image_folder.parent
    first = _load("folder:pets", data_dir)
    (cache,) = (data_dir / ".decoded").iterdir()
    assert cache.name.endswith("-train.npy")
    content = cache.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
        assert _load("folder:pets", data_dir).fingerprint == first.fingerprint
    fewer = io.BytesIO()
    np.save(fewer, first.images[:2].numpy())
    for damaged in (content[:-1], content[:50], b"", fewer.getvalue()):
        cache.write_bytes(damaged)
        assert _load("folder:pets", data_dir).fingerprint == first.fingerprint
        assert cache.read_bytes() == content
    first.test()
    assert len(list((data_dir / ".decoded").iterdir())) == 2


@pytest.mark.parametrize("obstacle", ["blocked folder", "failing rename"])
def test_unwritable_cache_only_costs_time(obstacle: str, image_folder: Path, monkeypatch) -> None:
    data_dir = image_folder.parent
    if obstacle == "blocked folder":
        (data_dir / ".decoded").write_text("in the way")
    else:
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert len(_load("folder:pets", data_dir)) == 6
    assert not list(data_dir.glob(".decoded/*"))


def test_zca_takes_the_place_of_normalisation(write, tmp_path: Path) -> None:
    write("mnist", tmp_path)
    dataset = load(parse("mnist", tmp_path, zca=True), tmp_path)
    assert isinstance(dataset.transform, ZCA)
    assert torch.allclose(
        dataset.batch(slice(None)), ZCA.fit(dataset.images / 255)(dataset.images), atol=1e-5
    )


def test_unpacked_files_win_over_gzipped_ones(write, tmp_path: Path) -> None:
    written = write("mnist", tmp_path)
    file = written.files["train"][0]
    Path(f"{file}.gz").write_bytes(gzip.compress(b"stale"))
    dataset = _load("mnist", tmp_path)
    assert _same(dataset.images, dataset.labels, written.train)
