"""Markdown tables and numbers with units.

The tables are written here and not by a library because BENCHMARKS.md is compared byte for byte: its bytes
must not depend on which release of a formatter is installed.
"""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A padded pipe table; the first `text_columns` columns are aligned left, the others right."""
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lefts = [index < text_columns for index in range(len(widths))]
    rule = [
        "-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, lefts, strict=True)
    ]
    padded = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, lefts, strict=True)
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one blank."""
    return " ".join(text.split())


def count(number: float | None) -> str:
    """Three significant digits with a decimal prefix, `1.23 T`; exact below a thousand."""
    if number is None:
        return MISSING
    return _scaled(number, 1000.0, ("", "k", "M", "G", "T", "P", "E"))


def memory(size: float | None) -> str:
    """Bytes with a binary prefix, `412 MiB`."""
    if size is None:
        return MISSING
    return _scaled(size, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def seconds(duration: float | None) -> str:
    """Seconds to a tenth."""
    return MISSING if duration is None else f"{duration:,.1f}"


def plural(number: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _scaled(number: float, step: float, units: Sequence[str]) -> str:
    power = 0
    # 999.5 and more would be shown as four digits.
    while number >= min(step, 999.5) and power < len(units) - 1:
        number /= step
        power += 1
    digits = 0 if power == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {units[power]}".rstrip()
