"""What a file is, told from its first bytes: names lie (`.pt` that pickle wrote, `.pkl` that torch wrote).

Nothing here imports torch, and nothing is read but the beginning, and of a zip archive its list of contents.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Literal

from harness.core.errors import UserError

Container = Literal["torch", "pickle", "npz", "npy", "safetensors"]

CONTAINER_WORDS: dict[Container, str] = {
    "torch": "a file of torch.save",
    "pickle": "a pickle",
    "npz": "an .npz archive of NumPy",
    "npy": "an .npy array of NumPy",
    "safetensors": "a safetensors file",
}

HEAD = 512
LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how torch.save began before it wrote zips
TAR_MARK = (257, b"ustar")
LONGEST_HEADER = 100 * 2**20  # of safetensors, by its own rules
SAVE_AGAIN = "save its images and labels with numpy.savez(path, images=..., labels=...) and submit that"
UNPACK = "unpack it and submit what is in it"
FETCH_AGAIN = "the download gave something else than the file; download it again"

# First bytes -> what it is, and what helps.
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x89HDF", "an HDF5 file", SAVE_AGAIN),
    (b"PAR1", "a Parquet file", SAVE_AGAIN),
    (b"\x89PNG", "one picture (PNG)", "expected a folder with a folder of pictures for each class"),
    (b"\xff\xd8\xff", "one picture (JPEG)", "expected a folder with a folder of pictures for each class"),
    (b"version https://git-lfs", "a pointer of Git LFS, without the file's content", "type `git lfs pull`"),
    (b"<!doctype", "a web page", FETCH_AGAIN),
    (b"<html", "a web page", FETCH_AGAIN),
)


def container_of(path: Path) -> Container:
    """What wrote the file; UserError that says what it is instead if nothing that is read here did."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise UserError(f"{path} is empty; copy or download it again")
    # First of all: its bytes are the length of its header, which may look like the mark of any other form.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    if head.startswith(LEGACY_TORCH):
        return "torch"
    if head.startswith(b"PK"):
        return _zipped(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL:
        return "pickle"
    if _is_old_pickle(path, head):
        return "pickle"
    raise _unread(path, head)


def _zipped(path: Path) -> Container:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(path, error) from None
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise UserError(f"{path} is a TorchScript module, not a distilled set; {SAVE_AGAIN}")
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    held = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"
    raise UserError(f"{path} is a zip archive of {held}; {UNPACK}")


def _is_old_pickle(path: Path, head: bytes) -> bool:
    """Whether it reads as a pickle of protocol 0 or 1, which have no mark at their beginning."""
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        if stream.read(1) != b".":
            return False
    try:
        for _ in zip(range(8), pickletools.genops(head), strict=False):
            pass
    except ValueError:
        return False
    return True


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins with a map whose first key is text, as the checkpoints of flax do."""
    skip = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    return 0 < skip < len(head) and (0xA0 <= head[skip] <= 0xBF or head[skip] == 0xD9)


def _unread(path: Path, head: bytes) -> UserError:
    for mark, what, helps in FOREIGN:
        if head[: len(mark)].lower() == mark.lower():
            return UserError(f"{path} is {what}; {helps}")
    if head[TAR_MARK[0] :].startswith(TAR_MARK[1]):
        return UserError(f"{path} is a tar archive; {UNPACK}")
    if _is_msgpack(head):
        return UserError(
            f"{path} is a msgpack checkpoint (of JAX, as FRePo's), which is not read; {SAVE_AGAIN}"
        )
    return UserError(
        f"{path} begins with {head[:12]!r}, which none of the forms read here does; expected "
        f"{', '.join(CONTAINER_WORDS.values())}, or a folder"
    )


def damaged(path: Path, reason: object) -> UserError:
    """The error for a file that is cut short or contradicts itself."""
    text = " ".join(str(reason).split())[:160] or type(reason).__name__
    return UserError(f"{path} is damaged ({text}); copy or download it again")
