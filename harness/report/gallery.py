"""Pictures of distilled sets, from their safetensors files alone: a row for each class, sets side by side."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harness.core.errors import UserError
from harness.engine.record_files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

FORMAT = "distilled-set-1"  # harness.core.distilled.FORMAT, which cannot be imported without torch
TILE_PIXELS = 64
GAP = 2
MARGIN = 12
TEXT_HEIGHT = 14


class SetHeader(msgspec.Struct, frozen=True):
    """What the picture needs of the facts that a distilled file carries in its header."""

    format: str
    dataset: str
    class_names: tuple[str, ...]
    ipc: int
    factor: int
    method: str


@dataclass(frozen=True)
class SetImages:
    """A distilled set as pixels: (n, H, W, 3) uint8, with the class index (n,) of each image.

    Each stored image is a grid of factor x factor tiles.
    """

    title: str
    class_names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    factor: int = 1

    def by_class(self) -> list[NDArray[np.int64]]:
        """Places of the images of each class, in the order of the class names."""
        import numpy as np

        return [np.flatnonzero(self.classes == index) for index in range(len(self.class_names))]


class Mosaic(NamedTuple):
    """A picture of images: where its rows and columns begin, and the size of an image, all in pixels."""

    canvas: NDArray[np.uint8]
    tops: list[int]
    lefts: list[int]
    height: int
    width: int


def command(files: Sequence[Path], output: Path) -> int:
    """Write a PNG of the distilled sets in `files`, side by side, to `output`; returns the exit status 0.

    UserError in one line for a file that is absent, damaged or no distilled set, and if `output` cannot be
    written.
    """
    if not files:
        raise UserError("no distilled files were given; they are the .safetensors files beside the records")
    picture = _side_by_side([draw(load_sheet(path)) for path in files])
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG", optimize=True)
    try:
        write_atomically(output, encoded.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
    print(f"wrote {output} ({picture.width} x {picture.height} pixels)")
    return 0


def load_sheet(path: Path) -> SetImages:
    """Read a distilled file and undo its own transform; UserError in one line if it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = (file.metadata() or {})["distilled"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _sheet(msgspec.json.decode(header, type=SetHeader), tensors)
    except FileNotFoundError:
        raise UserError(f"no distilled set at {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise UserError(f"{path} is damaged or not a distilled set of this harness ({error})") from None


def draw(sheet: SetImages) -> Image.Image:
    """The title above a grid: a row for each class with its name, a column for each image of the class."""
    import numpy as np
    from PIL import Image, ImageDraw

    font = _font()
    title, names = _drawable(sheet.title), [_drawable(name) for name in sheet.class_names]
    grid = Image.fromarray(_grid(sheet))
    left = MARGIN + int(max(map(font.getlength, names), default=0)) + MARGIN // 2
    width = max(left + grid.width, MARGIN + int(font.getlength(title)) + 1) + MARGIN
    top = MARGIN + TEXT_HEIGHT + MARGIN // 2
    picture = Image.new("RGB", (width, top + grid.height + MARGIN), "white")
    picture.paste(grid, (left, top))
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN), title, "black", font)
    row_height = (grid.height + GAP) / max(1, len(names))
    for row, name in enumerate(names):
        middle = top + (row + 0.5) * row_height - TEXT_HEIGHT / 2
        pen.text((MARGIN, int(np.round(middle))), name, "black", font)
    return picture


def _sheet(about: SetHeader, tensors: Mapping[str, NDArray[Any]]) -> SetImages:
    import numpy as np

    images, labels = tensors["images"], tensors["labels"]
    if about.factor > 1 and len(labels) == len(images) * about.factor**2:
        labels = labels[: len(images)]  # of the first tile of each image
    if about.format != FORMAT:
        raise ValueError(f"format {about.format!r}, expected {FORMAT!r}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) != len(labels):
        raise ValueError(
            f"images {images.shape} with labels {labels.shape} are not (n, 1 or 3, H, W) with (n, ...)"
        )
    classes = tensors.get("classes", labels if labels.ndim == 1 else labels.argmax(1))
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(about.class_names):
        raise ValueError(f"labels do not fit {len(about.class_names)} class names")
    unit = np.clip(_inverse(images, tensors), 0, 1)
    formation = f", {about.factor}x{about.factor} in each" if about.factor > 1 else ""
    rows = np.round(unit * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return SetImages(
        title=f"{about.method}, {about.dataset}, ipc {about.ipc}{formation}",
        class_names=about.class_names,
        pixels=np.broadcast_to(rows, (*rows.shape[:3], 3)),
        classes=classes.astype(np.int64),
        factor=about.factor,
    )


def _inverse(images: NDArray[Any], tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Images in [0, 1] space, not yet clipped: the inverse of harness.core.data.transforms without torch."""
    import numpy as np

    mean, centre = tensors["transform.mean"], tensors.get("transform.centre")
    if "transform.unwhiten" in tensors:
        flat = images.reshape(len(images), -1) @ tensors["transform.unwhiten"]
        images = np.reshape(flat + (mean if centre is None else centre), images.shape)
        if centre is None:
            return images
        norm = tensors["transform.norm"].item()
        images = images * norm if norm > 0 else images
    return np.asarray(images * tensors["transform.std"][:, None, None] + mean[:, None, None])


def mosaic(rows: Sequence[Sequence[NDArray[np.uint8] | None]], below: Sequence[float] = ()) -> Mosaic:
    """Rows of images (H, W, 3) as one picture on white; None leaves an image's place white.

    All are enlarged by one whole factor, so that each stored pixel stays a square. `below` has for each row
    the height of the strip left white below it, in images.
    """
    import numpy as np

    height, width = next((tile.shape[:2] for row in rows for tile in row if tile is not None), (1, 1))
    factor: int = max(1, round(TILE_PIXELS / max(height, width)))
    height, width = height * factor, width * factor
    strips = [round(height * share) for share in below] or [0] * len(rows)
    tops = [0, *itertools.accumulate(height + strip + GAP for strip in strips)]
    columns = max(1, max(map(len, rows), default=0))
    canvas = np.full((max(1, tops[-1] - GAP), columns * (width + GAP) - GAP, 3), 255, np.uint8)
    lefts = [column * (width + GAP) for column in range(columns)]
    for top, images in zip(tops, rows, strict=False):
        for left, image in zip(lefts, images, strict=False):
            if image is not None:
                tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
                canvas[top : top + height, left : left + width] = tile
    return Mosaic(canvas, tops[:-1], lefts, height, width)


def _grid(sheet: SetImages) -> NDArray[np.uint8]:
    """All images: a row for each class."""
    return mosaic([[sheet.pixels[index] for index in members] for members in sheet.by_class()]).canvas


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    from PIL import Image

    size = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    whole = Image.new("RGB", size, "white")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default()


def _drawable(text: str) -> str:
    """The text with a question mark for each letter that Pillow's built-in font may lack."""
    return text.encode("ascii", "replace").decode("ascii")
