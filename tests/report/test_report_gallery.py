"""Pictures of distilled sets, checked pixel by pixel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core.data import ZCA, Normalization, RegularisedZCA
from harness.core.distilled import FORMAT, Distilled
from harness.core.errors import UserError
from harness.report import gallery

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def distilled(pixels: torch.Tensor, labels: torch.Tensor, **changes: Any) -> Distilled:
    """A set of the given pixels in [0, 1], normalised."""
    channels = pixels.shape[1]
    transform = Normalization.of(MEAN[:channels], STD[:channels])
    facts = {"ipc": 2, "dataset": "toy", "class_names": ("cat", "dog", "emu"), "method": "dm"} | changes
    return Distilled(transform(pixels), labels, transform=transform, **facts)


def colours() -> torch.Tensor:
    """Six 8x8 RGB images in plain colours."""
    shades = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).float()
    return shades[:, :, None, None].expand(6, 3, 8, 8).clone()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "set.safetensors"
    distilled(colours(), torch.arange(3).repeat_interleave(2)).save(path)
    return path


def test_reads_what_methods_write(saved: Path) -> None:
    sheet = gallery.load_sheet(saved)
    assert gallery.FORMAT == FORMAT
    assert sheet.title == "dm, toy, ipc 2"
    assert sheet.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(sheet.pixels, (colours().permute(0, 2, 3, 1) * 255).byte().numpy())


def test_zca_is_undone_and_pixels_are_clipped(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(40, 3, 4, 4, generator=generator)
    zca = ZCA.fit(pixels)
    whitened = zca(torch.cat([pixels[:2], pixels[:1] * 3 - 1]))
    path = tmp_path / "zca.safetensors"
    Distilled(whitened, torch.tensor([0, 0, 1]), 2, "toy", ("a", "b"), zca, "mtt").save(path)
    expected = torch.cat([pixels[:2], pixels[:1] * 3 - 1]).clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert np.abs(gallery.load_sheet(path).pixels - expected.numpy()).max() < 0.6


@pytest.mark.parametrize("unit_norm", [False, True], ids=["FRePo", "KIP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_of_the_method_itself_is_undone(tmp_path: Path, channels: int, unit_norm: bool) -> None:
    pixels = torch.rand(40, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    scaling = Normalization.of(MEAN[:channels], STD[:channels])
    whitening = RegularisedZCA.fit(pixels, scaling, 0.1, unit_norm=unit_norm)
    made = Distilled(whitening(pixels[:3]), torch.tensor([0, 0, 1]), 2, "toy", ("a", "b"), whitening, "kip")
    path = tmp_path / "whitened.safetensors"
    made.save(path)
    expected = made.pixels().permute(0, 2, 3, 1) * 255
    assert np.abs(gallery.load_sheet(path).pixels - expected.numpy()).max() < 0.6


def test_grid_has_a_row_for_each_class_and_whole_pixels(saved: Path) -> None:
    sheet = gallery.load_sheet(saved)
    grid = gallery._grid(sheet)
    step = gallery.TILE_PIXELS + gallery.GAP
    assert grid.shape == (3 * step - gallery.GAP, 2 * step - gallery.GAP, 3)
    for index in range(6):
        row, column = divmod(index, 2)
        tile = grid[row * step :, column * step :][: gallery.TILE_PIXELS, : gallery.TILE_PIXELS]
        assert (tile == sheet.pixels[index, 0, 0]).all()
    assert (grid[gallery.TILE_PIXELS] == 255).all(), "a white gap between rows"


def test_grey_images_and_soft_labels(tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    soft = torch.tensor([[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]])
    distilled(torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)), soft).save(path)
    sheet = gallery.load_sheet(path)
    assert sheet.classes.tolist() == [1, 0]
    assert (sheet.pixels == sheet.pixels[..., :1]).all()
    assert gallery.draw(sheet).height > 3 * 9


def test_several_files_side_by_side(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.png", tmp_path / "new" / "two.png"
    assert gallery.command([saved], one) == 0
    assert gallery.command([saved, saved], two) == 0
    assert str(two) in capsys.readouterr().out
    with Image.open(one) as single, Image.open(two) as double:
        assert double.size == (2 * single.width, single.height)
        assert np.array_equal(np.asarray(double)[:, : single.width], np.asarray(single))
        assert np.array_equal(np.asarray(double)[:, single.width :], np.asarray(single))


def test_names_outside_ascii_are_drawn_somehow(tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    distilled(colours(), torch.zeros(6).long(), class_names=("猫", "собака")).save(path)
    assert gallery.draw(gallery.load_sheet(path)).width > 0


def test_bad_files_are_one_line(saved: Path, tmp_path: Path) -> None:
    torn, text, absent = tmp_path / "torn", tmp_path / "text", tmp_path / "absent"
    torn.write_bytes(saved.read_bytes()[:-10])
    text.write_text("hello")
    for path, message in (
        (torn, "damaged"),
        (text, "damaged"),
        (absent, "no distilled set"),
        (tmp_path, "cannot read"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            gallery.command([saved, path], tmp_path / "out.png")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.png").exists()


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    good = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2).long()}
    header = '{"format":"%s","dataset":"d","class_names":["a"],"ipc":1,"factor":2,"method":"m"}'
    state = {"transform.mean": torch.zeros(3), "transform.std": torch.ones(3)}
    cases: list[tuple[dict[str, torch.Tensor], dict[str, str] | None]] = [
        (good, None),
        (good, {"distilled": "not json"}),
        (good | state, {"distilled": header % "other"}),
        (good, {"distilled": header % FORMAT}),
        (good | state | {"labels": torch.ones(2).long()}, {"distilled": header % FORMAT}),
        (good | state | {"images": torch.zeros(2, 3)}, {"distilled": header % FORMAT}),
    ]
    for tensors, metadata in cases:
        save_file(tensors, path, metadata)
        with pytest.raises(UserError, match="damaged or not a distilled set"):
            gallery.load_sheet(path)
    save_file(good | state, path, {"distilled": header % FORMAT})
    assert gallery.load_sheet(path).title == "m, d, ipc 1, 2x2 in each"


def test_nothing_to_draw() -> None:
    with pytest.raises(UserError, match="no distilled files were given"):
        gallery.command([], Path("out.png"))


def test_an_output_that_cannot_be_written_is_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        gallery.command([saved], tmp_path / "file" / "out.png")


@pytest.mark.slow
def test_pictures_need_no_torch(saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.report import gallery;"
        "gallery.command([Path(sys.argv[1])], Path(sys.argv[2])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(saved), str(tmp_path / "x.png")], check=True)
