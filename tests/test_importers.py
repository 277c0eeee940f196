"""Files as the authors' code writes them: the same images from each format, and nothing in a file is run."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness import importers
from harness.data import Dataset, load, parse
from harness.errors import UnknownNameError, UserError
from harness.importers.common import Imported
from harness.importers.restricted import load_pickle

IPC = 2
LIMIT = 2**20


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse("digits", Path(".")), Path("."))


@pytest.fixture
def pair(digits: Dataset) -> tuple[Tensor, Tensor]:
    """Two real images of each class as normalised float32, with their labels."""
    chosen = digits.index.draw(IPC, torch.Generator().manual_seed(0)).indices
    return digits.batch(chosen), digits.labels[chosen]


def read(path: Path, data: Dataset, kind: str | None = None) -> list[Imported]:
    return importers.read(importers.find(path, kind), data)


@pytest.mark.parametrize("zipped", [True, False])
def test_dc_file_gives_each_repetition_with_its_own_accuracy(
    zipped: bool, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    images, labels = pair
    content = {
        "data": [[images, labels], [images + 1, labels]],
        "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float64(0.6), np.float64(0.7), np.float64(0.8)]},
    }
    path = tmp_path / "res_DM_digits_ConvNet_2ipc.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    first, second = read(path, digits)
    assert torch.equal(first.images, images)
    assert torch.equal(second.images, images + 1)
    assert torch.equal(second.labels, labels)
    assert [first.experiment, second.experiment] == [0, 1]
    assert first.claimed == pytest.approx(0.55)
    assert second.claimed == pytest.approx(0.75)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("arrays", [False, True])
def test_pickle_of_tensors_or_arrays(
    protocol: int, arrays: bool, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    content: Any = tuple(part.numpy() for part in pair) if arrays else pair
    path = tmp_path / "synset.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    (found,) = read(path, digits)
    assert torch.equal(found.images, pair[0])
    assert torch.equal(found.labels, pair[1])
    assert found.importer == "idm"


def test_tensor_that_is_a_view_keeps_its_own_numbers(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    images, labels = pair
    path = tmp_path / "view.pkl"
    path.write_bytes(pickle.dumps((images[::2].transpose(2, 3).requires_grad_(), labels[::2])))
    (found,) = read(path, digits)
    assert torch.equal(found.images, images[::2].transpose(2, 3))


def test_mtt_pair_by_folder_or_by_file_with_its_rate(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    torch.save(pair[0], tmp_path / "images_best.pt")
    torch.save(pair[1], tmp_path / "labels_best.pt")
    (without,) = read(tmp_path, digits)
    assert without.learned_lr is None
    assert "no learning rate" in without.notes[0]
    before = importers.find(tmp_path).digest
    torch.save(torch.tensor(0.03), tmp_path / "lr_best.pt")
    (found,) = read(tmp_path / "images_best.pt", digits)
    assert torch.equal(found.images, pair[0])
    assert found.learned_lr == pytest.approx(0.03)
    assert found.notes == ()
    assert importers.find(tmp_path).digest != before


def test_mtt_without_labels_says_which_file_is_missing(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    torch.save(pair[0], tmp_path / "images_best.pt")
    with pytest.raises(UserError, match=r"expected labels_best\.pt there"):
        read(tmp_path, digits)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_kip_file(save: Any, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path) -> None:
    rows = torch.nn.functional.one_hot(pair[1], 10).float() - 0.1
    save(tmp_path / "kip.npz", images=pair[0].movedim(1, 3).numpy(), labels=rows.numpy())
    (found,) = read(tmp_path / "kip.npz", digits)
    assert torch.equal(found.images.movedim(3, 1), pair[0])
    assert torch.equal(found.labels, rows)


def test_folder_goes_by_the_names_of_the_classes_not_by_the_alphabet(digits: Dataset, tmp_path: Path) -> None:
    names = ("nine", "eight")
    for shade, name in enumerate(names):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), 100 * shade, np.uint8)).save(tmp_path / name / "a.png")
    from harness.importers import folder

    (found,) = folder.read(tmp_path, names, 1, LIMIT)
    assert found.labels.tolist() == [0, 1]
    assert found.images.flatten(1).float().mean(dim=1).tolist() == [0, 100]
    with pytest.raises(UserError, match="folder 'eight' names no class; expected 0, 1"):
        read(tmp_path, digits)


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    from harness.importers.folder import class_order

    names = tuple(f"class {k}" for k in range(12))
    assert class_order(tmp_path, ["0", "10", "2"], names) == {"0": 0, "10": 10, "2": 2}
    with pytest.raises(UserError, match="folder '12' names no class"):
        class_order(tmp_path, ["0", "12"], names)


class Malicious:
    """Whoever unpickles it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_does_not_run(
    protocol: int, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps((pair[0], Malicious(target)), protocol=protocol))
    with pytest.raises(
        UserError, match=r"is refused: as a pickle it calls \w+\.mkdir.*nothing of it was run"
    ):
        read(path, digits)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # the file was malicious indeed


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_torch_file_does_not_run(zipped: bool, digits: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    torch.save({"data": Malicious(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"calls \w+\.mkdir") as caught:
        read(path, digits)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_malicious_storage_inside_a_pickle_does_not_run(digits: Dataset, tmp_path: Path) -> None:
    """Torch packs a tensor's numbers as a torch file inside the pickle, which has to be read as warily."""
    target = tmp_path / "ran"
    inner = pickle.dumps(Malicious(target), protocol=2)
    path = tmp_path / "evil.pkl"
    path.write_bytes(
        b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R."
    )
    with pytest.raises(UserError):
        read(path, digits)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",  # bytes of 4 EiB
        b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".",  # a memo of two thousand million entries
        b"\x80\x02cnumpy\nndarray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R.",  # an array of 16 GiB
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99999999999\ntS'b'\ntR.",
        b"",
        b"no pickle",
    ],
)
def test_pickle_that_asks_for_huge_memory_or_is_broken_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or no file of tensors"):
        load_pickle(path, LIMIT)


def test_tensor_of_repeated_numbers_is_refused_by_its_size(digits: Dataset, tmp_path: Path) -> None:
    """A few bytes in the file, and terabytes once laid out."""
    huge = torch.zeros(1).expand(10**6, 1000, 1000)
    torch.save({"data": [[huge, torch.zeros(1)]]}, tmp_path / "huge.pt")
    (tmp_path / "huge.pkl").write_bytes(pickle.dumps((huge, torch.zeros(1))))
    for name in ("huge.pt", "huge.pkl"):
        assert (tmp_path / name).stat().st_size < 10_000
        with pytest.raises(UserError, match=r"a tensor would take [\d,.]+ MiB, more than"):
            read(tmp_path / name, digits)


def test_zip_bomb_is_refused_before_it_is_unpacked(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((30_000, 8, 8, 100), np.float32), labels=np.zeros(2))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"its content would take .* nothing was read"):
        read(path, digits)


