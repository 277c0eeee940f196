"""Files as the authors' code writes them: the same images from each format, and nothing in a file is run."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from harness.core.data import Dataset, load, parse
from harness.core.errors import UnknownNameError, UserError
from harness.submit import importers
from harness.submit.importers.common import Imported
from harness.submit.importers.restricted import load_pickle
from harness.submit.importers.sniff import container_of

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


def read(path: Path, data: Dataset, kind: str | None = None, ipc: int | None = None) -> list[Imported]:
    return importers.read(importers.find(path, kind), data, ipc)


@pytest.mark.parametrize("zipped", [True, False])
def test_dc_file_gives_each_repetition_with_its_own_accuracy(
    zipped: bool, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    images, labels = pair
    content = {
        "data": [[images, labels], [images + 1, labels]],
        "accs_all_exps": {
            "ConvNet": [np.float64(0.5), np.float64(0.6), np.float64(0.7), np.float64(0.8)],
            "AlexNet": [0.3, 0.3, 0.5, 0.5],
        },
    }
    path = tmp_path / "res_DM_digits_ConvNet_2ipc.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    first, second = read(path, digits)
    assert torch.equal(first.images, images)
    assert torch.equal(second.images, images + 1)
    assert torch.equal(second.labels, labels)
    assert [first.experiment, second.experiment] == [0, 1]
    assert first.claims == pytest.approx({"ConvNet": 0.55, "AlexNet": 0.3})
    assert second.claims == pytest.approx({"ConvNet": 0.75, "AlexNet": 0.5})


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
    with pytest.raises(UserError, match=r"20 images without labels; expected labels_best\.pt .*--ipc N"):
        read(tmp_path, digits, "mtt")


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
    from harness.submit.importers import folder

    (found,) = folder.read(tmp_path, names, 1, LIMIT)
    assert found.labels.tolist() == [0, 1]
    assert found.images.flatten(1).float().mean(dim=1).tolist() == [0, 100]
    with pytest.raises(UserError, match="folder 'eight' names no class; expected 0, 1"):
        read(tmp_path, digits)


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    from harness.submit.importers.folder import class_order

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
    ],
)
def test_pickle_that_asks_for_huge_memory_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged|contradicts itself"):
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


@pytest.mark.slow
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
    with pytest.raises(UserError, match="as images, found a array of object, which is not read"):
        read(tmp_path / "objects.npz", digits)
    np.savez(tmp_path / "names.npz", weights=np.zeros(1), bias=np.zeros(1))
    with pytest.raises(UserError, match="found a dict with keys weights, bias"):
        read(tmp_path / "names.npz", digits)


def test_content_of_another_kind_is_named(digits: Dataset, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(UserError, match="found a dict with keys state_dict, epoch"):
        read(tmp_path / "net.pt", digits)
    (tmp_path / "words.pkl").write_bytes(pickle.dumps(["cat", "dog", "eel"]))
    with pytest.raises(UserError, match=r"expected images and labels.*found a list of 3: str, str, str"):
        read(tmp_path / "words.pkl", digits)


def both(found: Imported, pair: tuple[Tensor, Tensor]) -> bool:
    """Whether images and labels are those of the pair."""
    return torch.equal(found.images, pair[0]) and torch.equal(found.labels.long(), pair[1])


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


FORMS: dict[str, Any] = {
    "images and label": lambda x, y: {"images": x, "label": y},
    "data and label": lambda x, y: {"data": x, "label": y},
    "data and labels": lambda x, y: {"data": x, "labels": y},
    "images and targets": lambda x, y: {"images": x, "targets": y},
    "x and y": lambda x, y: {"x": x, "y": y},
    "state of FRePo": lambda x, y: {
        "syndata_state_dict": {"x_syn": x, "y_syn": y},
        "step_offset": 3,
        "best_val_acc": np.float16(0.5),
    },
    "tensor and list": lambda x, y: [x, y.tolist()],
    "list of images": lambda x, y: [list(x), y.tolist()],
    "pair and rate": lambda x, y: [x, y, torch.tensor(0.02)],
    "pair and number": lambda x, y: (x, y, 0.02),
    "arrays": lambda x, y: {"images": x.numpy(), "labels": y.numpy()},
    "pairs of arrays": lambda x, y: {"data": [[x.numpy(), y.numpy()]], "accs_all_exps": {}},
    "settings beside": lambda x, y: {
        "data": [[x, y]],
        "args": argparse.Namespace(lr=0.1, name="dm", shape=torch.Size([2, 3]), kind=torch.float32),
        "accs_all_exps": {"ConvNet": [np.float16(0.5)]},
    },
    "numbers of NumPy": lambda x, y: {
        "data": [[x, y]],
        "ipc": np.int32(2),
        "done": np.bool_(True),
        "accs_all_exps": {"ConvNet": [np.float16(0.5), np.float32(0.5)]},
    },
}


@pytest.mark.parametrize("save", [torch.save, save_pickle])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_content(
    form: str, save: Any, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "set.pt"
    save(FORMS[form](*pair), path)
    (found,) = read(path, digits)
    assert both(found, pair)
    assert found.learned_lr == (pytest.approx(0.02) if form.startswith("pair and") else None)
    if "accs_all_exps" in FORMS[form](*pair) and form in ("settings beside", "numbers of NumPy"):
        assert found.claims == {"ConvNet": 0.5}


@pytest.mark.parametrize("names", [("image", "label"), ("x", "y"), ("images", "labels"), None])
def test_names_of_arrays(
    names: tuple[str, str] | None, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    arrays = pair[0].numpy(), pair[1].numpy()
    path = tmp_path / "set.npz"
    np.savez(path, *arrays) if names is None else np.savez(path, **dict(zip(names, arrays, strict=True)))
    (found,) = read(path, digits)
    assert both(found, pair)


def test_names_that_may_both_be_the_images_are_asked_about(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", images=pair[0].numpy(), x=pair[0].numpy(), y=pair[1].numpy())
    with pytest.raises(UserError, match="has images and x, any of which may be the images"):
        read(tmp_path / "set.npz", digits)


def test_plain_safetensors(pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    safetensors.torch.save_file({"images": pair[0], "labels": pair[1]}, path)
    (found,) = read(path, digits)
    assert both(found, pair)
    assert found.transform is None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        read(path, digits)


def test_float8_images_are_read_as_numbers(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    small = pair[0].to(torch.float8_e4m3fn)
    torch.save([small, pair[1]], tmp_path / "set.pt")
    safetensors.torch.save_file({"images": small, "labels": pair[1]}, tmp_path / "set.safetensors")
    for name in ("set.pt", "set.safetensors"):
        (found,) = read(tmp_path / name, digits)
        assert torch.equal(found.images, small.float())


def test_steps_of_dd_are_one_set_and_each_image_once(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    """Two steps, gone over in two epochs with other rates."""
    images, labels = pair
    steps = [
        (images[half], labels[half], torch.tensor([0.02 / (1 + k)]))
        for k, half in enumerate([slice(0, 10), slice(10, 20)] * 2)
    ]
    torch.save(steps, tmp_path / "results.pth")
    (found,) = read(tmp_path / "results.pth", digits)
    assert both(found, pair)
    assert (found.importer, found.learned_lr) == ("dd", None)
    assert "4 steps of gradient descent" in found.notes[0]
    assert "rates from 0.005 to 0.02" in found.notes[0]
    assert "--lr" in found.notes[0]


@pytest.mark.parametrize("save", [torch.save, save_pickle, lambda x, path: np.savez(path, images=x.numpy())])
def test_images_alone_need_ipc(
    save: Any, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "set.npz"
    save(pair[0], path)
    with pytest.raises(UserError, match=r"20 images without labels; .* or --ipc N if they are class after"):
        read(path, digits)
    with pytest.raises(UserError, match=r"--ipc 3 x 10 classes = 30 does not fit"):
        read(path, digits, ipc=3)
    (found,) = read(path, digits, ipc=IPC)
    assert both(found, pair)
    assert "class after class" in found.notes[-1]


PAIRS = {
    "CIFAR10_IPC10_images.pt": "CIFAR10_IPC10_labels.pt",
    "ema_images_best.pt": "ema_labels_best.pt",
    "images_5000.pt": "labels_5000.pt",
    "images_zca_5000.pt": "labels_5000.pt",
    "images.npy": "labels.npy",
    "syn_image.pkl": "syn_label.pkl",
}


@pytest.mark.parametrize("images", PAIRS)
def test_files_beside_each_other(
    images: str, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    for name, part in zip((images, PAIRS[images]), pair, strict=True):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, part.numpy())
        else:
            (torch.save if path.suffix == ".pt" else save_pickle)(part, path)
    for where in (tmp_path / images, tmp_path):
        (found,) = read(where, digits)
        assert both(found, pair)
        assert any("whitening was undone" in note for note in found.notes) == ("zca" in images)
        assert any("--lr" in note for note in found.notes) == images.startswith(("images", "ema"))
    if "zca" not in images:  # whose labels bear the name of other images, which are not there
        with pytest.raises(UserError, match=f"holds the labels of {images}"):
            importers.find(tmp_path / PAIRS[images])


def test_labels_of_another_iteration_are_taken_only_where_they_were_not_learned(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    torch.save(pair[0], tmp_path / "images_700.pt")
    torch.save(pair[1], tmp_path / "labels_best.pt")
    (found,) = read(tmp_path / "images_700.pt", digits)
    assert both(found, pair)
    assert "labels are those of labels_best.pt" in found.notes[-1]
    torch.save(torch.nn.functional.one_hot(pair[1], 10).float(), tmp_path / "labels_best.pt")
    with pytest.raises(UserError, match=r"learned with other images; expected labels_700\.pt there"):
        read(tmp_path / "images_700.pt", digits)


def test_folder_of_several_sets_asks_which(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    for number in (0, 500, 1000):
        torch.save(pair[0] + number, tmp_path / f"images_{number}.pt")
        torch.save(pair[1], tmp_path / f"labels_{number}.pt")
    with pytest.raises(
        UserError, match=r"several sets: images_0\.pt, images_1000\.pt, images_500\.pt; submit"
    ):
        read(tmp_path, digits)
    (found,) = read(tmp_path / "images_500.pt", digits)
    assert torch.equal(found.images, pair[0] + 500)


@pytest.mark.parametrize("layout", ["images_{k}.pt", "{k}/images_best.pt"])
@pytest.mark.parametrize("anew", [False, True])
def test_parts_are_one_set(
    layout: str, anew: bool, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    """Five parts of two classes each, whose labels go on or begin anew."""
    for k in range(5):
        rows = slice(2 * k * IPC, 2 * (k + 1) * IPC)
        path = tmp_path / layout.format(k=k)
        path.parent.mkdir(exist_ok=True)
        torch.save(pair[0][rows], path)
        torch.save(pair[1][rows] - 2 * k * anew, path.with_name(path.name.replace("images", "labels")))
    digest = importers.find(tmp_path).digest
    (found,) = read(tmp_path, digits)
    assert both(found, pair)
    assert "one set in 5 parts" in found.notes[0]
    assert any("count from 0" in note for note in found.notes) == anew
    torch.save(torch.tensor(0.1), path.with_name(path.name.replace("images", "lr")))
    assert importers.find(tmp_path).digest != digest


def test_folders_of_srel(tmp_path: Path, digits: Dataset) -> None:
    for k in range(10):
        (tmp_path / f"new{k:03d}").mkdir()
        pixels = np.full((8, 8), 10 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"new{k:03d}" / f"class{k:03d}_id000.jpg")
    (found,) = read(tmp_path, digits)
    assert found.labels.tolist() == list(range(10))
    assert found.images.flatten(1).float().mean(dim=1).tolist() == pytest.approx(
        [10 * k for k in range(10)], abs=2
    )
    assert "losses (JPEG" in found.notes[0]


def test_format_is_told_from_the_first_bytes_not_from_the_name(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    save_pickle(pair, tmp_path / "pickle.pt")
    torch.save(pair, tmp_path / "torch.pkl")
    torch.save(pair, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "arrays.bin.npz", images=pair[0], labels=pair[1])
    (tmp_path / "arrays.bin.npz").rename(tmp_path / "arrays.bin")
    kinds = {"pickle.pt": "idm", "torch.pkl": "dc", "old.pkl": "dc", "arrays.bin": "kip"}
    for name, kind in kinds.items():
        assert importers.find(tmp_path / name).format == kind
        (found,) = read(tmp_path / name, digits)
        assert both(found, pair)
    assert importers.find(tmp_path / "torch.pkl", "idm").format == "idm"
    with pytest.raises(UserError, match=r"is an \.npz archive of NumPy, which --format dc does not read"):
        importers.find(tmp_path / "arrays.bin", "dc")
    with pytest.raises(UnknownNameError, match="did you mean 'kip'"):
        importers.find(tmp_path / "arrays.bin", "kipp")
    with pytest.raises(UserError, match="no file or folder"):
        importers.find(tmp_path / "absent.pt")


def archive_of(**parts: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return packed.getvalue()


MSGPACK = b"\x83\xa6params\x81\xa6kernel\xc0\xa9opt_state\xc0\xa4step\x01"  # as flax writes checkpoints


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (MSGPACK, "is a msgpack checkpoint .* not read; save its images and labels with numpy.savez"),
        (gzip.compress(b"content"), "is a gzip archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is one picture .* a folder of pictures for each class"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page; the download gave something else"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (archive_of(**{"0/a.png": "", "1/b.png": ""}), "is a zip archive of 0/a.png, 1/b.png; unpack it"),
        (b"no pickle", "begins with b'no pickle', which none of the forms read here does"),
        (pickle.dumps(range(3), protocol=0), "calls __builtin__.xrange"),
    ],
    # Not the contents: archives hold the time, and processes that share the tests must name them alike.
    ids=["empty", "msgpack", "gzip", "hdf5", "png", "html", "lfs", "zip", "neither", "call"],
)
def test_whole_files_of_other_kinds_are_not_called_damaged(
    content: bytes, complaint: str, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "set.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read(path, digits)
    assert "damaged" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_files_with_strange_content_are_not_called_damaged(digits: Dataset, tmp_path: Path) -> None:
    contents: list[Any] = [
        {"net": {"weight": torch.zeros(3)}},
        [torch.zeros(2, 1, 8, 8)],
        {"images": "missing", "labels": "missing"},
        torch.zeros(3),
        [],
        {"images": np.array([{}], dtype=object), "labels": np.zeros(1)},
        [torch.zeros(2, 1, 8, 8).to_sparse(), torch.zeros(2)],
        [torch.zeros(2, 1, 8, 8, dtype=torch.complex64), torch.zeros(2)],
        torch.nn.Linear(2, 2),
    ]
    for k, content in enumerate(contents):
        for save in (torch.save, save_pickle):
            path = tmp_path / f"{k}.pt"
            save(content, path)
            with pytest.raises(UserError) as caught:
                read(path, digits)
            assert "damaged" not in str(caught.value), content
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_are_cut_short_are_called_damaged(
    zipped: bool, pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    torch.save(pair, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    save_pickle(pair, tmp_path / "b.pkl")
    np.savez(tmp_path / "c.npz", images=pair[0], labels=pair[1])
    np.save(tmp_path / "d.npy", pair[0])
    for name in ("a.pt", "b.pkl", "c.npz", "d.npy"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=r"is damaged .*; copy or download it again"):
            read(path, digits, ipc=IPC)


def test_bytes_that_changed_in_a_torch_file_are_damage(
    pair: tuple[Tensor, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(pair, path)
    content = bytearray(path.read_bytes())
    middle = content.index(pair[0].numpy().tobytes()[:64])
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        read(path, digits)


class MaliciousSettings(argparse.Namespace):
    """Settings whose class would act when it is restored."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_what_is_allowed_for_arrays_and_settings_makes_nothing(
    save: Any, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save({"data": [[torch.zeros(1, 1, 8, 8), torch.zeros(1)]], "args": MaliciousSettings()}, Path("set.pt"))
    with pytest.raises(UserError, match="nothing of it was run"):
        read(Path("set.pt"), digits)
    assert not Path("ran").exists()


@pytest.mark.parametrize("opcode", [b"\x85R", b"\x85\x81"])  # called, and made anew
def test_torch_file_cannot_ask_for_an_array_of_any_size(
    opcode: bytes, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.pt"
    huge = b"\x80\x02cnumpy\nndarray\nJ" + struct.pack("<i", 2**31 - 1) + opcode + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", huge)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(UserError, match="an array is asked for without its data"):
        read(path, digits)


@pytest.mark.parametrize("length", [0x280, 0x480, 0x4B50])  # as pickles of protocol 2 and 4 begin, and zips
def test_a_header_as_long_as_another_forms_mark_is_still_a_header(length: int, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}".ljust(length))
    assert container_of(path) == "safetensors"
