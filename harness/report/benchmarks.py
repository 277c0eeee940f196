"""BENCHMARKS.md: a pure function of the records and of what the golden tests showed, checked by its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.core.errors import UnknownNameError
from harness.core.text import MISSING, memory, plural, table
from harness.engine.protocol import protocol_named
from harness.engine.provenance import CODE_WORDS, CURRENT
from harness.engine.records import Record, hardware
from harness.engine.scales import SCALES
from harness.perf.steps import PLAIN, StepPair, StepSheet, pairs, share_text
from harness.report import findings, in_words
from harness.report.across import TITLE, AcrossNetworks, across_networks, beside_home, section
from harness.report.fidelity import Fidelity, fidelity_markdown
from harness.report.formats import Block, Folded, Heading, folded_markdown, markdown
from harness.report.protocols import in_words as protocol_in_words
from harness.report.reported import ReportedFigures
from harness.report.standing import Scored
from harness.report.summary import COMMAND, as_blocks, summaries
from harness.report.tables import blocks_by_track, code_legend, legend, marks_of

INTRODUCTION = """\
# Benchmarks

Which method makes the most accurate small dataset, and at what cost? Every method below was distilled and
evaluated by this repository; no figure was typed by hand. This page is generated from the files under
`results/` by `python -m harness report`, and `python -m harness report --check` fails when the two differ.
Each track has one table; what is folded opens with a click. All figures with all their circumstances are in
`results/report/tables.csv`, which `report` writes, and in the web pages of `report --site FOLDER`."""

BRIEF_LEGEND = """\
Test accuracy in percent after the last epoch: mean ± standard deviation over all networks of all seeds
(distillation seeds × networks on each set). Bold is the best of a column, *italics* are not told apart from
it, ranks are those that the seeds leave open. Methods stand by their accuracy at the ipc at which the most
were measured. *Reported* figures are printed by papers."""

RULES = """\
- **One trial** is one method, dataset, ipc (stored synthetic images per class) and seed. It leaves one
  record, with every single accuracy, its costs and its circumstances ([the fields](results/README.md)).
- **Evaluation.** Fresh random networks are trained on the distilled set alone, under the protocol that the
  table names. The accuracy is that of the last epoch: no checkpoint is chosen by test accuracy.
- **Firewall.** The test split is opened once in a trial, after the last network has been trained. Code that
  touches it during distillation or training fails.
- **Never mixed.** Scale, protocol and its version, network, precision, image size, whitening and compute
  budget are equal within a table. A method that ran with several settings has a row for each; those that
  were set by hand stand beside its own in a table of what the change is worth, and are not ranked.
- **Uncertainty.** Seeds differ in the distilled set, networks only in its evaluation: intervals, ties and
  ranks rest on the seeds, paired between methods. The legend below says how.
- **Ceiling.** `whole` trains on all images under the same protocol. *Not run* says that its gap is unknown.
- **Reported.** Figures in *reported* columns are printed by papers. They come from the papers' own settings
  and code at paper scale and stand there for orientation; a cpu-scale figure is expected to differ.
- **Cost** is measured in the same run: seconds with a synchronised clock, peak memory by phase, FLOPs
  counted on the first step of each loop and multiplied by its steps: those of products of matrices and of
  convolutions. A method whose steps take something else has none, and no place among equal budgets."""

SPEED_INTRODUCTION = """\
## Speed of a step

