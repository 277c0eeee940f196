"""BENCHMARKS.md: a pure function of the records and of what the golden tests showed, checked by its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.protocol import PROTOCOL_VERSION, PROTOCOLS, Protocol, Schedule
from harness.records import Record
from harness.report.fidelity import Fidelity, fidelity_markdown, load_fidelity
from harness.report.frames import collect
from harness.report.markdown import MISSING, plural, table
from harness.report.reported import ReportedFigures, load_reported
from harness.report.speed import load_sheets, speed_section
from harness.report.tables import Tables, hardware, tables_by_track, with_legend
from harness.scales import SCALES
from harness.steps import Sheet

INTRODUCTION = """\
# Benchmarks

Which method makes the most accurate small dataset, and at what cost? Every method below was distilled and
evaluated by this repository; no figure was typed by hand. This page is generated from the files under
`results/` by `python -m harness report`, and `python -m harness report --check` fails when the two differ."""

RULES = """\
## How the figures are made

- **One trial** is one method, dataset, ipc (stored synthetic images per class) and seed. It leaves one
  record, with every single accuracy, its costs and its circumstances ([the fields](results/README.md)).
- **Evaluation.** Fresh random networks are trained on the distilled set alone, under the protocol that the
  table names. The accuracy is that of the last epoch: no checkpoint is chosen by test accuracy.
- **Firewall.** The test split is opened once in a trial, after the last network has been trained. Code that
  touches it during distillation or training fails.
- **Never mixed.** Scale, protocol and its version, network, precision, image size, whitening and compute
  budget are equal within a table. A method that ran with several settings has a row for each.
- **Uncertainty.** Seeds differ in the distilled set, networks only in its evaluation: intervals, ties and
  ranks rest on the seeds, paired between methods. The legend below says how.
- **Ceiling.** `whole` trains on all images under the same protocol. *Not run* says that its gap is unknown.
- **Reported.** Figures in *reported* columns are printed by papers. They come from the papers' own settings
  and code at paper scale and stand there for orientation; a cpu-scale figure is expected to differ.
- **Cost** is measured in the same run: seconds with a synchronised clock, peak memory by phase, FLOPs
  counted on the first step of each loop and multiplied by its steps."""


def benchmarks_markdown(results: Path) -> str:
    """The page for the records under `results`; UserError names the first file that is no record."""
    collection = collect(results)
    if collection.problems:
        raise UserError(collection.problems[0])
    return page(collection.records, load_reported(), load_fidelity(), load_sheets())


def page(
    records: Iterable[Record],
    reported: ReportedFigures,
    fidelity: Fidelity,
    sheets: Iterable[Sheet] = (),
    tables: Tables | None = None,
) -> str:
    """The page for these records, of which only those of leaderboard scales count, and sheets of steps.

    `tables` are those of all the records, if they are made already.
    """
    shown = [record for record in records if _on_leaderboard(record.trial.scale)]
    made = tables_by_track(shown, reported) if tables is None else tables
    made = {track: text for track, text in made.items() if _on_leaderboard(track.scale)}
    body = with_legend(made, level=3) if shown else "No records yet.\n"
    parts = [
        INTRODUCTION,
        RULES,
        _scales(),
        _protocols(shown),
        f"## Results\n\n{body}".rstrip(),
        fidelity_markdown(fidelity),
        speed_section(sheets),
        _origin(shown),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _on_leaderboard(name: str) -> bool:
    scale = SCALES.get(name)
    return scale is not None and scale.leaderboard


def _scales() -> str:
    rows = [
        [scale.name, scale.summary, scale.arch, scale.protocol, str(scale.evals), str(scale.seeds)]
        for scale in SCALES.values()
        if scale.leaderboard
    ]
    headers = ["scale", "what it is", "network", "protocol", "networks per distilled set", "seeds"]
    note = (
        "Each scale is its own track with these defaults. A method's own settings at a scale stand in its"
        " file under `methods/`, and the column *settings* of the cost tables says where those of a trial"
        " come from."
    )
    return f"## Scales\n\n{table(headers, rows, text_columns=4)}\n\n{note}"


def _protocols(records: Sequence[Record]) -> str:
    """Every protocol that a leaderboard scale or a shown record names, in words."""
    named = {(scale.protocol, PROTOCOL_VERSION) for scale in SCALES.values() if scale.leaderboard}
    named |= {(record.trial.protocol, record.trial.protocol_version) for record in records}
    return "## Protocols\n\n" + "\n".join(_protocol_line(*name) for name in sorted(named))


def _protocol_line(name: str, version: str) -> str:
    if version != PROTOCOL_VERSION or name not in PROTOCOLS:
        return f"- **{name} {version}**: not the version that this code runs; see the commit in its records."
    return f"- **{name} {version}** ({PROTOCOLS[name].summary}): {_in_words(PROTOCOLS[name])}"


def _in_words(protocol: Protocol) -> str:
    schedule, plain = protocol.schedule(), protocol.schedule(augmented=False)
    fewer = f" ({plain.epochs} for sets that call for no augmentation)" if plain != schedule else ""
    restart = " and the optimiser starts afresh" if schedule.restarts else ""
    return (
        f"{schedule.epochs} epochs of SGD{fewer} with learning rate {protocol.lr:g}, or the one that was"
        f" distilled along with the set, momentum {protocol.momentum:g}, weight decay"
        f" {protocol.weight_decay:g} and batches of {protocol.batch}; from epoch index"
        f" {_drops(schedule, plain)} on the rate is multiplied by {schedule.decay:g}{restart}. "
        + _augmentation_in_words(protocol)
    )


def _drops(schedule: Schedule, plain: Schedule) -> str:
    """Where the rate falls: `502 (152)`, `666 and again from 833`."""
    drops = " and again from ".join(map(str, schedule.drops))
    return drops if plain == schedule else f"{drops} ({' and again from '.join(map(str, plain.drops))})"


def _augmentation_in_words(protocol: Protocol) -> str:
    if protocol.augmentation is None:
        return (
            "Training images get the augmentation that the distilled set calls for: DSA's, one operation a"
            " batch, drawn for each image, or DC's own, where each image has an operation of its own."
        )
    mixed = f", then CutMix in {protocol.cutmix:.0%} of the batches" if protocol.cutmix else ""
    return (
        f"Training images get `{protocol.augmentation}` whatever the set calls for (flip left out for"
        f" digits): of each stage one operation a batch, drawn for each image{mixed}."
    )


def _origin(records: Sequence[Record]) -> str:
    """How many records there are, and what those with figures were made on."""
    statuses = Counter(record.status for record in records)
    states = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    total = f"{plural(len(records), 'record')}{f' ({states})' if states else ''}."
    made = Counter(_circumstances(record) for record in records if record.status == "done")
    rows = [[*circumstances, str(number)] for circumstances, number in sorted(made.items())]
    headers = ["hardware", "torch", "python", "commit", "records"]
    return f"## Where the figures come from\n\n{total}" + (f"\n\n{table(headers, rows, 4)}" if rows else "")


def _circumstances(record: Record) -> tuple[str, str, str, str]:
    """Hardware, versions of torch and Python, and the commit, marked if the checkout held other changes."""
    provenance = record.provenance
    if provenance is None:
        return hardware(None), MISSING, MISSING, MISSING
    commit = (provenance.git_commit or MISSING)[:10] + (" + changes" if provenance.git_dirty else "")
    return hardware(provenance), provenance.torch, provenance.python, commit
