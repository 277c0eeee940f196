"""What identifies an image folder, and which files belong to it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.data import files as files_module
from harness.core.data import load, parse
from harness.core.data.catalog import EARLIER_LISTINGS, listing_of
from harness.core.data.files import beside_images, class_files
from harness.core.errors import DataError

KINDS = {"ppm": "RGB", "bmp": "RGB", "tiff": "RGB", "png": "RGB", "pgm": "L"}


def exchange_content(one: Path, other: Path) -> None:
    """In place: names, sizes and inodes stay, the times of modification are set back."""
    times = [(file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in (one, other)]
    contents = one.read_bytes(), other.read_bytes()
    for file, content, kept in zip((other, one), contents, reversed(times), strict=True):
        with file.open("r+b") as opened:
            opened.write(content)
        os.utime(file, ns=kept)


def exchange_names(one: Path, other: Path) -> None:
    """By renaming: each file keeps its own times and inode."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.fixture
def two_colours(tmp_path: Path) -> Callable[[str], Path]:
    """Give a function (suffix) that writes black cats and white dogs, all files equally large."""

    def write(suffix: str) -> Path:
        root = tmp_path / "data" / "pets"
        for split in ("train", "test"):
            for name, value in (("cat", 0), ("dog", 255)):
                folder = root / split / name
                folder.mkdir(parents=True)
                for number in range(2):
                    pixels = np.full((8, 8, 3), value, dtype=np.uint8)
                    pixels[number, number] = 128
                    image = Image.fromarray(pixels).convert(KINDS[suffix])
                    image.save(
                        folder / f"{number}.{suffix}", **({"compress_level": 0} if suffix == "png" else {})
                    )
        return root

    return write


def settle(root: Path, seconds: float = 10.0) -> None:
    """Let the index hold the files as if they had last changed a while ago."""
    past = time.time_ns() - int(seconds * 1e9)
    for file in root.rglob("*.*"):
        os.utime(file, ns=(past, past))


@pytest.mark.parametrize("suffix", list(KINDS))
@pytest.mark.parametrize("exchange", [exchange_content, exchange_names])
def test_exchanged_classes_are_another_dataset(
    suffix: str, exchange: Callable[[Path, Path], None], two_colours: Callable[[str], Path]
) -> None:
    root = two_colours(suffix)
    data_dir = root.parent
    spec = parse("folder:pets", data_dir)
    before = load(spec, data_dir)
    assert before.images[before.labels == 0].float().mean() < 10
    for number in range(2):
        cat, dog = (root / "train" / name / f"{number}.{suffix}" for name in ("cat", "dog"))
        assert cat.stat().st_size == dog.stat().st_size
        exchange(cat, dog)
    with pytest.raises(DataError, match="changed since"):
        load(spec, data_dir)
    again = parse("folder:pets", data_dir)
    assert again.listing != spec.listing
    after = load(again, data_dir)
    assert after.fingerprint != before.fingerprint
    assert after.images[after.labels == 0].float().mean() > 245


def test_settled_files_are_read_once_and_changed_ones_again(
    two_colours: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_colours("bmp")
    read: list[str] = []
    digest = files_module._digest
    monkeypatch.setattr(files_module, "_digest", lambda file: read.append(file) or digest(file))
    monkeypatch.setattr(files_module, "_SETTLED_NS", -1)
    spec = parse("folder:pets", root.parent)
    assert len(read) == 8
    assert parse("folder:pets", root.parent) == spec
    assert len(read) == 8
    exchange_content(root / "test" / "cat" / "0.bmp", root / "test" / "dog" / "0.bmp")
    assert parse("folder:pets", root.parent) != spec
    assert sorted(read[8:]) == [str(root / "test" / name / "0.bmp") for name in ("cat", "dog")]
    exchange_names(root / "test" / "cat" / "0.bmp", root / "test" / "dog" / "0.bmp")
    assert parse("folder:pets", root.parent) == spec


def test_files_that_changed_just_now_are_read_again(
    two_colours: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the file system's clock a second change leaves no trace in the times."""
    root = two_colours("bmp")
    stamp = files_module.Stamp(1, 0, time.time_ns(), 1)
    monkeypatch.setattr(files_module, "_stamp", lambda file: stamp)
    spec = parse("folder:pets", root.parent)
    exchange_content(root / "train" / "cat" / "0.bmp", root / "train" / "dog" / "0.bmp")
    assert parse("folder:pets", root.parent) != spec


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"\x93"), lambda file: file.unlink()])
def test_an_index_that_is_damaged_or_gone_only_costs_time(damage, image_folder: Path) -> None:
    data_dir = image_folder.parent
    spec = parse("folder:pets", data_dir)
    (index,) = (data_dir / ".contents").iterdir()
    damage(index)
    assert parse("folder:pets", data_dir) == spec


def test_an_index_that_cannot_be_written_only_costs_time(image_folder: Path) -> None:
    data_dir = image_folder.parent
    (data_dir / ".contents").write_text("in the way")
    assert parse("folder:pets", data_dir) == parse(f"folder:{image_folder}", image_folder)


