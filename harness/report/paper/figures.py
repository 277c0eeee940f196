"""What is printed for a cell of the BACON paper: by its authors, or else by another paper."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import methods
from harness.report.reported import PREFERRED, REPORTED_CSV, UNTRACED

AUTHORS = "zhouzhengqd/BACON"  # in the source of what BACON's authors print
CURRENT = "(current"  # ... in the latest revision of their table
SUSPECT = "suspect"  # notes of figures that seem to be slips begin so
OTHER = "‡"  # marks what another paper prints
# Networks of the cross-architecture tables, which give no depth: the field's usual ones.
ZOO = {"AlexNet": "AlexNet", "VGG": "VGG11", "ResNet": "ResNet18"}

Key: TypeAlias = tuple[str, str, int, str]


@dataclass(frozen=True)
class Figure:
    """One printed accuracy as a fraction in [0, 1], with the network as printed and where it is printed.

    own: whether BACON's authors print it, in their own table.
    """

    mean: float
    std: float | None
    arch: str
    source: str
    note: str
    printed: str

    @property
    def own(self) -> bool:
        """Whether it stands in the BACON authors' own table."""
        return AUTHORS in self.source

    @property
    def text(self) -> str:
        """As printed, in percent, marked if by another paper or if its source cannot be looked up."""
        arch = "" if self.arch in ("ConvNet", *ZOO) else f" ({self.arch})"
        untraced = UNTRACED if self.source == "recalled" else ""
        return f"{self.printed}{arch}{'' if self.own else OTHER}{untraced}"


def load_figures(path: Path = REPORTED_CSV) -> dict[Key, Figure]:
    """The figure of each (method, dataset, ipc, network) in this harness's names.

    Of several, the authors' current table goes before their older ones, and these before other papers'
    preferred figures. The network is ConvNet for whatever ConvNet a figure was obtained with.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ipc"].isdigit()]
    known = set(methods.discover())
    found: dict[Key, Figure] = {}
    for row in sorted(filter(_wanted, rows), key=_rank):
        arch = ZOO.get(row["arch"], "ConvNet")
        key = _method(row["method"], known), row["dataset"].lower(), int(row["ipc"]), arch
        found.setdefault(key, _figure(row))
    return found


def methods_of(figures: Mapping[Key, Figure], arch: str = "ConvNet") -> list[str]:
    """Methods of this harness with a figure for that network: others first, BACON last as in its paper."""
    known = set(methods.discover())
    shown = {key[0] for key in figures if key[0] in known and key[3] == arch}
    own = {key[0] for key, figure in figures.items() if figure.own}
    return sorted(shown, key=lambda name: (name in own, name == "bacon", name))


def sources(figures: Iterable[Figure]) -> list[str]:
    """Sources of these figures, each once, sorted."""
    return sorted({figure.source for figure in figures})


def _wanted(row: Mapping[str, str]) -> bool:
    own = AUTHORS in row["source"] and not row["note"].startswith(SUSPECT)
    return own or row["arch"] in ZOO or row["note"].startswith(PREFERRED)


def _rank(row: Mapping[str, str]) -> int:
    if AUTHORS not in row["source"]:
        return 3
    # Of two older revisions the later one is preferred, or says so.
    return 0 if CURRENT in row["source"] else 1 if row["note"].startswith((PREFERRED, "later")) else 2


def _figure(row: Mapping[str, str]) -> Figure:
    mean, std = row["accuracy_mean"], row["accuracy_std"]
    return Figure(
        mean=float(mean) / 100,
        std=float(std) / 100 if std else None,
        arch=row["arch"],
        source=row["source"],
        note=row["note"],
        printed=f"{mean} ± {std}" if std else mean,
    )


def _method(name: str, known: set[str]) -> str:
    """A method's name as it is called here: k-center is kcenter, cafe_dsa is cafe@dsa."""
    plain = name.replace("-", "")
    variant = plain.replace("_", "@", 1)
    return variant if plain not in known and variant in known else plain
