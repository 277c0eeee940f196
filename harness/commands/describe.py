"""`python -m harness list methods NAME`: a method's settings, and what its file sets where."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from tabulate import tabulate

import methods
from harness.core.settings import settings_in
from harness.report.protocols import REGIMES

GAP = "  "
LEAST_MEANING = 30  # columns below which meanings are not wrapped any further
REST = "*"  # in PAPER: datasets that nothing is published for


def changes(name: str) -> str:
    """What a variant changes, in a line: `bacon with clip_weight = 0.2 (weight of ...)`."""
    base, _, variant = name.partition("@")
    method = methods.load(name)
    meanings = {setting.name: setting.meaning for setting in settings_in(method.Config)}
    parts = [f"{key} = {typed(value)} ({meanings[key]})" for key, value in method.VARIANTS[variant].items()]
    return f"{base} with {', '.join(parts) or 'nothing changed'}"


def method_page(name: str) -> dict[str, Any]:
    """All that a method's file says in figures; rows hold what differs from the defaults of `settings`.

    `published` has a row for each dataset and ipc that the authors published settings for, "*" standing for
    other datasets; a row of another method's authors names that in `borrowed_from`.
    """
    method, info = methods.load(name), methods.find(name)
    variant = method.VARIANTS.get(name.partition("@")[2], {})
    lender = methods.lender(name)
    return {
        "name": name,
        "summary": changes(name) if "@" in name and not info.parts else info.summary,
        "settings": [
            asdict(setting) | {"default": variant.get(setting.name, setting.default)}
            for setting in settings_in(method.Config)
        ],
        "published": [
            {
                "dataset": dataset,
                "ipc": ipc,
                "settings": dict(row),
                "borrowed_from": (method.BORROWED.get((dataset, ipc), lender) or None)
                if dataset != REST
                else None,
            }
            for (dataset, ipc), row in method.PAPER.items()
        ],
        "unpublished": dict(method.UNPUBLISHED),
        "variants": {} if "@" in name else dict(method.VARIANTS),
        "scaled": dict(method.SCALED),
        "ignores_ipc": method.IGNORES_IPC,
        "regime": method.REGIME,
        "protocol": method.PROTOCOL,
        "uncounted": info.uncounted,
    }


def as_text(page: Mapping[str, Any]) -> str:
    """The page for a terminal."""
    name = page["name"]
    blocks = [f"{name}: {page['summary'].removeprefix(f'{name}: ')}", _settings(page)]
    blocks += _block("published", _published(page["published"]))
    blocks += _block("variants", [(f"{name}@{key}", row_text(row)) for key, row in page["variants"].items()])
    blocks += _block("other scales", [(key, row_text(row)) for key, row in page["scaled"].items()])
    blocks += _block("changed for", [(key, row_text(row)) for key, row in page["unpublished"].items()])
    if page["regime"] != "hard":
        by = f", by the protocol {page['protocol']}" if page["protocol"] else ""
        blocks.append(f"asked under: {REGIMES[page['regime']]}{by}")
    if page["ignores_ipc"]:
        blocks.append("ignores ipc: run once, at ipc 1")
    if page["uncounted"]:
        blocks.append(f"FLOPs leave out what its steps take, {page['uncounted']}: no --budget")
    if page["settings"]:
        first = page["settings"][0]
        blocks.append(f"change one: --set {name}.{first['name']}={typed(first['default'])}")
    return "\n\n".join(blocks)


def _settings(page: Mapping[str, Any]) -> str:
    rows = [
        (entry["name"], _type(entry["type"]), typed(entry["default"]), entry["meaning"])
        for entry in page["settings"]
    ]
    if not rows:
        return "no settings"
    heads = ("setting", "type", "default", "meaning")
    taken = sum(max(map(len, column)) for column in zip(heads[:3], *(row[:3] for row in rows), strict=True))
    room = _width() - taken - 3 * len(GAP)
    meanings = max(LEAST_MEANING, room) if sys.stdout.isatty() else None
    return _table([heads, *rows], [None, None, None, meanings])


def _type(annotation: str) -> str:
    """`int | None` as it is, `Literal["noise", "real"]` as its choices."""
    choices = re.fullmatch(r"Literal\[(.*)\]", annotation)
    return choices[1].replace("'", "").replace('"', "").replace(", ", " | ") if choices else annotation


def _published(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each group of datasets and of ipc with the same settings, in the order of the file."""
    by_dataset: dict[str, dict[tuple[str, str], list[int]]] = {}
    for row in rows:
        what = (row_text(row["settings"]), f"published for {row['borrowed_from']}")
        named = what if row["borrowed_from"] else (what[0], "")
        by_dataset.setdefault(row["dataset"], {}).setdefault(named, []).append(row["ipc"])
    groups: dict[str, list[str]] = {}
    for dataset, cells in by_dataset.items():
        groups.setdefault(str(cells), []).append(dataset)
    return [
        (
            ", ".join("other datasets (default)" if name == REST else name for name in names),
            f"ipc {', '.join(map(str, ipcs))}",
            text,
            note,
        )
        for names in groups.values()
        for (text, note), ipcs in by_dataset[names[0]].items()
    ]


def _block(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A titled table, nothing without rows."""
    return [f"{title}\n{_table([('', *row) for row in rows])}"] if rows else []


def _table(rows: Iterable[Sequence[str]], widths: Sequence[int | None] | None = None) -> str:
    text = tabulate(rows, tablefmt="plain", disable_numparse=True, maxcolwidths=widths)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _width() -> int:
    return shutil.get_terminal_size().columns


def row_text(row: Mapping[str, Any]) -> str:
    """Settings as they are typed: `lr_img=0.2, strategy=None`."""
    return ", ".join(f"{name}={typed(value)}" for name, value in row.items()) or "the defaults"


def typed(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, str):
        return value or '""'
    return "None" if value is None else msgspec.json.encode(value).decode()
