"""The paper's tables as Markdown and as plain values for JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from harness.core.errors import UnknownNameError, UserError
from harness.core.text import MISSING, count, memory, seconds, table
from harness.engine.protocol import TUNED
from harness.engine.records import Record, ran_on
from harness.perf.steps import PLAIN, StepSheet
from harness.report.benchmarks import measured_on
from harness.report.paper.cells import (
    DATASETS,
    IPCS,
    NOT_HERE,
    SCALE,
    PaperCell,
    RecordIndex,
    Spec,
    is_here,
)
from harness.report.protocols import REGIMES
from harness.report.reported import (
    ALL_IMAGES,
    CROSS_NETWORKS,
    OTHER,
    UNTRACED,
    FiguresByNetwork,
    NetworkKey,
    ReportedFigure,
    SoftFigures,
    methods_of,
    sources,
)
from harness.report.standing import told_cost

NAMES = ("main", "cross", "terms", "lambda", "cost")
SOFT = "soft"  # the table of the other regimes, no part of the paper
FILLED = (*NAMES, SOFT)  # what `--missing` lists and `--run` runs
TITLES = {
    "main": "Main comparison",
    "cross": "Cross-architecture",
    "terms": "Ablation of the terms of the loss",
    "lambda": "Ablation of lambda, the weight of the total variation",
    "cost": "Cost",
}
COLUMNS = ("", " reported", " gap")  # of each cell
CROSS_COLUMNS = ("", f" {TUNED}", *COLUMNS[1:])
ABLATED = "cifar10"
COMPARED = ("dm", "idm", "bacon")  # the methods of the authors' own table
# What each row of the ablation leaves in: settings of methods/bacon.py and methods/idm.py.
TERMS: dict[str, tuple[str, Mapping[str, float]]] = {
    "likelihood + total variation + cross entropy: bacon": ("bacon", {}),
    "... and the CLIP prior as the paper writes it: bacon@paper": ("bacon@paper", {}),
    "without total variation": ("bacon", {"tv_weight": 0.0}),
    "without cross entropy": ("bacon", {"ce_weight": 0.0}),
    "likelihood alone": ("bacon", {"ce_weight": 0.0, "tv_weight": 0.0}),
    "distance of the means in place of both: idm": ("idm", {}),
    "BACON's distance in DM's loop, no cross entropy: dm+bacon": ("dm+bacon", {}),
    "DM's loop and distance: dm": ("dm", {}),
}
PUBLISHED_LAMBDA = 0.8
LAMBDAS = (0.0, 0.2, 0.4, 0.6, PUBLISHED_LAMBDA, 1.0)
NO_FIGURES = "harness/report/data/reported.csv holds no figure of the paper for this table."

INTRODUCTION = f"""\
# The BACON paper's tables

Zhou, Zhao, Cheng, Feng & Wang, *BACON: Bayesian Optimal Condensation Framework for Dataset Distillation*
(arXiv 2406.01112), from the records of this repository, by `python -m harness paper`. Which cells are empty
and what fills them: `python -m harness paper --missing`.

- **measured**: records of the scale `{SCALE.name}` with the settings that `run` takes by itself, published
  ones where there are any, under protocol {SCALE.protocol}: test accuracy in percent, mean ± sample standard
  deviation over all networks, in brackets distillation seeds × networks trained on each distilled set
  ({SCALE.seeds}×{SCALE.evals} is complete).
- *not run*: there is no record; *cpu scale only*: there are records of the smaller track alone, whose
  accuracies do not compare and are left out; *other images only*: there are records of other images than most
  records of the dataset, by their fingerprints; *{NOT_HERE}*: papers print figures of a method that this
  harness lacks; a status word: trials ended without a result.
- **reported**: printed in the BACON authors' own table; {OTHER} reported by another paper; {UNTRACED} not yet
  traced to a printed source; {MISSING} none known.
