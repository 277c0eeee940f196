"""Small pictures of distilled sets for the pages of their records."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.core.errors import UserError
from harness.engine.records import Record
from harness.report.gallery import SetImages, load_sheet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ABSENT = "The distilled set is not kept here."
MOST_CLASSES, MOST_EACH, COLORS = 20, 2, 64
PREVIEW = "The first image of each class; the distilled set is not kept here."
PREVIEW_SCALE = 2  # of its pixels on the page
SHOWN_PIXELS = 64  # a side of an image on the page


class Picture(NamedTuple):
    """A PNG with its size on the page and what it shows; without a PNG the caption says why.

    `class_names` are those of the set, empty where it is not at hand.
    """

    png: bytes = b""
    width: int = 0
    height: int = 0
    caption: str = ABSENT
    class_names: tuple[str, ...] = ()


def picture_of(record: Record, results: Path) -> Picture:
    """The picture of a record's set if the set lies beside it, else the reason why there is none."""
    path = record.set_path(results)
    # A record may carry any names; what they lead to outside the results folder is not its set.
    if not path.resolve().is_relative_to(results.resolve()):
        return Picture()
    if not path.is_file():
        return _kept(path.with_suffix(".png"))
    try:
        sheet = load_sheet(path)
    except UserError:
        return Picture(caption="The distilled set beside the record cannot be read.")
    return _picture(sheet)


def _kept(path: Path) -> Picture:
    """The small picture that is kept with the record of a set that is not, if there is one."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except (OSError, UnidentifiedImageError):
        return Picture()
    return Picture(content, PREVIEW_SCALE * width, PREVIEW_SCALE * height, PREVIEW)


def _picture(sheet: SetImages) -> Picture:
    from PIL import Image

    names, each = sheet.class_names[:MOST_CLASSES], _each(sheet)
    canvas = _canvas(sheet, len(names), each)
    encoded = io.BytesIO()
    Image.fromarray(canvas).quantize(COLORS).save(encoded, format="PNG", optimize=True)
    side = max(sheet.pixels.shape[1:3])
    scale = max(1, round(SHOWN_PIXELS / side))
    count = "The first image" if each == 1 else f"The first {each} images"
    rest = "" if len(names) == len(sheet.class_names) else f" (the first {len(names)} classes)"
    return Picture(
        png=encoded.getvalue(),
        width=canvas.shape[1] * scale,
        height=canvas.shape[0] * scale,
        caption=f"{count} of each class, in {COLORS} colours{rest}: {', '.join(names)}.",
        class_names=sheet.class_names,
    )


def _each(sheet: SetImages) -> int:
    """How many images of a class are shown: as many as the smallest class has, two at most."""
    fewest = min((int((sheet.classes == index).sum()) for index in set(sheet.classes.tolist())), default=1)
    return max(1, min(MOST_EACH, fewest))


def _canvas(sheet: SetImages, classes: int, each: int) -> NDArray[np.uint8]:
    """Classes from left to right, images of a class from top to bottom, as stored, a pixel apart on white."""
    import numpy as np

    _, height, width, channels = sheet.pixels.shape
    down, across = height + 1, width + 1
    canvas = np.full((each * down - 1, max(1, classes) * across - 1, channels), 255, np.uint8)
    for column in range(classes):
        for row, index in enumerate(np.flatnonzero(sheet.classes == column)[:each]):
            canvas[row * down :, column * across :][:height, :width] = sheet.pixels[index]
    return canvas
