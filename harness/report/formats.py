"""One description of headings, paragraphs, lists and tables, written as Markdown, LaTeX or HTML.

Texts are plain: whatever is special in a format is escaped when it is written. Emphasis is made by `strong`,
`em` and `code`, whose marks are characters of Unicode's private use that no text has (`plain` sees to that).
LaTeX and HTML need no padding and are written here: tabulate, which guesses at types, is slow with much.
"""

from __future__ import annotations

import html as html_escapes
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from harness.core.text import one_line
from harness.core.text import table as markdown_table

STRONG, EM, CODE = ("\ue000", "\ue001"), ("\ue002", "\ue003"), ("\ue004", "\ue005")
MARKS = re.compile("[\ue000-\ue005]")


@dataclass(frozen=True)
class Heading:
    """A heading of level 1, 2, ..."""

    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """An unordered list."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; its first `text_columns` columns are aligned left, the others right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True)
class Folded:
    """Blocks that few readers want: behind a line that opens them, where a format can do that."""

    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = "Heading | Paragraph | Items | Table | Folded"


def strong(text: str) -> str:
    """The text in bold."""
    return text.join(STRONG)


def em(text: str) -> str:
    """The text in italics."""
    return text.join(EM)


def code(text: str) -> str:
    """The text as code."""
    return text.join(CODE)


def plain(text: str) -> str:
    """Text from a record, in one line and without any mark."""
    return one_line(MARKS.sub("", text))


def markdown(blocks: Iterable[Block], *, folds: bool = False) -> str:
    """The blocks as Markdown, with a line end; `folds` for a page that a browser shows."""
    if not folds:
        blocks = unfolded(blocks)
    return "\n\n".join(map(_markdown_block, blocks)) + "\n"


def folded_markdown(summary: str, text: str) -> str:
    """Markdown behind a line that opens it; the blank lines let it be read as Markdown.

    Its tables lose their padding, by far the most of their bytes: nobody reads them as text.
    """
    slim = "\n".join(_unpadded(line) if line.startswith("|") else line for line in text.strip().splitlines())
    return f"<details>\n<summary>{html_escapes.escape(summary)}</summary>\n\n{slim}\n\n</details>"


def _unpadded(row: str) -> str:
    """A row of a pipe table with one blank where it has many; cells themselves have no more than one."""
    return re.sub(r"-{3,}", "--", row) if set(row) <= set("|:-") else re.sub(r" {2,}", " ", row)


def unfolded(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks with the folded ones in their places."""
    for block in blocks:
        if isinstance(block, Folded):
            yield from unfolded(block.blocks)
        else:
            yield block


def latex(blocks: Iterable[Block]) -> str:
    """The blocks as LaTeX to be included in a document that uses the package booktabs."""
    return "\n\n".join([LATEX_HEAD, *map(_latex_block, blocks)]) + "\n"


def html(blocks: Iterable[Block]) -> str:
    """The blocks as an HTML page that needs no other file."""
    return "\n".join([HTML_HEAD, *map(_html_block, blocks), HTML_TAIL]) + "\n"


