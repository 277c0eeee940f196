"""Distilled sets on networks other than their own: accuracy on each, and what is lost from the home network.

The home network of a set is the one that distilled it. A drop is the accuracy at home less that on another
network, in the same sets: paired over the seeds that both have (`harness.report.stats`). A protocol with the
suffix `@tuned`, whose learning rate is chosen for each network, stands below the one with its fixed rate.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from harness.core.text import MISSING
from harness.engine.provenance import CodeState
from harness.engine.records import CEILING, Record
from harness.report.formats import Block, Heading, Items, Paragraph, Table, plain, strong
from harness.report.standing import Scored
from harness.report.stats import CONFIDENCE, Difference, Estimate, differences, estimates
from harness.report.tables import NOT_RUN, counts_text, difference_text, marks_text, misses
from harness.report.tracks import Cell, Row, Track, cell_of, rows_of

TITLE = "On other networks"
VARIANT = "@"  # between a protocol and what is special about it: `dc-cpu@tuned`
LEGEND = (
    "Each set was distilled by its home network, and networks of the kind that a column names were trained on"
    " it. The drop is the accuracy at home less that on the other network, in percentage points with the"
    f" {100 * CONFIDENCE:g} % interval; both are of the same sets, so it is paired over the seeds. Bold is"
    f" the best of a column under one protocol; {CEILING} is training on all images. Methods that were asked"
    " with their home network alone are left out."
)
RATES = (
    "One learning rate suits some networks better than others, so a drop under a fixed rate holds what that"
    " costs as well; under @tuned protocols the rate was chosen for each network, on a part of train."
)


class Question(NamedTuple):
    """A row: sets of a method (in one configuration) by one network, under one protocol."""

    row: Row
    home: str
    protocol: str


@dataclass(frozen=True)
class Answer:
    """What came of a question on one network; drop: from home, None at home or where that is not known."""

    cell: Cell
    estimate: Estimate | None
    drop: Difference | None


@dataclass(frozen=True)
class AcrossNetworks:
    """One table: all that is equal within it, and the answers by question and network.

    `track` has the protocol without its variants and no network.
    """

    track: Track
    ipc: int
    answers: Mapping[Question, Mapping[str, Answer]]

    @cached_property
    def homes(self) -> list[str]:
        """The networks that distilled these sets."""
        return sorted({question.home for question in self.answers})

    @cached_property
    def networks(self) -> list[str]:
        """The evaluated networks, those that distilled first."""
        known = {network for found in self.answers.values() for network in found}
        return sorted(known, key=lambda network: (network not in self.homes, network.lower()))

    @property
    def heading(self) -> str:
        """`digits · cpu scale · dc-cpu 1.0 · sets by ConvNetW32 · ipc 10`."""
        named = dataclasses.replace(self.track, arch=f"sets by {', '.join(self.homes)}")
        return f"{named.heading} · ipc {self.ipc}"

    @cached_property
    def best(self) -> Mapping[tuple[str, str], float]:
        """The highest mean of two or more methods by network and protocol, as tables round it."""
        means: dict[tuple[str, str], list[float]] = defaultdict(list)
        for question, found in self.answers.items():
            for network, answer in found.items():
                if question.row.method != CEILING and answer.estimate:
                    means[network, question.protocol].append(round(answer.estimate.mean, 3))
        return {column: max(among) for column, among in means.items() if len(among) > 1}


def across_networks(tracks: Iterable[Scored]) -> list[AcrossNetworks]:
    """A table for each ipc with the methods that were asked with networks other than their home, if any."""
    found = []
    for family, members in _families(tracks).items():
        records = [record for one in members for record in one.records]
        cells = _cells(records)
        for ipc in sorted({record.trial.ipc for record in records if record.trial.method != CEILING}):
            asked = {
                question: by_network for (question, at), by_network in cells.items() if at in (ipc, None)
            }
            foreign = {q: by_network for q, by_network in asked.items() if set(by_network) - {q.home}}
            networks = {network for by_network in foreign.values() for network in by_network}
            if len(networks) > 1 and any(question.row.method != CEILING for question in foreign):
                found.append(AcrossNetworks(family, ipc, _answers(foreign)))
    return found


def drops_from_home(tables: Iterable[AcrossNetworks]) -> dict[str, Difference]:
    """The drops of these tables by the ids of the records on the other network."""
    return {
        record.id: answer.drop
        for answer in _answers_of(tables)
        if answer.drop is not None
        for record in answer.cell.done
    }


def beside_home(tracks: Iterable[Scored], tables: Iterable[AcrossNetworks]) -> list[Scored]:
    """Those tracks of other networks all of whose cells stand in these tables beside their home's."""
    shown = {
        record.id for answer in _answers_of(tables) for record in (*answer.cell.done, *answer.cell.missed)
    }
    return [found for found in tracks if found.track.eval_arch and found.grid and _ids(found) <= shown]


