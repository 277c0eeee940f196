"""The three formats: what they escape, and that a table can be read back from each."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from harness.report.formats import (
    Heading,
    Items,
    Paragraph,
    Table,
    code,
    em,
    html,
    latex,
    markdown,
    plain,
    strong,
)

NASTY = r"50% of {1_000} & <more> ~ #1 $x^2$ | \n __init__ *args"


def test_emphasis() -> None:
    blocks = [Paragraph(f"{strong('best')}, {em('tied')} and {code('random_packed')}")]
    assert markdown(blocks) == "**best**, *tied* and `random_packed`\n"
    assert r"\textbf{best}, \emph{tied} and \texttt{random\_packed}" in latex(blocks)
    assert "<p><strong>best</strong>, <em>tied</em> and <code>random_packed</code></p>" in html(blocks)


def test_headings_and_lists() -> None:
    blocks = [Heading("a & b", 2), Items(["one", "two"])]
    assert markdown(blocks) == "## a & b\n\n- one\n- two\n"
    assert "\\subsection*{a \\& b}\n\n\\begin{itemize}\n\\item one\n\\item two\n\\end{itemize}" in latex(
        blocks
    )
    assert "<h2>a &amp; b</h2>\n<ul>\n<li>one</li>\n<li>two</li>\n</ul>" in html(blocks)


@pytest.mark.parametrize("block", [Paragraph(NASTY), Items([NASTY]), Table(["x", "y"], [[NASTY, NASTY]])])
def test_nothing_special_is_left_in_latex(block: Paragraph | Items | Table) -> None:
    text = latex([block])
    for command in ("toprule", "midrule", "bottomrule", "item", "ensuremath", "textbar{}"):
        text = text.replace(f"\\{command}", "")
    text = re.sub(r"\\(begin|end)\{(tabular|itemize)\}(\{lr\})?|\\text(asciitilde|backslash)\{\}", "", text)
    body = text.partition("\n\n")[2].replace(r"\\" + "\n", "\n")
    assert not re.search(r"(?<!\\)[%$#_~]", body)
    assert body.count(r"\&") == (2 if isinstance(block, Table) else 1)
    assert len(re.findall(r"(?<!\\)&", body)) == (2 if isinstance(block, Table) else 0)


class Cells(HTMLParser):
    """Text of the cells of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.within = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.within = tag in ("td", "th")
        if self.within:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = False

    def handle_data(self, data: str) -> None:
        if self.within:
            self.found[-1] += data


def test_html_gives_back_what_went_in() -> None:
    page = Cells()
    page.feed(html([Table(["<b>", "n"], [[NASTY, "1"], ["<script>alert(1)</script>", "2"]])]))
    cells = [cell.strip() for cell in page.found]
    assert cells == ["<b>", "n", NASTY, "1", "<script>alert(1)</script>", "2"]


def test_markdown_cells_stay_cells() -> None:
    *_, line = markdown([Table(["x", "y"], [[NASTY, "[a](b)"]])]).splitlines()
    cells = re.split(r"(?<!\\)\|", line)
    assert len(cells) == 4
    unescaped = re.sub(r"\\([\\`*<_|(])", r"\1", cells[1]).strip()
    assert unescaped == NASTY
    assert cells[2].strip() == r"[a]\(b)"


@pytest.mark.parametrize("name", ["random_packed", "cafe@dsa", "dm+bacon", "dm (lr_img=1.0)"])
def test_markdown_leaves_names_of_methods_alone(name: str) -> None:
    assert markdown([Paragraph(name)]) == f"{name}\n"


def test_text_of_records_cannot_carry_marks() -> None:
    assert plain(f"a\n{strong('b')}  c") == "a b c"
