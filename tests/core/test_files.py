"""Files that are whole or not there, and what is said when they cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from harness.core.files import replacing


def test_the_file_is_moved_to_its_place_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert aside.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_moved_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replacing(path, durable=False) as aside:
        (aside / "part").mkdir(parents=True)
        assert not path.exists()
    assert list(tmp_path.rglob("*")) == [path, path / "part"]


def test_nothing_is_left_of_half_a_folder(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "folder", durable=False) as aside:
            (aside / "part").mkdir(parents=True)
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_a_path_in_one_process_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as late:
        late.write_text("late")
        with replacing(path) as early:
            early.write_text("early")
        assert path.read_text() == "early"
    assert path.read_text() == "late"


@pytest.mark.parametrize("durable", [True, False])
def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(TypeError), replacing(path, durable=durable) as aside, aside.open("w") as file:
        file.writelines(["half", 1])  # type: ignore[list-item]
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file_by_whatever_library(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    with pytest.raises(OSError, match="No space left on device") as caught, replacing(path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(OSError, match="10 requested and 5 written") as caught, replacing(path):
        raise OSError("10 requested and 5 written")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_the_writers_own_mistakes_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("no"), FileNotFoundError(errno.ENOENT, "no such file", "other")):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "file"):
            raise error
        assert caught.value is error


def test_a_fault_of_another_file_names_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as caught, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "full", "/other/file")
    assert caught.value.filename == "/other/file"