One iteration of each method at its authors' CIFAR-10 settings (ipc 10, ConvNet, made-up images of that
shape) beside a plain loop written the authors' way: class after class, fp32, nothing compiled
(`tests/perf/`). Both sides were measured in one run, each in a process of its own, ours with the environment
of a worker: on a CPU it keeps the memory that it frees. *Speed* is the plain loop's time over ours, *memory*
our peak over the plain loop's, the dataset included; ours holds torch's compiler, which alone makes it more
where a step needs little, and memory that is kept and not in use, which makes it more where a step
differentiates through a training (`HARNESS_KEEP_MEMORY=0` in front of a command gives that up, and the time
that it saves). *Of peak* is what a step makes of the rate at which the same machine multiplies large matrices
in that precision, where that was measured along (`perf step --profile` says where the rest goes). Where an
iteration has rounds within (DC and its kin, IDC, DREAM, CAFE), both sides make fewer of them. MTT and its kin
have no loop over classes: they differentiate through a training, whose passes are the cost."""

FIRST_PLACES = 10

SPEED_HEADERS = (
    "method",
    "plain, s",
    "fp32, s",
    "speed",
    "of peak",
    "plain, peak",
    "fp32, peak",
    "memory",
    "bf16, speed",
    "bf16, of peak",
    "bf16, memory",
)


def page(
    tracks: Iterable[Scored], reported: ReportedFigures, fidelity: Fidelity, sheets: Iterable[StepSheet] = ()
) -> str:
    """The page for these tracks, of which only those of leaderboard scales count, and sheets of steps."""
    shown = _fullest_first([found for found in tracks if _on_leaderboard(found.track.scale)])
    records = [record for found in shown for record in found.records]
    networks = across_networks(shown)
    rules = "\n\n".join([RULES, markdown(legend([])).strip()])
    parts = [
        INTRODUCTION,
        _findings(shown, reported),
        _over_everything(shown),
        _in_words(shown),
        f"## Results\n\n{_results(shown, networks, reported)}",
        _on_other_networks(shown, networks),
        "## How the figures are made",
        folded_markdown("Trials, evaluation, firewall, uncertainty, costs", rules),
        folded_markdown("Scales", _scales()),
        folded_markdown("Protocols", _protocols(records)),
        _folded_section(fidelity_markdown(fidelity), "Golden files and known departures"),
        _folded_section(speed_section(sheets), "Seconds and memory beside plain loops"),
        _origin(shown, records),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fullest_first(tracks: Sequence[Scored]) -> list[Scored]:
    """Scales by how many methods the fullest of their tracks has: a page begins with what tells most."""
    fullest: Counter[str] = Counter()
    for found in tracks:
        fullest[found.track.scale] = max(fullest[found.track.scale], len({row for row, _ in found.grid}))
    return sorted(tracks, key=lambda found: -fullest[found.track.scale])


def speed_section(sheets: Iterable[StepSheet]) -> str:
    """The section for these sheets, one table each; empty without any."""
    parts = [_speed_table(sheet) for sheet in sheets]
    return "\n\n".join([SPEED_INTRODUCTION, *parts]) if parts else ""


def _findings(shown: Sequence[Scored], reported: ReportedFigures) -> str:
    """What the page opens with; empty where the intervals support nothing."""
    return _section(findings.TITLE, findings.opening(shown, reported))


def _over_everything(shown: Sequence[Scored]) -> str:
    """The first places of each scale, and where the others are; empty if nothing can be ranked.

    Not of a budget with one cell: its own table says as much.
    """
    ranked = (summary for summary in summaries(shown) if summary.ranks.standings)
    found = [one for one in ranked if one.budget_flops is None or len(one.ranks.cells) > 1]
    if not found:
        return ""
    cut = any(len(summary.ranks.standings) > FIRST_PLACES for summary in found)
    rest = f"The first {FIRST_PLACES} of each scale; `{COMMAND}` prints all." if cut else ""
    parts = ["## Over everything", rest, markdown(as_blocks(found, most=FIRST_PLACES, level=3)).rstrip()]
    return "\n\n".join(part for part in parts if part)


def _in_words(shown: Sequence[Scored]) -> str:
    """What the records answer, in sentences; empty where they answer nothing."""
    return _section(in_words.TITLE, in_words.said_of(shown, level=3))


def _section(title: str, blocks: Sequence[Block]) -> str:
    return f"## {title}\n\n{markdown(blocks)}".rstrip() if blocks else ""


def _on_other_networks(shown: Sequence[Scored], networks: Sequence[AcrossNetworks]) -> str:
    """Sets on networks that did not distil them, folded; empty where there is none."""
    blocks = section(shown, networks, level=3)
    if not blocks:
        return ""
    summary = "Accuracy by network, and the drop from the network that distilled"
    return f"## {TITLE}\n\n{markdown([Folded(summary, blocks)], folds=True)}".rstrip()


def _results(shown: Sequence[Scored], networks: Sequence[AcrossNetworks], reported: ReportedFigures) -> str:
    """The legend and, for each track, what fits a screen with the rest folded.

    Tracks of other networks stand beside their home's in a section of their own.
    """
    if not shown:
        return "No records yet."
    sections: list[Block] = code_legend(marks_of(shown))
    elsewhere = {found.track for found in beside_home(shown, networks)}
    own = [found for found in shown if found.track not in elsewhere]
    for track, blocks in blocks_by_track(own, reported, brief=True).items():
        sections += [Heading(track.heading, 3), *blocks]
    return f"{BRIEF_LEGEND}\n\n{markdown(sections, folds=True)}".rstrip()


def _folded_section(section: str, summary: str) -> str:
    """A section whose heading stays in sight."""
    heading, _, text = section.partition("\n")
    return f"{heading}\n\n{folded_markdown(summary, text)}" if section else ""


def _on_leaderboard(name: str) -> bool:
    scale = SCALES.get(name)
    return scale is not None and scale.leaderboard


def _scales() -> str:
    rows = [
        [scale.name, scale.summary, scale.arch, scale.protocol, str(scale.evals), str(scale.seeds)]
        for scale in SCALES.values()
        if scale.leaderboard
    ]
    headers = ["scale", "what it is", "network", "protocol", "networks per distilled set", "seeds"]
    note = (
        "Each scale is its own track with these defaults. A method's own settings at a scale stand in its"
        " file under `methods/`, and the column *settings_source* of `tables.csv` says where those of a trial"
        " come from."
    )
    return f"{table(headers, rows, text_columns=4)}\n\n{note}"


def _protocols(records: Sequence[Record]) -> str:
    """Every protocol that a leaderboard scale or a shown record names, in words."""
    own = [protocol_named(scale.protocol) for scale in SCALES.values() if scale.leaderboard]
    named = {(protocol.name, protocol.version) for protocol in own}
    named |= {(record.trial.protocol, record.trial.protocol_version) for record in records}
    return "\n".join(_protocol_line(*name) for name in sorted(named))


def _protocol_line(name: str, version: str) -> str:
    try:
        protocol = protocol_named(name)
    except UnknownNameError:
        protocol = None
    if protocol is None or version != protocol.version:
        return f"- **{name} {version}**: not the version that this code runs; see the commit in its records."
    return f"- **{name} {version}** ({protocol.summary}): {protocol_in_words(protocol)}"


def _speed_table(sheet: StepSheet) -> str:
    found = {(pair.step.method, pair.step.variant): pair for pair in pairs(sheet)}
    methods = sorted({method for method, _ in found})
    rows = [
        _speed_row(found[method, PLAIN], found.get((method, "fp32")), found.get((method, "bf16")))
        for method in methods
    ]
    place = f"On {measured_on(sheet)}{',' if sheet.device == 'cpu' else ''} with torch {sheet.torch}:"
    return f"{place}\n\n{table(SPEED_HEADERS, rows)}{_earlier(sheet)}"


def _earlier(sheet: StepSheet) -> str:
    """Which steps on a CPU were measured before workers kept the memory that they free, if any were."""
    ours = [step for step in sheet.steps if step.variant != PLAIN and sheet.device == "cpu"]
    names = sorted({step.method for step in ours if not step.keeps_memory})
    return f"\n\nMeasured before ours kept the memory that it frees: {', '.join(names)}." if names else ""


def measured_on(sheet: StepSheet) -> str:
    """Where the steps ran, for people: the GPU's name, or the CPU's with what else tells its sheet apart."""
    if sheet.device != "cpu":
        return sheet.device
    bf16 = "" if sheet.bf16 is None else f", with{'' if sheet.bf16 else 'out'} instructions for bfloat16"
    return f"{sheet.cpu or 'unknown CPU'}, {plural(sheet.threads, 'thread')}{bf16}"


def _speed_row(plain: StepPair, fp32: StepPair | None, bf16: StepPair | None) -> list[str]:
    return [
        plain.step.method,
        f"{plain.step.seconds:.3g}",
        f"{fp32.step.seconds:.3g}" if fp32 else MISSING,
        f"{fp32.speed:.2f}×" if fp32 else MISSING,
        share_text(fp32.step) if fp32 else MISSING,
        memory(plain.step.peak_bytes),
        memory(fp32.step.peak_bytes) if fp32 else MISSING,
        f"{fp32.memory:.2f}×" if fp32 else MISSING,
        f"{bf16.speed:.2f}×" if bf16 else MISSING,
        share_text(bf16.step) if bf16 else MISSING,
        f"{bf16.memory:.2f}×" if bf16 else MISSING,
    ]


def _origin(shown: Sequence[Scored], records: Sequence[Record]) -> str:
    """How many records there are, of which code, and what those with figures were made on."""
    statuses = Counter(record.status for record in records)
    states = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    total = f"{plural(len(records), 'record')}{f' ({states})' if states else ''}."
    code = Counter(found.code[record.id] for found in shown for record in found.records if found.code)
    words = [f"{code[state]} of {state} ({reason})" for state, reason in CODE_WORDS.items() if code[state]]
    total += f" {code[CURRENT]} are of the present code, {', '.join(words)}." if words else ""
    made = Counter(_circumstances(record) for record in records if record.status == "done")
    rows = [[*circumstances, str(number)] for circumstances, number in sorted(made.items())]
    headers = ["hardware", "torch", "python", "commit", "records"]
    return f"## Where the figures come from\n\n{total}" + (f"\n\n{table(headers, rows, 4)}" if rows else "")


def _circumstances(record: Record) -> tuple[str, str, str, str]:
    """Hardware, versions of torch and Python, and the commit, marked if the checkout held other changes."""
    provenance = record.provenance
    if provenance is None:
        return hardware(None), MISSING, MISSING, MISSING
    commit = (provenance.git_commit or MISSING)[:10] + (" + changes" if provenance.git_dirty else "")
    return hardware(provenance), provenance.torch, provenance.python, commit
