"""`python -m harness submit`: from a file to what was found in it, its records and their claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness.engine.devices import choose
from harness.engine.record_files import existing_path, trial_record
from harness.engine.records import Record, RecordedFinding
from harness.submit.cases import Case, prepare
from harness.submit.measure import LATE, evaluate_case, trials_of
from harness.submit.request import SubmitRequest


def command(request: SubmitRequest) -> int:
    """Look the set over, evaluate it, print what came of it; returns 0, or 1 if an error was found."""
    if request.file is None:
        return _list(request)
    request = dataclasses.replace(request, device=choose(request.device).name)
    cases = list(prepare(request))
    request.say(*_described(request, cases))
    stopped = not request.force and any(_errors(case) for case in cases)
    if stopped or request.lint_only:
        if stopped:
            request.say("not evaluated because of the errors above; --force evaluates all the same")
        if request.json:
            print(_as_json(cases, []))
        return int(stopped)
    asked = [(case, trial) for case in cases for trial in trials_of(case, request)]
    records = [evaluate_case(case, trial, request) for case, trial in asked]
    late = [finding for record in records for finding in _late(record)]
    from harness.report.claims import claims_markdown

    request.say(*map(str, late), "", claims_markdown(_with_siblings(records, request.results)), "")
    request.say(*(f"record: {existing_path(record.trial, request.results)}" for record in records))
    if request.json:
        print(_as_json(cases, records))
    return int(not request.force and any(finding.level == "error" for finding in late))


def _list(request: SubmitRequest) -> int:
    """Print what was submitted to the results folder."""
    from harness.engine.record_files import collect
    from harness.report.claims import claims_markdown

    records = collect(request.results).records
    if request.json:
        print(_as_json([], [record for record in records if record.submission is not None]))
    else:
        print(claims_markdown(records))
    return 0


def _with_siblings(records: Sequence[Record], results: Path) -> list[Record]:
    """These records and those of the same name beside them, other seeds and files of it."""
    folders = {results / record.trial.distillation.folder for record in records}
    paths = sorted({path for folder in folders for path in folder.glob("*.json") if path.name[0] != "."})
    return [record for record in (trial_record(path, results) for path in paths) if record is not None]


def _described(request: SubmitRequest, cases: Sequence[Case]) -> Iterator[str]:
    """What was read and found, line by line."""
    from harness.submit.inspect import SPACE_WORDS, hard

    source = cases[0].source
    yield f"{source.path}: {cases[0].importer}, SHA-256 {source.digest[:12]}, as {request.full_name}"
    for case in cases:
        images = case.distilled.images
        decoded = f", each {case.distilled.factor**2} training images" if case.distilled.factor > 1 else ""
        rate = "" if case.distilled.learned_lr is None else f", learning rate {case.distilled.learned_lr:g}"
        kind = "soft labels" if case.distilled.labels.ndim == 2 else "hard labels"
        alike = float((case.like.scores.argmax(dim=1) == hard(case.like.labels)).float().mean())
        yield (
            f"seed {case.seed}: {len(images)} images of {'x'.join(map(str, images.shape[1:]))}{decoded}, "
            f"{kind}{rate}; {SPACE_WORDS[case.reading.space]}"
        )
        yield (
            f"  {100 * alike:.0f} % look like their class to a classifier that is right on "
            f"{100 * case.like.reliability:.0f} % of real train images"
        )
        yield from (f"  {finding}" for finding in case.findings)


def _errors(case: Case) -> bool:
    return any(finding.level == "error" for finding in case.findings)


def _late(record: Record) -> list[RecordedFinding]:
    """Findings of a record that only its evaluation could bring."""
    found = [] if record.submission is None else record.submission.found
    return [one for one in found if one.check in LATE]


def _as_json(cases: Sequence[Case], records: Sequence[Record]) -> str:
    content = {
        "sets": [
            {
                "seed": case.seed,
                "file_digest": case.source.digest,
                "importer": case.importer,
                "pixels": case.reading.space,
                "claimed_accuracy": case.claimed,
                "findings": [
                    {"level": one.level, "check": one.check, "seen": one.seen, "expected": one.expected}
                    for one in case.findings
                ],
            }
            for case in cases
        ],
        "records": records,
    }
    return msgspec.json.encode(content).decode()
