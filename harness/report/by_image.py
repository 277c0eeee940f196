"""The part of `compare` about single test images, where both sides kept their networks' predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from harness.core.errors import UserError
from harness.core.text import MISSING, percent, plural, table
from harness.engine.predictions import Predictions, predictions_path, read_predictions
from harness.engine.records import Record
from harness.report.paired import FEW_DISCORDANT, McNemar, Paired, Resampled, compare_predictions

Paths: TypeAlias = Mapping[str, Path]  # of prediction files, by the ids of their records

LEGEND = (
    "By test image, from what the networks predicted: A - B with the 95 % interval and the p of no"
    " difference of a paired bootstrap over seeds and test images; the images that only A's or only B's"
    f" majority vote gets right, with McNemar's test (exact binomial below {FEW_DISCORDANT} of them, else"
    " chi-squared with continuity correction); how many predictions agree, and Cohen's kappa, which is"
    " without what chance gives; of A's errors those that B makes too, and those with the same wrong"
    " class."
)
HEADERS = (
    "ipc",
    "seeds",
    "A - B",
    "95 % interval",
    "p",
    "only A right",
    "only B right",
    "McNemar p",
    "agreement",
    "kappa",
    "errors shared",
    "same class",
)
TOLERANCE = 1e-6  # of an accuracy that was written in decimals


def kept(records: Iterable[Record], results: Path) -> Paths:
    """The prediction files that lie beside these records."""
    paths = {record.id: predictions_path(record, results) for record in records if record.status == "done"}
    return {name: path for name, path in paths.items() if path.is_file()}


def compare_images(a: Sequence[Record], b: Sequence[Record], kept_a: Paths, kept_b: Paths) -> Paired | None:
    """What the predictions of one cell say; None if no seed has them on both sides.

    UserError if a file is no such file or not that of its record, or the test images differ.
    """
    ours = {record.trial.seed: record for record in a if record.id in kept_a}
    theirs = {record.trial.seed: record for record in b if record.id in kept_b}
    shared = ours.keys() & theirs.keys()
    if not shared:
        return None
    return compare_predictions(
        {seed: _read(ours[seed], kept_a) for seed in shared},
        {seed: _read(theirs[seed], kept_b) for seed in shared},
    )


def images_table(cells: Sequence[tuple[int, str, Paired]]) -> str:
    """A row for each (ipc, method, what was found), methods named where there are any."""
    rows = [[str(ipc), *_texts(found)] for ipc, _, found in cells]
    if not any(method for _, method, _ in cells):
        return table(HEADERS, rows, text_columns=0)
    named = [[method, *row] for (_, method, _), row in zip(cells, rows, strict=True)]
    return table(["method", *HEADERS], named)


def coverage(compared: int, cells: int) -> str:
    """In how many cells single test images could be compared."""
    if not compared:
        return "no test image is compared by itself: no cell has both sides' predictions beside its records"
    share = f"{compared} of {plural(cells, 'cell')}"
    return f"test images are compared in {share}, where both sides' predictions are there"


def _read(record: Record, paths: Paths) -> Predictions:
    path = paths[record.id]
    found = read_predictions(path)
    accuracies = found.right.mean(axis=1)
    if len(accuracies) != len(record.accuracies) or not np.allclose(
        accuracies, record.accuracies, rtol=0, atol=TOLERANCE
    ):
        raise UserError(f"{path} is not of its record, whose accuracies differ; move it away or delete it")
    return found


def _texts(found: Paired) -> list[str]:
    return [
        str(found.seeds),
        _points(found.resampled.difference),
        _interval(found.resampled),
        _p(found.resampled.p),
        str(found.mcnemar.only_a),
        str(found.mcnemar.only_b),
        _test(found.mcnemar),
        f"{percent(found.agreement.share)} %",
        MISSING if found.agreement.kappa is None else f"{found.agreement.kappa:.2f}",
        _share(found.errors.shared),
        _share(found.errors.same_class),
    ]


def _points(fraction: float) -> str:
    """Percentage points with their sign; nothing is `+0.0`."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def _interval(found: Resampled) -> str:
    if found.low is None or found.high is None:
        return MISSING
    return f"{_points(found.low)} to {_points(found.high)}{'' if not found.note else ' (images only)'}"


def _test(found: McNemar) -> str:
    return f"{_p(found.p)} ({found.test})"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _share(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{percent(fraction)} %"
