"""TOML files as people's editors write them, through both ways in: a sweep and a profile."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.engine.options import Options, parse_options
from harness.engine.tomlfile import SINGLE_QUOTES


def as_sweep(file: Path) -> Options:
    return parse_options({}, file)


def as_profile(file: Path) -> Options:
    return parse_options({"profile": str(file)})


WAYS = pytest.mark.parametrize("read", [as_sweep, as_profile])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.toml"


@WAYS
def test_a_byte_order_mark_and_line_ends_of_windows_are_no_fault(read: Any, file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + 'partition = "ü"\r\ncpus = 3\r\n'.encode())
    assert (read(file).partition, read(file).cpus) == ("ü", 3)


@WAYS
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cpus = 3\n".encode("utf-16"), "is in UTF-16, and TOML is in UTF-8; save it with"),
        (codecs.BOM_UTF16_BE + "cpus = 3\n".encode("utf-16-be"), "is in UTF-16, and TOML"),
        (
            b"cpus = 3\nslots = 2 # f\xfcr",
            "is not in UTF-8, as TOML is: byte 0xfc in line 2;",
        ),
        (b"cpus = ", "is not TOML: Invalid value"),
    ],
)
def test_other_files_are_told_what_they_are(read: Any, file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file} {words}")
    assert SINGLE_QUOTES not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        r"folder:C:\Users",
        r"folder:C:\users\me",
        r"folder:C:\data",
        r"folder:D:\x",
        r"folder:C:\temp",
        r"folder:C:\new\folder",
        "folder:C:\\",
    ],
)
@pytest.mark.parametrize("line", ['dataset = "{}"', 'dataset = ["digits", "{}"]', '[set.dm]\nname = "{}"'])
def test_a_path_of_windows_in_double_quotes_gets_the_advice(file: Path, line: str, path: str) -> None:
    file.write_text(f"ipc = 1\n{line.format(path)}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        as_sweep(file)
    assert SINGLE_QUOTES in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_advice_works(file: Path) -> None:
    file.write_text("dataset = ['folder:C:\\temp', \"folder:D:\\\\temp\"]\n", encoding="utf-8")
    assert as_sweep(file).dataset == (r"folder:C:\temp", r"folder:D:\temp")


def test_a_mistake_without_backslashes_gets_no_such_advice(file: Path) -> None:
    file.write_text('setup = [\'a "b\\c" d\']\ndataset = "digits\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        as_profile(file)
    assert SINGLE_QUOTES not in str(caught.value)
