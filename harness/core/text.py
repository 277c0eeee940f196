"""Markdown tables and numbers with units."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

MISSING = "–"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A padded pipe table; the first `text_columns` columns are aligned left, the others right."""
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    sides = ["left" if column < text_columns else "right" for column in range(len(headers))]
    return tabulate(cells[1:], cells[0], tablefmt="pipe", colalign=sides, disable_numparse=True)


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one blank."""
    return " ".join(text.split())


def count(number: float | None) -> str:
    """Three significant digits with a decimal prefix, `1.23 T`; exact below a thousand."""
    if number is None:
        return MISSING
    return _scaled(number, 1000.0, ("", "k", "M", "G", "T", "P", "E"))


def in_flops(number: float) -> str:
    """`2.00 TFLOPs`."""
    text = count(number)
    return f"{text}FLOPs" if text[-1].isalpha() else f"{text} FLOPs"


def memory(size: float | None) -> str:
    """Bytes with a binary prefix, `412 MiB`."""
    if size is None:
        return MISSING
    return _scaled(size, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def seconds(duration: float | None) -> str:
    """Seconds to a tenth."""
    return MISSING if duration is None else f"{duration:,.1f}"


def roughly(seconds: float) -> str:
    """Two significant parts: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.3g} s"


def percent(fraction: float) -> str:
    """A fraction as percent to a tenth, `41.3`."""
    return f"{100 * fraction:.1f}"


def mean_and_std(mean: float, std: float | None) -> str:
    """Fractions as percent, `41.3 ± 1.2`, without a spread where there is none."""
    return plus_minus(percent(mean), "" if std is None else percent(std))


def plus_minus(mean: str, spread: str) -> str:
    """`41.3 ± 1.2`, or the mean alone where no spread is given."""
    return f"{mean} ± {spread}" if spread else mean


def comma_separated(text: str) -> tuple[str, ...]:
    """The names in `a, b,a`, each once."""
    return tuple(dict.fromkeys(name for name in map(str.strip, text.split(",")) if name))


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