- **gap**: measured less reported, in points; *z* is the gap in standard deviations that the paper prints."""
NOTES = {
    "cross": (
        f"Sets are distilled by {SCALE.arch}, here and in the papers; columns are the networks that are"
        " trained on them. Papers name no depth and not always the normalisation: VGG is taken for VGG11,"
        " ResNet for ResNet18, with instance norm. All networks have the protocol's learning rate, which was"
        f" chosen for {SCALE.arch} and need not suit the others; under {TUNED} it is chosen for each network,"
        f" on a part of train: `--protocol {SCALE.protocol}{TUNED}`. No paper prints figures of that."
    ),
    "terms": (
        f"Rows are commands of this harness. {NO_FIGURES} Methods of the main comparison show what is"
        " printed for them there. No setting leaves out the likelihood and keeps the total variation."
    ),
    "lambda": (
        f"Rows are values of `tv_weight` chosen here; {PUBLISHED_LAMBDA} is the published one. {NO_FIGURES}"
    ),
}

SOFT_TITLE = "Soft labels and teachers"
SOFT_NOTE = (
    "What papers print for sets with soft labels, in tables of their own: figures of two regimes do not"
    " compare. `network` is trained on the set, and for others than the ConvNet distilled it as well;"
    f" measured are sets by {SCALE.arch}, under {SCALE.protocols['stored']} or {SCALE.protocols['teacher']}"
    " unless the method's file names a protocol."
    f" Methods that this harness lacks are listed too, as {NOT_HERE}."
)
ELSEWHERE_TITLE = "Printed for other sets"
ELSEWHERE_NOTE = (
    "What papers print at other images per class or on other networks, of which no table above has a cell;"
    " `all` is the whole train split."
)
ALWAYS_SHOWN = "cifar10"  # the dataset whose cells are shown even when nothing was measured
COST_NOTE = (
    "Mean over seeds of one trial, memory the highest of any seed, by hardware; seconds of two machines do"
    " not compare. harness/report/data/reported.csv holds no cost that the paper prints."
)
STEP_NOTE = (
    "Seconds of one step at the authors' CIFAR-10 settings (ipc 10, ConvNet), ours in fp32 and a plain loop"
    " written the authors' way, from harness/report/data/steps:"
)

Fact: TypeAlias = Callable[[Record], Any]
COSTS: dict[str, Fact] = {
    "distill_seconds": lambda record: record.distill and record.distill.seconds,
    "evaluate_seconds": lambda record: record.evaluate and record.evaluate.seconds,
    "flops": lambda record: told_cost(record, "flops"),
    "peak_host_bytes": lambda record: record.distill and record.distill.peak_host_bytes,
    "peak_device_bytes": lambda record: record.distill and record.distill.peak_device_bytes,
}


@dataclass(frozen=True)
class CellFilter:
    """Which cells are asked for; None stands for all. UserError if a name is none of the paper's."""

    methods: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    ipcs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.datasets or ():
            if name not in DATASETS:
                raise UnknownNameError("dataset of the paper's tables", name, DATASETS)
        for ipc in self.ipcs or ():
            if ipc not in IPCS:
                raise UserError(f"--ipc {ipc}: the paper's tables have {', '.join(map(str, IPCS))}")

    def takes(self, spec: Spec) -> bool:
        """Whether a cell is asked for."""
        return (
            (self.methods is None or spec.method in self.methods)
            and (self.datasets is None or spec.dataset in self.datasets)
            and (self.ipcs is None or spec.ipc in self.ipcs)
        )


@dataclass(frozen=True)
class Tables:
    """All cells by the name of their table, with the label of their row.

    soft: those of other regimes, no part of the paper. elsewhere: printed figures that have no cell.
    """

    cells: Mapping[str, Sequence[tuple[str, PaperCell]]]
    sheets: Sequence[StepSheet] = ()
    soft: Sequence[PaperCell] = ()
    elsewhere: Sequence[PaperCell] = ()

    def to_fill(self, name: str) -> list[PaperCell]:
        """The cells of a table that trials of this harness can fill."""
        cells = self.soft if name == SOFT else [cell for _, cell in self.cells[name]]
        # Other networks of the table of other regimes have distilled the sets too.
        return [cell for cell in cells if cell.here and (name != SOFT or cell.spec.arch == SCALE.arch)]

    def not_here(self) -> list[str]:
        """Methods with cells that this harness lacks."""
        cells = [*(cell for part in self.cells.values() for _, cell in part), *self.soft]
        return sorted({cell.spec.method for cell in cells if not cell.here})


