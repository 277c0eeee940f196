"""Accuracies that papers print, from `data/reported.csv`: facts about papers, never measured here."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import methods
from harness.core.packaged import packaged
from harness.core.regime import Regime
from harness.core.text import plus_minus

REPORTED_CSV = packaged("harness.report", "data", "reported.csv")
PREFERRED = "preferred"  # notes of the figures that stand for their cell begin so
SUSPECT = "suspect"  # notes of figures that seem to be slips begin so
UNTRACED = "†"  # marks what cannot be looked up
OTHER = "‡"  # in the BACON paper's tables: marks what another paper prints
ALL_IMAGES = 0  # stands for the ipc of figures on the whole train split, "all" in the file
BACON_AUTHORS = "zhouzhengqd/BACON"  # in the source of what BACON's authors print
CURRENT = "(current"  # ... in the latest revision of their table
# What a figure's labels say of its regime; labels of which the paper says nothing say nothing.
REGIME_OF: Mapping[str, Regime] = {
    "hard": "hard",
    "soft-learned": "stored",
    "soft-stored": "stored",
    "soft-teacher": "teacher",
}
# Networks of the cross-architecture tables, which give no depth: the field's usual ones.
CROSS_NETWORKS = {"AlexNet": "AlexNet", "VGG": "VGG11", "ResNet": "ResNet18"}


def z_text(z: float | None) -> str:
    """How many printed spreads ours is off, to be put behind a figure: ` (z -1.7)`; "" for None."""
    return "" if z is None else f" (z {z:+.1f})"


@dataclass(frozen=True)
class ReportedFigure:
    """One figure as printed: percent, with the network it was obtained with and where it is printed.

    label: `hard`, `soft-learned` with the images, `soft-stored` by a network, `soft-teacher` at every batch,
    or `unclear`. note: what is to be known of the figure.
    """

    accuracy_mean: str
    accuracy_std: str
    arch: str
    source: str
    label: str = ""
    note: str = ""

    @property
    def mean(self) -> float:
        """The accuracy as a fraction in [0, 1]."""
        return float(self.accuracy_mean) / 100

    @property
    def std(self) -> float | None:
        """Its spread as a fraction; None if none is printed."""
        return float(self.accuracy_std) / 100 if self.accuracy_std else None

    def z(self, accuracy: float) -> float | None:
        """How many of its spreads an accuracy in [0, 1] is above it; None if none is printed."""
        return (accuracy - self.mean) / self.std if self.std else None

    @property
    def regime(self) -> Regime | None:
        """What networks were told of the images' classes; None if that is not clear."""
        return REGIME_OF.get(self.label)

    @property
    def preferred(self) -> bool:
        """Whether it stands for its method, dataset and ipc."""
        return self.note.startswith(PREFERRED)

    @property
    def suspect(self) -> bool:
        """Whether it seems to be a slip."""
        return self.note.startswith(SUSPECT)

    @property
    def traced(self) -> bool:
        """Whether the source can be looked up."""
        return self.source != "recalled"

    @property
    def own(self) -> bool:
        """Whether it stands in the BACON authors' own table."""
        return BACON_AUTHORS in self.source

    @property
    def bare_text(self) -> str:
        """As printed, marked if its source cannot be looked up."""
        return f"{self.printed}{self._mark}"

    @property
    def text(self) -> str:
        """The same with the network where it is not the plain ConvNet."""
        arch = "" if self.arch == "ConvNet" else f" ({self.arch})"
        return f"{self.printed}{arch}{self._mark}"

    @property
    def text_beside_bacon(self) -> str:
        """As the BACON paper's tables here show it: with its network, marked if by another paper.

        What stands for its method there is by that method's own network, whichever it is.
        """
        shown_above = self.arch == "ConvNet" or (self.arch in CROSS_NETWORKS and not self.preferred)
        arch = "" if shown_above else f" ({self.arch})"
        return f"{self.printed}{arch}{'' if self.own else OTHER}{self._mark}"

    @property
    def printed(self) -> str:
        """As printed, in percent: `45.2 ± 0.3`, or the mean alone."""
        return plus_minus(self.accuracy_mean, self.accuracy_std)

    @property
    def _mark(self) -> str:
        return "" if self.traced else UNTRACED


ReportedFigures: TypeAlias = Mapping[tuple[str, str, int], ReportedFigure]
NetworkKey: TypeAlias = tuple[str, str, int, str]
FiguresByNetwork: TypeAlias = Mapping[NetworkKey, ReportedFigure]
SoftFigures: TypeAlias = Mapping[tuple[Regime, NetworkKey], ReportedFigure]


class _Line(NamedTuple):
    """A line of the file: the method as the paper calls it, but for hyphens; dataset in small letters."""

    method: str
    dataset: str
    ipc: int
    figure: ReportedFigure


def load_reported(path: Path = REPORTED_CSV) -> ReportedFigures:
    """Preferred figures by (method, dataset, ipc) in this harness's names.

    Those on the whole train split stand under the ipc `ALL_IMAGES`.
    """
    known = set(methods.discover())
    return {
        (_variant(line.method, known), line.dataset, line.ipc): line.figure
        for line in _lines(path)
        if line.figure.preferred
    }


