"""Columns that tell more than accuracy: gains over random images and towards all images, calibration.

All within one track, so under one evaluation; the figures are those of `harness.report.gains`, paired over
seeds. Only under hard labels is the ceiling of the track that of HLR and LRS.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from harness.core.text import MISSING
from harness.engine.protocol import regime_named
from harness.engine.records import FLOOR, SOFT_FLOOR, Record
from harness.report.formats import Block, Paragraph, Table, plain
from harness.report.gains import Accuracies, Gain, gains, score
from harness.report.standing import Key, Scored
from harness.report.stats import Groups
from harness.report.tracks import EMPTY, Cell, Row

STEPS = 1000  # for which the gain is given
HEADERS = ("method", "ipc", "IOR", "HLR", "LRS", "ARS", f"gain per {STEPS} steps", "calibration error")
LEGEND = (
    "IOR: points above as many random images under the same evaluation, in the same seeds; where networks are"
    f" told the soft labels of a set, random images with such labels ({SOFT_FLOOR}). HLR: points"
    " below training on all images under hard labels; fewer are better. LRS joins both, from 0 to 1"
    " (DD-Ranking). ARS joins IOR with IOR of the same sets without augmentation alike; random images have"
    f" {score(0):.3f}. The gain is IOR for each {STEPS} steps of the optimiser. Calibration error: how far"
    " the networks' certainty is from their accuracy, in points. In brackets 95 % intervals over the seeds."
)


def beyond_blocks(found: Scored) -> list[Block]:
    """The table of a track and what its columns mean; nothing where no random images were measured."""
    regime = protocol_regime(found)
    rows = [_row(key, found, regime) for key, cell in found.grid.items() if cell.groups]
    shown = [k for k, _ in enumerate(HEADERS) if k < 2 or any(row[k] != MISSING for row in rows)]
    if len(shown) == 2:
        return []
    table = Table([HEADERS[k] for k in shown], [[row[k] for k in shown] for row in rows])
    return [table, Paragraph(LEGEND)]


def _row(key: Key, found: Scored, regime: str) -> list[str]:
    row, ipc = key
    cell = found.grid[key]
    floor = found.grid.get((Row(SOFT_FLOOR if regime == "stored" else FLOOR, ""), ipc), EMPTY)
    own, random, hard = cell.groups, floor.groups, regime == "hard"
    steps = _one({record.optimizer_steps for record in cell.done})
    figures = gains(
        Accuracies(
            own=own,
            random=random,
            hard=own if hard else {},
            whole=found.ceiling.groups if hard else {},
            plain=_without_augmentation(cell, found),
            random_plain=_without_augmentation(floor, found),
            steps=steps,
        )
    )
    return [
        plain(row.label),
        str(ipc),
        _in(figures.ior, 100, 1),
        _in(figures.hlr, 100, 1),
        _in(figures.lrs, 1, 3),
        _in(figures.ars, 1, 3),
        _in(figures.per_step, 100 * STEPS, 1),
        _calibration(cell.done),
    ]


def protocol_regime(found: Scored) -> str:
    """What the networks of a track are told of the images; "" for a protocol that is not known any more."""
    recorded = {record.regime for record in found.records if record.regime is not None}
    if len(recorded) == 1:
        return str(recorded.pop())
    return regime_named(found.track.protocol) or ""


def _without_augmentation(cell: Cell, found: Scored) -> Groups:
    """Accuracies by seed of networks trained on a cell's sets without augmentation, as in `Scored.plain`."""
    if not found.plain:
        return {}  # as in most tracks; ids of ten thousand sets take a while
    sets = [(record.trial.seed, record.trial.distillation.id) for record in cell.done]
    return {seed: found.plain[made].accuracies for seed, made in sets if made in found.plain}


def _one(values: Iterable[int | None]) -> int | None:
    known = set(values)
    return known.pop() if len(known) == 1 else None


def _in(gain: Gain, unit: float, digits: int) -> str:
    """`3.1 [1.2, 5.0]` in a unit, or that it was not measured."""
    if gain.mean is None:
        return MISSING
    mean = f"{round(unit * gain.mean, digits) + 0.0:.{digits}f}"
    if gain.low is None or gain.high is None:
        return mean
    low, high = (f"{round(unit * bound, digits) + 0.0:.{digits}f}" for bound in (gain.low, gain.high))
    return f"{mean} [{low}, {high}]"


def _calibration(records: Sequence[Record]) -> str:
    errors = [error for record in records for error in record.calibration_errors]
    return f"{100 * statistics.fmean(errors):.1f}" if errors else MISSING