def make_tables(
    records: Iterable[Record],
    figures: FiguresByNetwork,
    cell_filter: CellFilter,
    sheets: Sequence[StepSheet] = (),
    soft: SoftFigures | None = None,
) -> Tables:
    """The cells that are asked for; UserError if there is none."""
    index = RecordIndex(records)
    cells = {
        name: [
            (label, index.cell(spec, figures))
            for label, spec in specs(name, figures)
            if cell_filter.takes(spec)
        ]
        for name in NAMES
    }
    others = _soft_cells(index, soft or {}, cell_filter)
    placed = {cell.spec.key for part in cells.values() for _, cell in part}
    elsewhere = [] if cell_filter.ipcs else _elsewhere(figures, soft or {}, placed, cell_filter)
    if not any(cells.values()) and not others:
        known = sorted(
            {spec.method for name in NAMES for _, spec in specs(name, figures)}
            | {key[0] for _, key in soft or {}}
        )
        for method in cell_filter.methods or ():
            if method not in known:
                raise UnknownNameError("method of the paper's tables", method, known)
        raise UserError("no cell of the paper's tables fits --methods, --dataset and --ipc; leave one out")
    return Tables(cells, sheets, others, elsewhere)


def _elsewhere(
    figures: FiguresByNetwork, soft: SoftFigures, placed: Collection[NetworkKey], cell_filter: CellFilter
) -> list[PaperCell]:
    """Printed figures that have no cell in the tables, by dataset, method and ipc."""
    hard: SoftFigures = {("hard", key): figure for key, figure in figures.items() if key not in placed}
    others = {key: figure for key, figure in soft.items() if key[1][2] not in IPCS}
    order = {name: place for place, name in enumerate(DATASETS)}
    found = [
        PaperCell(Spec(method, dataset, ipc, arch, regime=regime), figure, here=is_here(method))
        for (regime, (method, dataset, ipc, arch)), figure in {**hard, **others}.items()
    ]
    return sorted(
        (cell for cell in found if cell_filter.takes(cell.spec)),
        key=lambda cell: (
            order.get(cell.spec.dataset, len(order)),
            cell.spec.method,
            cell.spec.ipc,
            cell.spec.arch,
        ),
    )


def _soft_cells(index: RecordIndex, soft: SoftFigures, cell_filter: CellFilter) -> list[PaperCell]:
    """The cells of rows with a printed figure; only sets by the paper's own network are measured."""
    rows = dict.fromkeys((regime, key[1], key[0], key[3]) for regime, key in soft if key[2] in IPCS)
    wanted = [
        Spec(method, dataset, ipc, arch, regime=regime)
        for regime, dataset, method, arch in sorted(rows)
        for ipc in IPCS
    ]
    return [
        dataclasses.replace(
            index.cell(spec, {})
            if spec.arch == SCALE.arch
            else PaperCell(spec, None, here=is_here(spec.method)),
            figure=soft.get((spec.regime, spec.key)),
        )
        for spec in wanted
        if spec.dataset in DATASETS and cell_filter.takes(spec)
    ]


def specs(name: str, figures: FiguresByNetwork) -> list[tuple[str, Spec]]:
    """Cells of a table, row by row, each with the label of its row."""
    if name == "main":
        rows = [
            Spec(method, dataset, ipc)
            for dataset in DATASETS
            for method in _rows_of(dataset, figures)
            for ipc in IPCS
        ]
    elif name == "cross":
        rows = _cross_specs(figures)
    elif name == "cost":
        rows = [Spec(method, dataset, ipc) for dataset in DATASETS for method in COMPARED for ipc in IPCS]
    else:
        return _ablation(name)
    return [(spec.label, spec) for spec in rows]