def fitting(figures: ReportedFigures, regime: str) -> ReportedFigures:
    """Those figures that may stand beside networks that were trained in that regime.

    Protocols for hard labels take soft ones where a set has them, so that only a teacher is another matter.
    """
    if regime == "hard":
        return {key: figure for key, figure in figures.items() if figure.regime != "teacher"}
    return {key: figure for key, figure in figures.items() if figure.regime in (None, regime)}


def load_by_network(path: Path = REPORTED_CSV) -> dict[NetworkKey, ReportedFigure]:
    """The figure of each (method, dataset, ipc, network) of the BACON paper, in this harness's names.

    Figures with soft labels, stored or by a teacher, are left to `load_soft`. Methods are in this harness's
    names, whether it has them or not; what is on the whole train split has the ipc `ALL_IMAGES`.
    Of several, the authors' current table goes before their older ones, and these before other papers'
    preferred figures, and these before their others. The network is ConvNet for whatever ConvNet a figure was
    obtained with, and for whatever network the preferred figure of a method was.
    """
    known = set(methods.discover())
    wanted = [line for line in _lines(path) if _belongs(line.figure)]
    found: dict[NetworkKey, ReportedFigure] = {}
    for line in sorted(wanted, key=lambda line: _rank(line.figure)):
        arch = "ConvNet" if line.figure.preferred else CROSS_NETWORKS.get(line.figure.arch, "ConvNet")
        found.setdefault((_variant(line.method, known), line.dataset, line.ipc, arch), line.figure)
    return found


def load_soft(path: Path = REPORTED_CSV) -> dict[tuple[Regime, NetworkKey], ReportedFigure]:
    """Figures with soft labels, by their regime and as `load_by_network`: the preferred one, else the first.

    The network is ConvNet for whatever ConvNet, and for whatever network the preferred figure of a method
    with stored labels was obtained with; else what the paper calls it. Methods are in this harness's names,
    whether it has them or not.
    """
    known = set(methods.discover())
    found: dict[tuple[Regime, NetworkKey], ReportedFigure] = {}
    for method, dataset, ipc, figure in sorted(_lines(path), key=lambda line: not line.figure.preferred):
        if figure.regime in ("stored", "teacher") and ipc != ALL_IMAGES and not figure.suspect:
            own = figure.regime == "stored" and figure.preferred
            arch = "ConvNet" if own or _is_convnet(figure.arch) else figure.arch
            found.setdefault((figure.regime, (_variant(method, known), dataset, ipc, arch)), figure)
    return found


def methods_of(
    figures: FiguresByNetwork, ipcs: Collection[int] | None = None, arch: str = "ConvNet"
) -> list[str]:
    """Methods with a figure for that network, here or not: others first, BACON last as in its paper."""
    shown = {key[0] for key in figures if key[3] == arch and (ipcs is None or key[2] in ipcs)}
    own = {key[0] for key, figure in figures.items() if figure.own}
    return sorted(shown, key=lambda name: (name in own, name == "bacon", name))


def sources(figures: Iterable[ReportedFigure]) -> list[str]:
    """Sources of these figures, each once, sorted."""
    return sorted({figure.source for figure in figures})


def _lines(path: Path) -> list[_Line]:
    """The lines whose images per class are a number or all."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ipc"].isdigit() or row["ipc"] == "all"]
    return [
        _Line(
            method=row["method"].replace("-", ""),
            dataset=row["dataset"].lower(),
            ipc=ALL_IMAGES if row["ipc"] == "all" else int(row["ipc"]),
            figure=ReportedFigure(
                row["accuracy_mean"],
                row["accuracy_std"],
                row["arch"],
                row["source"],
                row["label"],
                row["note"],
            ),
        )
        for row in rows
    ]


def _belongs(figure: ReportedFigure) -> bool:
    """Whether a figure may stand in the BACON paper's tables."""
    if figure.regime in ("stored", "teacher") or figure.suspect:
        return False
    return figure.own or figure.arch in CROSS_NETWORKS or figure.preferred or _is_convnet(figure.arch)


def _is_convnet(arch: str) -> bool:
    """Whether a network is a ConvNet; kernels of infinitely wide ones are none."""
    return arch.startswith("ConvNet") and "NTK" not in arch


def _rank(figure: ReportedFigure) -> int:
    if not figure.own:
        return 3 if figure.preferred or figure.arch in CROSS_NETWORKS else 4
    # Of two older revisions the later one is preferred, or says so.
    return 0 if CURRENT in figure.source else 1 if figure.note.startswith((PREFERRED, "later")) else 2


def _variant(name: str, known: Collection[str]) -> str:
    """A method's name as it is called here: cafe_dsa is cafe@dsa, random_soft is random@soft."""
    variant = name.replace("_", "@", 1)
    base, _, rule = variant.partition("@")
    there = variant in known or (base in known and rule == methods.SOFT)
    return variant if name not in known and there else name
