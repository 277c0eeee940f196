"""`python -m harness plot`: figures from the records alone, each of one track, as PNG and SVG.

matplotlib is imported by the functions that draw, so that the command line starts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import UnknownNameError, UserError
from harness.core.text import plural, table
from harness.engine.options import Options
from harness.engine.record_files import collect
from harness.report.frames import print_problems
from harness.report.plots import accuracy, cost, heat, images, style
from harness.report.plots.scenes import (
    Absent,
    Drawn,
    Outcome,
    Scene,
    Selection,
    scenes_across_archs,
    scenes_of,
    slugs,
)

DEFAULT_FOLDER = Path("report") / "plots"


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows and what draws it; `across` puts the networks' tracks together."""

    about: str
    draw: Callable[[Scene], Iterator[Outcome]]
    across: bool = False


class UndrawnFigure(NamedTuple):
    """A kind of figure that could not be drawn of a track."""

    kind: str
    track: str
    reason: str


class Figures(NamedTuple):
    """Paths of a figure's files, and what it is of."""

    kind: str
    track: str
    paths: list[Path]


def selection_of(kind: str, dataset: str, methods: str, scale: str, ipc: str) -> Selection:
    """The selection that comma-separated names stand for; UserError for an ipc that is no number."""
    kinds, datasets, names, scales, numbers = (
        tuple(item.strip() for item in text.split(",") if item.strip())
        for text in (kind, dataset, methods, scale, ipc)
    )
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"--ipc {ipc}: expected whole numbers, e.g. 1,10")
    return Selection(kinds, datasets, names, scales, tuple(map(int, numbers)))


def command(
    selection: Selection, results: Path, output: Path | None = None, data_dir: Path | None = None
) -> int:
    """Draw the chosen figures of the records under `results` into `output`; returns the exit status.

    Without them, `output` is `<results>/report/plots` and `data_dir` the datasets' usual folder. Prints a
    table of the files; what cannot be drawn is one line on stderr. The status is 1 if nothing could be drawn
    or a file was no record. UserError: no records, an unknown kind or name, or a folder that cannot be
    written.
    """
    unknown = next((kind for kind in selection.kinds if kind not in KINDS), None)
    if unknown is not None:
        raise UnknownNameError("kind of figure", unknown, KINDS)
    records, problems = collect(results)
    print_problems(problems)
    if not records:
        raise UserError(f"no records under {results}; run `python -m harness run ...` first")
    chosen = selection.of(records)
    if not chosen:
        raise UserError("no record fits all of --dataset, --methods, --scale and --ipc; leave some out")
    scenes = scenes_of(chosen, results, Options(data=data_dir).data_dir)
    undrawn: list[UndrawnFigure] = []
    written = list(draw(scenes, selection.kinds or tuple(KINDS), output or results / DEFAULT_FOLDER, undrawn))
    print_undrawn(undrawn)
    if written:
        print(_listing(written))
        print(f"wrote {plural(len(written), 'figure')}, each as PNG and as SVG beside it", file=sys.stderr)
    return int(bool(problems) or not written)


def draw(
    scenes: Sequence[Scene], kinds: Iterable[str], folder: Path, undrawn: list[UndrawnFigure]
) -> Iterator[Figures]:
    """Draw and write kinds of figures, a folder for each track; what is absent is added to `undrawn`."""
    together = scenes_across_archs(scenes)
    folders = slugs([scene.track for scene in scenes]) | slugs([scene.track for scene in together])
    with style.settings():
        for kind in kinds:
            for scene in together if KINDS[kind].across else scenes:
                heading = scene.track.heading
                for outcome in KINDS[kind].draw(scene):
                    if isinstance(outcome, Absent):
                        undrawn.append(UndrawnFigure(kind, heading, outcome.reason))
                    else:
                        yield _write(kind, heading, outcome, folder / folders[scene.track])


def print_undrawn(undrawn: Sequence[UndrawnFigure]) -> None:
    """Say on stderr what was not drawn and why, a line for each kind and reason."""
    tracks: dict[tuple[str, str], list[str]] = {}
    for figure in undrawn:
        tracks.setdefault((figure.kind, figure.reason), []).append(figure.track)
    for (kind, reason), headings in tracks.items():
        print(f"not drawn: {kind} of {'; '.join(headings)}: {reason}", file=sys.stderr)


def _write(kind: str, heading: str, drawn: Drawn, folder: Path) -> Figures:
    return Figures(kind, heading, style.write(drawn.figure, folder / drawn.name))


def _listing(written: Sequence[Figures]) -> str:
    rows = [[str(figure.paths[0]), KINDS[figure.kind].about] for figure in written]
    return table(["figure", "shows"], rows, text_columns=2)


KINDS = {
    "ipc": Kind("accuracy against images per class", accuracy.against_ipc),
    "flops": Kind("accuracy against FLOPs of distillation, with the Pareto front", cost.against_flops),
    "seconds": Kind("accuracy against seconds of distillation, with the Pareto front", cost.against_seconds),
    "memory": Kind("peak memory", cost.peak_memory),
    "curve": Kind("accuracy during distillation", accuracy.during_distillation),
    "classes": Kind("accuracy by class", heat.by_class),
    "networks": Kind("accuracy by network", heat.across_networks, across=True),
    "gallery": Kind("the distilled images of a method", images.gallery),
    "compare": Kind("methods side by side, an image of each class", images.side_by_side),
    "nearest": Kind("distilled images above the nearest real ones", images.nearest),
}
