"""How every figure looks: colours, markers, sizes, and the same bytes for the same records."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.engine.record_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart, without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The same for letters, darker where the colour is too light to read.
INKS = ("#0072B2", "#C04F00", "#00805C", "#A9588A", "#A87000", "#2F86BA", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.2, 1, 1.2)))
GREY, PALE = "#777777", "#D0D0D0"
ACCENT = COLOURS[0]
PANEL = len(COLOURS)  # lines in one panel that colour and marker still tell apart
SUFFIXES = (".png", ".svg")
# Neither date nor version, so that the same records give the same bytes.
METADATA: Mapping[str, Mapping[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}
SETTINGS: Mapping[Any, Any] = {
    "svg.hashsalt": "distillation-harness",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ECECEC",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "savefig.dpi": 150,
    "image.composite_image": True,
}
TITLE_SIZE, TRACK_SIZE, NOTE_SIZE = 10.5, 8.5, 7.5
MARGIN = 0.1  # inches
LINE_SPACING = 1.4
LETTER = 0.6  # width of a letter at most, on average over a line, in units of the font size


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn; different in all figures of up to 28 methods, also without colours."""

    colour: str
    marker: str
    dashes: Any
    ink: str

    @classmethod
    def of(cls, place: int) -> MethodStyle:
        """The style of the method at this place of an order."""
        turn = place % PANEL
        return cls(COLOURS[turn], MARKERS[turn], DASHES[place % len(DASHES)], INKS[turn])


@dataclass(frozen=True)
class FigureLayout:
    """A figure to be: what stands above it, its panels' size in inches, how many and in how many columns."""

    title: str
    track: str
    note: str
    panels: int = 1
    columns: int = 1
    width: float = 4.6
    height: float = 3.4

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return -(-self.panels // self.columns)


@contextmanager
def settings() -> Iterator[None]:
    """Within it matplotlib draws and writes as this module says, whatever the user's own settings are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def figure_of(layout: FigureLayout) -> tuple[Figure, list[Axes]]:
    """A figure with title, track and note at the top left, and its empty panels row by row."""
    from matplotlib.figure import Figure

    width, height = layout.columns * layout.width, layout.rows * layout.height
    texts: list[tuple[str, float, dict[str, Any]]] = [
        (layout.title, TITLE_SIZE, {"weight": "bold"}),
        (layout.track, TRACK_SIZE, {}),
        (layout.note, NOTE_SIZE, {"color": GREY}),
    ]
    lines = [
        (line, size, look) for text, size, look in texts for line in _wrapped(text, width - 2 * MARGIN, size)
    ]
    head = MARGIN + sum(size for _, size, _ in lines) * LINE_SPACING / 72
    figure = Figure((width, height + head), layout="constrained")
    figure.get_layout_engine().set(  # type: ignore[union-attr]
        rect=(0, 0, 1, height / (height + head)),
        w_pad=0.07,  # type: ignore[call-arg]
    )
    top = height + head - MARGIN
    for line, size, look in lines:
        figure.text(MARGIN / width, top / (height + head), line, size=size, va="top", **look)
        top -= size * LINE_SPACING / 72
    axes = figure.subplots(layout.rows, layout.columns, squeeze=False).flatten().tolist()
    for spare in axes[layout.panels :]:
        spare.set_axis_off()
    return figure, axes[: layout.panels]


def encode(figure: Figure, suffix: str) -> bytes:
    """The figure as PNG or SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], metadata=dict(METADATA[suffix]), facecolor="white")
    return content.getvalue()


def write(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure in both formats beside each other and return their paths; UserError if that fails."""
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    for path in paths:
        try:
            write_atomically(path, encode(figure, path.suffix))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; -o names another folder") from None
    return paths


def percent_axis(axes: Axes, label: str = "test accuracy (%)") -> None:
    """Name the y axis, whose values are percent."""
    axes.set_ylabel(label)


def _wrapped(text: str, inches: float, size: float) -> Sequence[str]:
    """The text in lines that are at most so wide."""
    import textwrap

    return textwrap.wrap(text, max(20, int(inches * 72 / (size * LETTER))))
