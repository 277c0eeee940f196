"""Names beside lines and points, moved apart so that each can be read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECTIONS = tuple(math.radians(angle) for angle in (0, 30, -30, 180, 150, -150, 90, -90, 60, -60, 120, -120))
DISTANCES = (7.0, 12.0, 18.0, 26.0, 36.0, 48.0, 62.0, 78.0)  # points from the mark to the edge of its name
LEADER_FROM = 9.5  # a name farther away than this gets a line to its mark
LINE = 1.28  # height of a line, in units of the font size
MARK = 4.0  # half the side of what a mark covers, in points


@dataclass(frozen=True)
class Name:
    """A name to be written beside the point (x, y) of the data."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False

    @property
    def weight(self) -> str:
        """Weight of the font."""
        return "bold" if self.bold else "normal"


@dataclass(frozen=True)
class Box:
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def outside(self, frame: Box) -> float:
        """Area beyond a frame."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places nearest to the wanted ones (least squares) that lie `gap` apart, within low..high if they fit.

    In the order of `wanted`, whose own order is kept.
    """
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    blocks: list[list[float]] = []  # values less their due distance; blocks of a common mean
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1].extend(last)
    top = high - gap * (len(order) - 1)
    base = [max(low, min(top, _mean(block))) for block in blocks for _ in block]
    places = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        places[index] = base[rank] + rank * gap
    return places


def beside_lines(axes: Axes, names: Sequence[Name], size: float = 7.0) -> None:
    """Write names at the right of the panel, each at the height of its line's end, with a thin leader."""
    low, high = axes.get_ylim()
    inches = _inches(axes)
    gap = (high - low) * size * 1.3 / 72 / inches[1]
    heights = spread([name.y for name in names], gap, low + gap / 2, high - gap / 2)
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name.text,
            (name.x, name.y),
            (1.03, height),
            textcoords=("axes fraction", "data"),
            size=size,
            color=name.colour,
            weight=name.weight,
            va="center",
            annotation_clip=False,
            arrowprops=_leader(name.colour, shrink=4.0),
        )


def beside_points(
    axes: Axes, names: Sequence[Name], steps: Sequence[tuple[float, float]] = (), size: float = 6.8
) -> None:
    """Write each name near its point where it covers least of other names, of points and of the stairs.

    Bold names choose first. `steps` are the points of stairs (x, y) that go right and then up. Call it once
    the limits of the axes are final.
    """
    frame, places = _places(axes, [*((name.x, name.y) for name in names), *steps])
    points, stairs = places[: len(names)], places[len(names) :]
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    for (x, y), (next_x, next_y) in itertools.pairwise(stairs):
        taken += [Box(x, y - 1, next_x, y + 1), Box(next_x - 1, y, next_x + 1, next_y)]
    for index in sorted(range(len(names)), key=lambda place: (not names[place].bold, -names[place].y, place)):
        name, point = names[index], points[index]
        box = _best(point, _width(axes, name, size), LINE * size, frame, taken)
        taken.append(box)
        _write(axes, name, point, box, size)


def _width(axes: Axes, name: Name, size: float) -> float:
    """How wide a name is, in points; letters differ too much to be counted."""
    probe = axes.annotate(name.text, (0, 0), xycoords="figure points", size=size, weight=name.weight)
    width = probe.get_window_extent().width * 72 / axes.figure.dpi
    probe.remove()
    return float(width)


def _best(point: tuple[float, float], width: float, height: float, frame: Box, taken: Sequence[Box]) -> Box:
    candidates = [
        _at(point, width, height, direction, distance)
        for distance, direction in itertools.product(DISTANCES, DIRECTIONS)
    ]
    costs = [
        4 * box.outside(frame) + sum(box.overlap(other) for other in taken) + 0.15 * rank
        for rank, box in enumerate(candidates)
    ]
    return candidates[costs.index(min(costs))]


def _at(point: tuple[float, float], width: float, height: float, direction: float, distance: float) -> Box:
    x, y = point[0] + distance * math.cos(direction), point[1] + distance * math.sin(direction)
    left = x - width * (1 - math.cos(direction)) / 2
    bottom = y - height * (1 - math.sin(direction)) / 2
    return Box(left, bottom, left + width, bottom + height)


def _write(axes: Axes, name: Name, point: tuple[float, float], box: Box, size: float) -> None:
    middle = (box.left + box.right) / 2 - point[0], (box.bottom + box.top) / 2 - point[1]
    edge = (
        max(box.left - point[0], point[0] - box.right, 0),
        max(box.bottom - point[1], point[1] - box.top, 0),
    )
    far = math.hypot(*edge) > LEADER_FROM
    axes.annotate(
        name.text,
        (name.x, name.y),
        middle,
        textcoords="offset points",
        size=size,
        color=name.colour,
        weight=name.weight,
        ha="center",
        va="center",
        arrowprops=_leader(name.colour, shrink=3.0) if far else None,
        zorder=5,
    )


def _leader(colour: str, shrink: float) -> dict[str, Any]:
    return {
        "arrowstyle": "-",
        "color": colour,
        "linewidth": 0.5,
        "alpha": 0.6,
        "shrinkA": 1.0,
        "shrinkB": shrink,
        "relpos": (0.0, 0.5) if shrink > 3 else (0.5, 0.5),
    }


def _places(axes: Axes, points: Sequence[tuple[float, float]]) -> tuple[Box, list[tuple[float, float]]]:
    """The panel's frame and points of its data, in points of the page."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    scale = 72 / axes.figure.dpi
    shown = axes.transData.transform(points) * scale
    extent = axes.get_window_extent()
    frame = Box(extent.x0 * scale, extent.y0 * scale, extent.x1 * scale, extent.y1 * scale)
    return frame, [(float(x), float(y)) for x, y in shown]


def _inches(axes: Axes) -> tuple[float, float]:
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    extent = axes.get_window_extent()
    return extent.width / axes.figure.dpi, extent.height / axes.figure.dpi


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
