"""Accuracies that papers print, from `data/reported.csv`: facts about papers, never measured here."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from harness.core.packaged import packaged

REPORTED_CSV = packaged("harness.report", "data", "reported.csv")
PREFERRED = "preferred"
UNTRACED = "†"
ALL_IMAGES = 0  # stands for the ipc of figures on the whole train split, "all" in the file


@dataclass(frozen=True)
class ReportedFigure:
    """One figure as printed: percent, with the network it was obtained with and where it is printed."""

    accuracy_mean: str
    accuracy_std: str
    arch: str
    source: str

    @property
    def traced(self) -> bool:
        """Whether the source can be looked up."""
        return self.source != "recalled"

    @property
    def text(self) -> str:
        """As printed, with the network where it is not the plain ConvNet."""
        spread = f" ± {self.accuracy_std}" if self.accuracy_std else ""
        arch = "" if self.arch == "ConvNet" else f" ({self.arch})"
        return f"{self.accuracy_mean}{spread}{arch}{'' if self.traced else UNTRACED}"


ReportedFigures: TypeAlias = Mapping[tuple[str, str, int], ReportedFigure]


def load_reported(path: Path = REPORTED_CSV) -> ReportedFigures:
    """Preferred figures by (method, dataset, ipc) in this harness's names.

    Those on the whole train split stand under the ipc `ALL_IMAGES`.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["note"].startswith(PREFERRED)]
    return {
        (_method(row["method"]), row["dataset"].lower(), _ipc(row["ipc"])): ReportedFigure(
            row["accuracy_mean"], row["accuracy_std"], row["arch"], row["source"]
        )
        for row in rows
        if row["ipc"].isdigit() or row["ipc"] == "all"
    }


def _ipc(text: str) -> int:
    return ALL_IMAGES if text == "all" else int(text)


def _method(name: str) -> str:
    """A method's name as its file is called here: k-center is kcenter."""
    return name.replace("-", "")