def test_reading_that_takes_long_is_told(image_folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(files_module, "_PATIENCE", -1.0)
    parse("folder:pets", image_folder.parent)
    assert "10 of 10 files read" in capsys.readouterr().err


def test_contents_with_records_of_their_earlier_name_keep_it(image_folder: Path, monkeypatch) -> None:
    now = parse("folder:pets", image_folder.parent)
    monkeypatch.setitem(EARLIER_LISTINGS, now.listing, "0123456789abcdef")
    earlier = parse("folder:pets", image_folder.parent)
    assert earlier.listing == "0123456789abcdef"
    assert len(load(earlier, image_folder.parent)) == 6
    pixels = np.asarray(Image.open(image_folder / "test" / "cat" / "0.png"))
    Image.fromarray(255 - pixels).save(image_folder / "test" / "cat" / "0.png")
    changed = parse("folder:pets", image_folder.parent)
    assert changed.listing not in {earlier.listing, now.listing}
    assert listing_of("other") == "other"


def _names(root: Path, split: str = "train") -> dict[str, list[str]]:
    found = class_files(root / split)
    return {name: [os.path.relpath(file, root / split) for file in files] for name, files in found.items()}


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("train/cat/loop", "."),
        ("train/cat/up", ".."),
        ("train/cat/top", "../.."),
        ("train/cat/more/back", ".."),
        ("train/cat/again", "more"),
        ("train/cat/9.png", "0.png"),
        ("train/cat/more/1.png", "../1.png"),
    ],
)
def test_links_that_lead_back_bring_in_nothing(image_folder: Path, place: str, target: str) -> None:
    expected, spec = _names(image_folder), parse("folder:pets", image_folder.parent)
    (image_folder / place).symlink_to(target)
    assert _names(image_folder) == expected
    assert parse("folder:pets", image_folder.parent) == spec


def test_loops_through_several_links_end(image_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(image_folder / "train" / "dog", elsewhere / "dogs")
    (image_folder / "train" / "cat" / "out").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(image_folder)
    (elsewhere / "dogs" / "round").symlink_to(elsewhere)
    assert _names(image_folder)["cat"][3:] == [
        "cat/out/dogs/0.png",
        "cat/out/dogs/1.png",
        "cat/out/dogs/more/2.png",
    ]


def test_links_to_images_and_folders_elsewhere_are_followed(image_folder: Path, tmp_path: Path) -> None:
    spec = parse("folder:pets", image_folder.parent)
    farm = tmp_path / "farm" / "pets"
    for split in ("train", "test"):
        (farm / split / "cat").mkdir(parents=True)
        (farm / split / "dog").symlink_to(image_folder / split / "dog")
        for file in (image_folder / split / "cat").glob("*"):
            (farm / split / "cat" / file.name).symlink_to(file)
    assert parse("folder:pets", farm.parent) == spec
    assert _names(farm) == _names(image_folder)


def test_a_link_to_itself_is_named(image_folder: Path) -> None:
    (image_folder / "train" / "cat" / "9.png").symlink_to("9.png")
    with pytest.raises(DataError, match=r"cannot read .*9\.png"):
        parse("folder:pets", image_folder.parent)


def test_hidden_folders_and_files_are_left_out(image_folder: Path) -> None:
    expected, spec = _names(image_folder), parse("folder:pets", image_folder.parent)
    for folder in ("train", "train/cat"):
        shutil.copytree(image_folder / "train" / "dog", image_folder / folder / ".ipynb_checkpoints")
    (image_folder / "train" / "cat" / "._0.png").write_bytes(b"a resource fork")
    (image_folder / "train" / ".DS_Store").write_bytes(b"")
    assert _names(image_folder) == expected
    assert parse("folder:pets", image_folder.parent) == spec
    assert beside_images(image_folder) == []


def test_a_single_class_is_refused(image_folder: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(image_folder / split / "dog")
    with pytest.raises(DataError, match=r"a single class, 'cat'.*add a second class folder"):
        parse("folder:pets", image_folder.parent)


@pytest.mark.parametrize("place", ["train/cat/caf\udce9.png", "train/caf\udce9/0.png"])
def test_names_that_no_record_can_hold_are_refused(image_folder: Path, place: str) -> None:
    for split in ("train", "test"):
        target = image_folder / place.replace("train", split)
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copy(image_folder / "train" / "cat" / "0.png", target)
        except OSError:
            pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match=r"caf\\udce9.*is not valid UTF-8.*rename") as caught:
        parse("folder:pets", image_folder.parent)
    str(caught.value).encode()


def test_what_lies_beside_the_images(image_folder: Path) -> None:
    (image_folder / "README").write_text("no image")
    (image_folder / "train" / "labels.csv").write_text("no image")
    Image.new("RGB", (8, 8)).save(image_folder / "test" / "dog" / "9.gif")
    assert beside_images(image_folder) == ["train/labels.csv", "test/dog/9.gif"]