def _rows_of(dataset: str, figures: FiguresByNetwork) -> list[str]:
    """Methods of the main table of a dataset; those that are not here only where a figure is printed."""
    printed = {key[0] for key in figures if key[1] == dataset and key[2] in IPCS}
    return [method for method in methods_of(figures, IPCS) if is_here(method) or method in printed]


def page(tables: Tables) -> str:
    """All tables in Markdown."""
    parts = [INTRODUCTION, *(_section(name, tables) for name in NAMES if tables.cells[name])]
    if tables.soft:
        parts.append(_soft_section(tables.soft))
    if tables.elsewhere:
        parts.append(_elsewhere_section(tables.elsewhere))
    cells = [
        *(cell for part in tables.cells.values() for _, cell in part),
        *tables.soft,
        *tables.elsewhere,
    ]
    shown = [cell.figure for cell in cells if cell.figure]
    if shown:
        listed = "\n".join(f"- {source}" for source in sources(shown))
        parts.append(f"## Sources of what is reported\n\n{listed}")
    return "\n\n".join(parts) + "\n"


def plain(tables: Tables) -> dict[str, list[dict[str, Any]]]:
    """The cells as values for JSON, by table; accuracies, gaps and printed figures are fractions."""
    found = {
        name: [_plain_cell(label, cell) for label, cell in tables.cells[name]]
        for name in NAMES
        if name != "cost"
    }
    return found | {
        "cost": _cost_rows([cell for _, cell in tables.cells["cost"]]),
        SOFT: [_plain_cell(cell.spec.label, cell) for cell in tables.soft],
        "elsewhere": [_plain_cell(cell.spec.label, cell) for cell in tables.elsewhere],
    }


def _cross_specs(figures: FiguresByNetwork) -> list[Spec]:
    """BACON, IDM and whatever has printed figures on other networks, on the networks of such tables."""
    printed = {(key[0], key[2]) for key in figures if key[3] in CROSS_NETWORKS.values() and key[1] == ABLATED}
    compared = {(method, ipc) for method in COMPARED for ipc in IPCS[1:]}
    order = methods_of(figures, IPCS)
    pairs = sorted(
        ((method, ipc) for method, ipc in printed | compared if method in order and ipc in IPCS),
        key=lambda pair: (pair[1], order.index(pair[0])),
    )
    networks = (SCALE.arch, *dict.fromkeys(CROSS_NETWORKS.values()))
    return [Spec(method, ABLATED, ipc, arch) for method, ipc in pairs for arch in networks]


def _ablation(name: str) -> list[tuple[str, Spec]]:
    rows: Iterable[tuple[str, tuple[str, Mapping[str, float]]]] = TERMS.items()
    if name == "lambda":
        rows = [
            (f"{value}", ("bacon", {} if value == PUBLISHED_LAMBDA else {"tv_weight": value}))
            for value in LAMBDAS
        ]
    return [
        (label, Spec(method, ABLATED, ipc, settings=tuple(sorted(settings.items()))))
        for label, (method, settings) in rows
        for ipc in IPCS
    ]


def _section(name: str, tables: Tables) -> str:
    cells = tables.cells[name]
    if name == "main":
        body = "\n\n".join(
            f"### {dataset}\n\n{_by_ipc(part, 'method')}"
            for dataset in DATASETS
            if (part := [pair for pair in cells if pair[1].spec.dataset == dataset])
        )
    elif name == "cross":
        body = _by_network(cells)
    elif name == "cost":
        body = _cost_markdown([cell for _, cell in cells], tables.sheets)
    else:
        body = _by_ipc(cells, "terms" if name == "terms" else "lambda")
    note = f"\n\n{NOTES[name]}" if name in NOTES else ""
    place = f", {ABLATED}" if name in ("cross", "terms", "lambda") else ""
    return f"## {TITLES[name]}{place}\n\n{body}{note}"