def section(tracks: Sequence[Scored], tables: Sequence[AcrossNetworks], *, level: int) -> list[Block]:
    """The tables of these tracks under headings of that level, and why cells are empty; [] without any."""
    if not tables:
        return []
    code = {name: state for one in tracks for name, state in one.code.items()}
    blocks: list[Block] = [Paragraph(f"{LEGEND} {RATES}")]
    for across in tables:
        blocks += [Heading(across.heading, level), _table(across, code)]
    for one in beside_home(tracks, tables):
        if reasons := list(misses(one)):
            blocks += [Paragraph(f"Without a result under {plain(one.track.heading)}:"), Items(reasons)]
    return blocks


def _answers_of(tables: Iterable[AcrossNetworks]) -> Iterator[Answer]:
    return (answer for table in tables for answers in table.answers.values() for answer in answers.values())


def _ids(found: Scored) -> set[str]:
    return {record.id for cell in found.cells.values() for record in (*cell.done, *cell.missed)}


def _families(tracks: Iterable[Scored]) -> dict[Track, list[Scored]]:
    """Tracks that differ in nothing but their networks and in whether the rate was chosen for each."""
    families: dict[Track, list[Scored]] = defaultdict(list)
    for found in tracks:
        protocol = found.track.protocol.partition(VARIANT)[0]
        families[dataclasses.replace(found.track, arch="", eval_arch="", protocol=protocol)].append(found)
    return families


def _cells(records: Sequence[Record]) -> dict[tuple[Question, int | None], dict[str, Cell]]:
    """Cells by network of each question and ipc, methods in order and the ceiling, which has no ipc, last."""
    gathered: dict[tuple[Question, int | None], dict[str, list[Record]]] = {}
    for row, record in zip(rows_of(records), records, strict=True):
        trial = record.trial
        whole = trial.method == CEILING
        question = Question(Row(CEILING, "") if whole else row, trial.arch, trial.protocol)
        by_network = gathered.setdefault((question, None if whole else trial.ipc), defaultdict(list))
        by_network[trial.network].append(record)
    ordered = sorted(gathered, key=lambda key: (key[0].row.method == CEILING, key[0], key[1] or 0))
    return {key: {network: cell_of(found) for network, found in gathered[key].items()} for key in ordered}


def _answers(asked: Mapping[Question, Mapping[str, Cell]]) -> dict[Question, dict[str, Answer]]:
    """The statistics of all cells at once, which is much quicker than one by one."""
    groups = {
        (question, network): cell.groups
        for question, by_network in asked.items()
        for network, cell in by_network.items()
        if cell.groups
    }
    means = estimates(groups)
    drops = differences(
        {
            (question, network): (groups[question, question.home], there)
            for (question, network), there in groups.items()
            if network != question.home and (question, question.home) in groups
        }
    )
    return {
        question: {
            network: Answer(cell, means.get((question, network)), drops.get((question, network)))
            for network, cell in by_network.items()
        }
        for question, by_network in asked.items()
    }


def _table(across: AcrossNetworks, code: Mapping[str, CodeState]) -> Table:
    """Methods by networks; which network distilled and which protocol is named where there are several."""
    questions = list(across.answers)
    columns = {"method": [plain(question.row.label) for question in questions]}
    if len(across.homes) > 1:
        columns["distilled by"] = [question.home for question in questions]
    if len({question.protocol for question in questions}) > 1:
        columns["protocol"] = [question.protocol for question in questions]
    text_columns = len(columns)
    for network in across.networks:
        columns[network] = [_accuracy(across, question, network, code) for question in questions]
        if any(question.home != network for question in questions):
            columns[f"{network} drop"] = [
                _drop(across.answers[question].get(network)) for question in questions
            ]
    return Table(list(columns), list(zip(*columns.values(), strict=True)), text_columns)


def _accuracy(across: AcrossNetworks, question: Question, network: str, code: Mapping[str, CodeState]) -> str:
    """`41.3 ± 1.2 (2×3)`, a status word where nothing was measured."""
    answer = across.answers[question].get(network)
    if answer is None:
        return NOT_RUN
    if answer.estimate is None:
        return ", ".join(answer.cell.missing) or NOT_RUN
    mean = round(answer.estimate.mean, 3)
    best = question.row.method != CEILING and mean == across.best.get((network, question.protocol))
    figure = strong(answer.estimate.text) if best else answer.estimate.text
    states = [code[record.id] for record in answer.cell.done if record.id in code]
    return f"{figure} ({counts_text(answer.cell)}){marks_text(states)}"


def _drop(answer: Answer | None) -> str:
    return MISSING if answer is None or answer.drop is None else difference_text(answer.drop)