LATEX_HEAD = """\
% Made by `python -m harness report`; \\input it in a document that has \\usepackage{booktabs}."""
HTML_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Distillation benchmark: tables</title>
<style>
body { font-family: system-ui, sans-serif; margin: 2rem; color: #222; }
p, ul { max-width: 60rem; line-height: 1.45; }
table { border-collapse: collapse; margin: 1.2rem 0; border-block: 2px solid; font-size: .9rem; }
thead { border-bottom: 1px solid; }
th, td { padding: .15rem .7rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { text-align: left; }
.number { text-align: right; }
tbody tr:hover { background: #f2f2f2; }
</style>
</head>
<body>"""
HTML_TAIL = "</body>\n</html>"

# Signs that Markdown would take for something; an underscore within a word it leaves alone.
MARKDOWN_SIGNS = re.compile(r"[\\`*<]|(?<!\w)_|_(?!\w)|(?<=\])(?=\()")
# Special characters of LaTeX, then signs that not every LaTeX knows.
LATEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\textasciitilde{}", "|": r"\textbar{}"}
    | {"<": r"\ensuremath{<}", ">": r"\ensuremath{>}", "±": r"\ensuremath{\pm}"}
    | {"×": r"\ensuremath{\times}", "·": r"\ensuremath{\cdot}", "†": r"\dag{}", "–": "--"}
    | {"‡": r"\ddag{}", "§": r"\S{}"}
)


def _marks(*delimiters: str) -> dict[int, str]:
    """What replaces the marks: begin and end of strong, em and code."""
    return str.maketrans(dict(zip("".join(STRONG + EM + CODE), delimiters, strict=True)))


MARKDOWN_MARKS = _marks("**", "**", "*", "*", "`", "`")
LATEX_MARKS = _marks(r"\textbf{", "}", r"\emph{", "}", r"\texttt{", "}")
HTML_MARKS = _marks("<strong>", "</strong>", "<em>", "</em>", "<code>", "</code>")


def _markdown_text(text: str) -> str:
    return MARKDOWN_SIGNS.sub(_after_backslash, text).translate(MARKDOWN_MARKS)


def _after_backslash(sign: re.Match[str]) -> str:
    """A template for `sub` says the same, and takes twice as long."""
    return f"\\{sign[0]}"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Table):
        rows = [list(map(_markdown_text, row)) for row in block.rows]
        return markdown_table(list(map(_markdown_text, block.headers)), rows, block.text_columns)
    if isinstance(block, Items):
        return "\n".join(f"- {_markdown_text(text)}" for text in block.texts)
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_markdown_text(block.text)}"
    if isinstance(block, Folded):
        return folded_markdown(block.summary, markdown(block.blocks, folds=True))
    return _markdown_text(block.text)


def _latex_text(text: str) -> str:
    return text.translate(LATEX_SIGNS).translate(LATEX_MARKS)


def _latex_block(block: Block) -> str:
    if isinstance(block, Table):
        head, *lines = (" & ".join(map(_latex_text, row)) + r" \\" for row in (block.headers, *block.rows))
        columns = "l" * block.text_columns + "r" * (len(block.headers) - block.text_columns)
        rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
        return "\n".join([*rules, *lines, r"\bottomrule", r"\end{tabular}"])
    if isinstance(block, Items):
        items = [rf"\item {_latex_text(text)}" for text in block.texts]
        return "\n".join([r"\begin{itemize}", *items, r"\end{itemize}"])
    if isinstance(block, Heading):
        kind = ("section", "subsection", "subsubsection")[min(block.level, 3) - 1]
        return rf"\{kind}*{{{_latex_text(block.text)}}}"
    if isinstance(block, Folded):
        return "\n\n".join(map(_latex_block, block.blocks))
    return _latex_text(block.text)


def _html_text(text: str) -> str:
    return html_escapes.escape(text).translate(HTML_MARKS)


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Items):
        return "\n".join(["<ul>", *(f"<li>{_html_text(text)}</li>" for text in block.texts), "</ul>"])
    if isinstance(block, Heading):
        return f"<h{block.level}>{_html_text(block.text)}</h{block.level}>"
    if isinstance(block, Folded):
        inner = "\n".join(map(_html_block, block.blocks))
        return f"<details>\n<summary>{_html_text(block.summary)}</summary>\n{inner}\n</details>"
    return f"<p>{_html_text(block.text)}</p>"


def _html_table(table: Table) -> str:
    head, *rows = ([_html_text(cell) for cell in row] for row in (table.headers, *table.rows))
    left, right = table.text_columns, len(table.headers) - table.text_columns
    header = "<th>{}</th>" * left + '<th class="number">{}</th>' * right
    line = "<tr>" + "<td>{}</td>" * left + '<td class="number">{}</td>' * right + "</tr>"
    body = "\n".join(line.format(*row) for row in rows)
    return f"<table>\n<thead>\n<tr>{header.format(*head)}</tr>\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