def _soft_section(cells: Sequence[PaperCell]) -> str:
    """A table for each dataset and regime, a row for each method and network."""
    parts = []
    for dataset in DATASETS:
        for regime, words in REGIMES.items():
            mine = [cell for cell in cells if (cell.spec.dataset, cell.spec.regime) == (dataset, regime)]
            if mine:
                parts.append(f"### {dataset}, {words}\n\n{_by_method_and_network(mine)}")
    return "\n\n".join([f"## {SOFT_TITLE}", SOFT_NOTE, *parts])


def _elsewhere_section(cells: Sequence[PaperCell]) -> str:
    """One row for each method, dataset, network and regime, with its figures by ipc."""
    ipcs = sorted({cell.spec.ipc for cell in cells}, key=lambda ipc: (ipc == ALL_IMAGES, ipc))
    rows: dict[tuple[str, ...], dict[int, ReportedFigure]] = defaultdict(dict)
    for cell in cells:
        spec, words = cell.spec, REGIMES.get(cell.spec.regime, "hard labels")
        method = spec.method if cell.here else f"{spec.method} ({NOT_HERE})"
        if cell.figure is not None:
            rows[spec.dataset, method, spec.arch, words][spec.ipc] = cell.figure
    headers = ["dataset", "method", "network", "labels"]
    headers += ["all" if ipc == ALL_IMAGES else f"ipc {ipc}" for ipc in ipcs]
    texts = [
        [*row, *(_beside(row[2], found[ipc]) if ipc in found else MISSING for ipc in ipcs)]
        for row, found in rows.items()
    ]
    return "\n\n".join([f"## {ELSEWHERE_TITLE}", ELSEWHERE_NOTE, table(headers, texts, text_columns=4)])


def _by_method_and_network(cells: Sequence[PaperCell]) -> str:
    found = {(cell.spec.method, cell.spec.arch, cell.spec.ipc): cell for cell in cells}
    ipcs = sorted({ipc for _, _, ipc in found})
    headers = ["method", "network", *(f"ipc {ipc}{what}" for ipc in ipcs for what in COLUMNS)]
    rows = []
    for method, arch in dict.fromkeys((method, arch) for method, arch, _ in found):
        texts = [
            text
            for ipc in ipcs
            for cell in (found[method, arch, ipc],)
            for text in (cell.text, _printed_with_network(cell), cell.gap_text)
        ]
        rows.append([method, arch, *texts])
    return table(headers, rows, text_columns=2)


def _printed_with_network(cell: PaperCell) -> str:
    """What is printed, with the network where the row's is another ConvNet."""
    return MISSING if cell.figure is None else _beside(cell.spec.arch, cell.figure)


def _beside(arch: str, figure: ReportedFigure) -> str:
    """A figure in a row of that network."""
    return figure.text if arch == SCALE.arch else figure.bare_text


def _by_ipc(cells: Sequence[tuple[str, PaperCell]], corner: str) -> str:
    """A row for each label; measured, reported and gap for each ipc."""
    found = {(label, cell.spec.ipc): cell for label, cell in cells}
    ipcs = sorted({ipc for _, ipc in found})
    headers = [corner, *(f"ipc {ipc}{what}" for ipc in ipcs for what in COLUMNS)]
    labels = dict.fromkeys(label for label, _ in found)
    return table(headers, [[label, *_texts(found[label, ipc] for ipc in ipcs)] for label in labels])


def _by_network(cells: Sequence[tuple[str, PaperCell]]) -> str:
    found = {(cell.spec.ipc, label, cell.spec.arch): cell for label, cell in cells}
    networks = list(dict.fromkeys(arch for _, _, arch in found))
    headers = ["method", "ipc", *(f"{arch}{what}" for arch in networks for what in CROSS_COLUMNS)]
    rows = [
        [label, str(ipc), *(text for arch in networks for text in _beside_tuned(found[ipc, label, arch]))]
        for ipc, label in dict.fromkeys((ipc, label) for ipc, label, _ in found)
    ]
    return table(headers, rows)