def test_npz_whose_header_claims_more_than_it_holds_is_refused(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "liar.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 1), np.float32), labels=np.zeros(2))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["images.npy"] = parts["images.npy"].replace(b"(2, 8, 8, 1), }      ", b"(999999, 8, 888, 1), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(UserError, match="images would take"):
        read(path, digits)


def test_npz_with_objects_or_other_names_is_refused(digits: Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object), labels=np.zeros(1))
    with pytest.raises(UserError, match=r"damaged or no \.npz of numbers"):
        read(tmp_path / "objects.npz", digits)
    np.savez(tmp_path / "names.npz", x=np.zeros(1), y=np.zeros(1))
    with pytest.raises(UserError, match="expected arrays 'images' and 'labels', found x, y"):
        read(tmp_path / "names.npz", digits)


def test_content_of_another_kind_is_named(digits: Dataset, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(UserError, match="found a dict with keys state_dict, epoch"):
        read(tmp_path / "net.pt", digits)
    (tmp_path / "words.pkl").write_bytes(pickle.dumps(["cat", "dog", "eel"]))
    with pytest.raises(UserError, match=r"expected a pair \(images, labels\), found a str"):
        read(tmp_path / "words.pkl", digits)


def test_format_is_told_from_the_name_or_given(tmp_path: Path) -> None:
    for name, kind in {"a.pt": "dc", "a.pkl": "idm", "a.npz": "kip", "a.safetensors": "safetensors"}.items():
        (tmp_path / name).write_bytes(b"")
        assert importers.find(tmp_path / name).format == kind
    (tmp_path / "a.bin").write_bytes(b"")
    assert importers.find(tmp_path / "a.bin", "idm").format == "idm"
    with pytest.raises(UserError, match="does not tell the format"):
        importers.find(tmp_path / "a.bin")
    with pytest.raises(UnknownNameError, match="did you mean 'kip'"):
        importers.find(tmp_path / "a.bin", "kipp")
    with pytest.raises(UserError, match="no file or folder"):
        importers.find(tmp_path / "absent.pt")
