"""Names, identities and the errors of the torch-free part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from harness.core.data import DatasetSpec, describe, parse
from harness.core.data.catalog import KNOWN
from harness.core.data.files import IMAGE_SUFFIXES, class_files
from harness.core.errors import DataError, UnknownNameError


def test_catalog_imports_no_heavy_library() -> None:
    code = (
        "import sys, harness.core.data.catalog, harness.core.data;"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'numpy'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_every_exported_name_exists() -> None:
    import harness.core.data as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018


@pytest.mark.parametrize("name", list(KNOWN))
def test_known_names_in_any_case(name: str, tmp_path: Path) -> None:
    assert parse(name.upper(), tmp_path, None, True) == DatasetSpec(name, name, zca=True)


def test_unknown_name_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"'cifar11'; did you mean 'cifar10'\?.*folder:PATH.*tinyimagenet"
    ):
        parse("cifar11", tmp_path)


def test_image_size_is_for_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fixed image size"):
        parse("mnist", tmp_path, 32)
    with pytest.raises(DataError, match="not a positive"):
        parse("folder:x", tmp_path, 0)


def test_folder_is_found_by_any_way_of_naming_it(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = image_folder.parent
    spec = parse("folder:pets", data_dir, 8)
    assert (spec.name, spec.source, spec.image_size, spec.path) == ("pets", "folder", 8, str(image_folder))
    assert parse(f"Folder:{image_folder}", data_dir / "absent", 8) == spec
    monkeypatch.chdir(data_dir)
    assert parse("folder:./pets/", data_dir / "absent", 8) == spec


def test_identity_follows_files_and_not_the_place(image_folder: Path, tmp_path: Path) -> None:
    spec = parse("folder:pets", image_folder.parent)
    copied = shutil.copytree(image_folder, tmp_path / "elsewhere" / "pets")
    again = parse(f"folder:{copied}", tmp_path)
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.path != spec.path
    (copied / "train" / "cat" / "notes.txt").write_text("not an image")
    assert parse(f"folder:{copied}", tmp_path) == spec
    (copied / "test" / "cat" / "0.png").rename(copied / "test" / "cat" / "9.png")
    assert parse(f"folder:{copied}", tmp_path) != spec


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "test"), r"no class folders in .*test"),
        (lambda root: shutil.rmtree(root / "test" / "cat"), r"same classes; 'cat' is in one"),
        (lambda root: (root / "train" / "bird").mkdir(), r"bird holds no image"),
        (lambda root: shutil.rmtree(root), r"no folder 'pets' \(looked for .*pets\)"),
        (lambda root: (root / "train" / "cat" / "9.png").symlink_to("nowhere"), r"cannot read .*9\.png"),
    ],
)
def test_a_folder_that_is_no_dataset(image_folder: Path, damage, message: str) -> None:
    damage(image_folder)
    with pytest.raises(DataError, match=message) as caught:
        parse("folder:pets", image_folder.parent)
    assert "\n" not in str(caught.value)


def test_a_folder_must_not_pass_for_a_built_in(image_folder: Path) -> None:
    image_folder.rename(image_folder.with_name("CIFAR10"))
    with pytest.raises(DataError, match="built-in dataset 'cifar10'"):
        parse("folder:CIFAR10", image_folder.parent)


def test_files_in_the_order_of_torchvision(image_folder: Path) -> None:
    assert set(IMAGE_SUFFIXES) == set(IMG_EXTENSIONS)
    theirs = ImageFolder(image_folder / "train")
    ours = class_files(image_folder / "train")
    assert list(ours) == theirs.classes
    assert [file for files in ours.values() for file in files] == [path for path, _ in theirs.samples]


def test_describe_covers_all_that_parse_takes() -> None:
    rows = {row.name: row for row in describe()}
    assert [*KNOWN, "folder:PATH"] == list(rows)
    assert rows["cifar100"][1:5] == ((3, 32, 32), 100, 50_000, 10_000)