def _texts(cells: Iterable[PaperCell]) -> list[str]:
    return [text for cell in cells for text in (*_pair(cell), cell.gap_text)]


def _beside_tuned(cell: PaperCell) -> list[str]:
    measured, *rest = _texts([cell])
    return [measured, cell.tuned.text if cell.tuned else MISSING, *rest]


def _pair(cell: PaperCell) -> tuple[str, str]:
    return cell.text, cell.figure.text_beside_bacon if cell.figure else MISSING


def _plain_cell(label: str, cell: PaperCell) -> dict[str, Any]:
    figure = cell.figure
    printed = figure and {
        "mean": figure.mean,
        "std": figure.std,
        "arch": figure.arch,
        "source": figure.source,
        "note": figure.note,
        "by_another_paper": not figure.own,
    }
    return {
        "row": label,
        **dataclasses.asdict(cell.spec),
        "settings": dict(cell.spec.settings),
        "state": cell.state,
        "measured": cell.measured and dataclasses.asdict(cell.measured),
        "tuned": cell.tuned and cell.tuned.measured and dataclasses.asdict(cell.tuned.measured),
        "reported": printed,
        "gap": cell.gap,
        "z": cell.z,
    }


def _cost_rows(cells: Iterable[PaperCell]) -> list[dict[str, Any]]:
    """One row for each cell and hardware; unknown facts are null, unmeasured cells have a state."""
    rows = []
    for cell in cells:
        places: dict[str | None, list[Record]] = defaultdict(list)
        for record in cell.done:
            places[ran_on(record)].append(record)
        for place, records in (places or {None: []}).items():
            facts = {name: _gathered(name, fact, records) for name, fact in COSTS.items()}
            spec = {"method": cell.spec.method, "dataset": cell.spec.dataset, "ipc": cell.spec.ipc}
            rows.append(spec | {"state": cell.state, "hardware": place, "seeds": len(records)} | facts)
    return rows


def _cost_markdown(cells: Sequence[PaperCell], sheets: Sequence[StepSheet]) -> str:
    """The table of trials, then that of steps if any was kept of these methods."""
    shown = [cell for cell in cells if cell.done or cell.spec.dataset == ALWAYS_SHOWN]
    headers = ["dataset", "method", "hardware", "ipc", "seeds", "distillation (s)", "evaluation (s)"]
    headers += ["FLOPs", "peak host memory", "peak device memory"]
    rows = [
        [
            row["dataset"],
            row["method"],
            row["hardware"] or f"*{row['state']}*",
            str(row["ipc"]),
            str(row["seeds"] or MISSING),
            seconds(row["distill_seconds"]),
            seconds(row["evaluate_seconds"]),
            count(row["flops"]),
            memory(row["peak_host_bytes"]),
            memory(row["peak_device_bytes"]),
        ]
        for row in _cost_rows(shown)
    ]
    steps = _steps({cell.spec.method for cell in cells}, sheets)
    return "\n\n".join(
        part for part in (table(headers, rows, text_columns=3) if rows else "", COST_NOTE, steps) if part
    )


def _gathered(name: str, fact: Fact, records: Iterable[Record]) -> float | None:
    known = [value for value in map(fact, records) if value is not None]
    if not known:
        return None
    return max(known) if name.startswith("peak") else statistics.fmean(known)


def _steps(methods: set[str], sheets: Iterable[StepSheet]) -> str:
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for sheet in sheets:
        for step in sheet.steps:
            if step.method in methods:
                found[step.method, measured_on(sheet)][step.variant] = step.seconds
    rows = [
        [method, place, *(f"{known[name]:.3g}" if name in known else MISSING for name in (PLAIN, "fp32"))]
        for (method, place), known in sorted(found.items())
    ]
    return f"{STEP_NOTE}\n\n{table(['method', 'hardware', 'plain loop', 'ours'], rows, 2)}" if rows else ""
