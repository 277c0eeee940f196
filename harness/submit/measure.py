"""The record of a submitted set: evaluated as our own are, or the one that is there."""

from __future__ import annotations

import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.core.data.catalog import KNOWN, DatasetSpec
from harness.core.data.files import folder_splits
from harness.core.errors import UserError
from harness.core.seeds import seed_for
from harness.engine.plan import refuse_other_rates
from harness.engine.protocol import protocol_named
from harness.engine.record_files import (
    FoundSet,
    existing_path,
    existing_record,
    find_set,
    rewrite,
    write_distillation,
    write_record,
)
from harness.engine.records import (
    WORK_FOLDER,
    Distillation,
    Record,
    RecordedFinding,
    Submitted,
    Trial,
    trial_of,
)
from harness.engine.scales import scale_named
from harness.submit.cases import Case
from harness.submit.request import SubmitRequest
from methods.source import SettingsSource

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import Dataset
    from harness.core.progress import Progress
    from harness.engine.evaluate import Evaluation
    from harness.submit.inspect import Finding

CLAIM = "claim"
LATE = ("chance", CLAIM)  # checks of the linter that need the evaluation


def trials_of(case: Case, request: SubmitRequest) -> list[Trial]:
    """The trials that a set is evaluated in: one for each network and protocol that is asked for."""
    scale, spec = scale_named(request.scale), request.spec
    made = Distillation(
        method=request.full_name,
        dataset=spec.name,
        dataset_source=spec.source,
        ipc=case.distilled.ipc,
        seed=case.seed,
        scale=scale.name,
        arch=request.network,
        config=case.distilled.config,
        zca=request.zca,
        image_size=spec.image_size,
        listing=spec.listing,
        settings_from=SettingsSource(kind="submitted", file=case.source.path.name),
    )
    protocols = [protocol_named(name) for name in request.protocol or (scale.protocol,)]
    if case.distilled.learned_lr is not None:
        refuse_other_rates(f"{case.source.path.name} keeps", [protocol.name for protocol in protocols])
    return [
        trial_of(
            made,
            eval_arch=network,
            protocol=protocol.name,
            protocol_version=protocol.version,
            evals=request.evals or scale.evals,
        )
        for network in request.networks
        for protocol in protocols
    ]


def evaluate_case(case: Case, trial: Trial, request: SubmitRequest) -> Record:
    """The record of a set: the one that is there, or that of evaluating it now, written before it returns.

    UserError if other images stand under the same name, seed and settings, or another process is at it.
    """
    from harness.engine.claim import BusyError, claimed

    results = request.results
    try:
        with claimed(trial, results), claimed(trial.distillation, results):
            found = _kept(case, trial, request)
            record = existing_record(trial, results)
            if record is not None:
                return _same(record, case, request)
            record = _measured(case, trial, found, request)
            write_record(record, results)
            shutil.rmtree(trial.work_folder(results), ignore_errors=True)
            return record
    except BusyError as error:
        raise UserError(f"{error}; wait for it, or end it") from None


def _kept(case: Case, trial: Trial, request: SubmitRequest) -> FoundSet | None:
    """The set that is there under the same name and seed; UserError if it is another one."""
    from harness.core.distilled import Distilled

    found = find_set(trial.distillation, request.results)
    if found is None:
        return None
    path = found.path(request.results)
    # The set beside the record may have been removed, then the digest has to do: it does not cover the rate.
    other_rate = path.exists() and Distilled.load(path).learned_lr != case.distilled.learned_lr
    if found.record.images_digest != case.distilled.digest() or other_rate:
        raise UserError(
            f"{trial.distillation.label} is the record of other {'rates' if other_rate else 'images'} "
            f"({found.place}); finished records are not overwritten: give this set another --method or --seed"
        )
    return found if path.exists() else None


def _same(record: Record, case: Case, request: SubmitRequest) -> Record:
    """The record that is there, with the claim that was typed; UserError if it is of other images."""
    if record.images_digest != case.distilled.digest():
        raise UserError(
            f"{record.trial.label} is the record of other images ({record.trial.place}); "
            "finished records are not overwritten: give this set another --method or --seed"
        )
    claimed = None if record.submission is None else record.submission.claimed_accuracy
    if request.claimed is not None and _claim(case, record.trial, request) != claimed:
        return _claimed_anew(record, case, request)
    request.say(f"{record.trial.label}: measured before, the record stays as it is")
    return record


def _claim(case: Case, trial: Trial, request: SubmitRequest) -> float | None:
    """The accuracy in [0, 1] that is claimed for this network; a claim is for one network alone."""
    return case.claimed if trial.network == request.network else None


def _claimed_anew(record: Record, case: Case, request: SubmitRequest) -> Record:
    """The record with the claim that was typed, and what is found about it; the measurement stays."""
    path = existing_path(record.trial, request.results)
    assert record.submission is not None
    assert case.claimed is not None
    assert path is not None
    before = record.submission.claimed_accuracy
    kept = [one for one in record.submission.found if one.check != CLAIM]
    found = _facts(_on_claim(record.accuracies, case.claimed, request.spec, record.trial))
    submission = msgspec.structs.replace(
        record.submission, claimed_accuracy=case.claimed, findings=[*kept, *found]
    )
    changed = msgspec.structs.replace(record, submission=submission)
    rewrite(changed, path)
    was = "without a claim before" if before is None else f"before {100 * before:.1f} %"
    now = f"the claim is now {100 * case.claimed:.1f} % ({was})"
    request.say(f"{record.trial.label}: measured before, that stays; {now}")
    return changed


def _measured(case: Case, trial: Trial, found: FoundSet | None, request: SubmitRequest) -> Record:
    """The record of training on the set as it was saved, and of testing once."""
    from harness.core import clock
    from harness.core.data import load
    from harness.core.distilled import Distilled
    from harness.engine.outcomes import done_record
    from harness.engine.provenance import code_digest, provenance
    from harness.engine.trial import ask

    started_at = clock.now()
    spec = request.spec
    data = load(spec, request.data_dir, download=False, device=request.device)
    found = found or _put_in_place(case, trial, data, request)
    distilled = Distilled.load(found.path(request.results))
    context = _context(trial, distilled.digest(), request)
    measured, teaching = ask(trial, distilled, data, context, request.results)
    claimed = _claim(case, trial, request)
    return done_record(
        trial,
        found,
        data,
        measured,
        teacher=teaching,
        evaluate=context.cost(),
        submission=_submitted(case, claimed, after(measured, claimed, spec, trial)),
        provenance=provenance(
            code_digest(trial, "evaluate"),
            device=request.device,
            started_at=started_at,
            resumed=context.resumed,
        ),
    )


def _put_in_place(case: Case, trial: Trial, data: Dataset, request: SubmitRequest) -> FoundSet:
    """Save the set where those that are distilled here lie, with a record that knows nothing of its cost."""
    from harness.engine.outcomes import distillation_record, show_set

    made = trial.distillation
    case.distilled.save(made.set_path(request.results))
    earlier = find_set(made, request.results)
    if earlier is not None:
        return earlier
    record = distillation_record(made, case.distilled, data)
    show_set(case.distilled, made, request.results)
    write_distillation(record, request.results)
    return FoundSet(made.place, record)


def _submitted(case: Case, claimed: float | None, late: Sequence[Finding]) -> Submitted:
    """Where the set comes from, and all that was found, `late` by its evaluation."""
    return Submitted(
        claimed_accuracy=claimed,
        file_digest=case.source.digest,
        importer=case.importer,
        findings=_facts([*case.findings, *late]),
    )


def _facts(findings: Sequence[Finding]) -> list[RecordedFinding | str]:
    return [one.recorded for one in findings]


def _context(trial: Trial, digest: str, request: SubmitRequest) -> Context:
    """What networks are trained in: an interrupted evaluation of the same set by the same code goes on."""
    import torch

    from harness.core.context import Context
    from harness.engine.provenance import code_digest
    from harness.engine.trial import CACHE_NAME

    circumstances = (digest[:12], code_digest(trial, "evaluate"), str(torch.__version__), request.device)
    name = "-".join(("evaluate", *(re.sub(r"[^A-Za-z0-9.+]", "_", fact) for fact in circumstances)))
    return Context(
        seed_for(trial.seed, "evaluate"),
        arch=trial.network,
        data_dir=request.data_dir,
        cache=request.results / WORK_FOLDER / CACHE_NAME,
        device=request.device,
        work=trial.work_folder(request.results) / name,
        on_progress=None if request.json or not sys.stderr.isatty() else _show_progress,
    )


def after(found: Evaluation, claimed: float | None, spec: DatasetSpec, trial: Trial) -> list[Finding]:
    """Findings on the measured accuracies of one set: at chance level, or far from the claim."""
    from harness.submit import inspect

    mean = statistics.fmean(found.accuracies)
    late = inspect.outcome(mean, found.test_counts)
    return late + ([] if claimed is None else _on_claim(found.accuracies, claimed, spec, trial))


def _on_claim(accuracies: Sequence[float], claimed: float, spec: DatasetSpec, trial: Trial) -> list[Finding]:
    """Findings on a claim beside measured accuracies in [0, 1]."""
    from scipy.stats import binomtest

    from harness.submit import inspect

    tested = _tested(spec)
    mean = statistics.fmean(accuracies)
    interval = binomtest(round(mean * tested), tested).proportion_ci(inspect.CONFIDENCE, method="wilson")
    low, high = min(interval.low, *accuracies), max(interval.high, *accuracies)
    origin = f"the networks of this set, and what {tested} test images leave open"
    smaller = f"; the {trial.scale} scale trains shorter, smaller networks than papers do"
    return inspect.claim(claimed, (low, high), origin, "" if trial.scale == "paper" else smaller)


def _tested(spec: DatasetSpec) -> int:
    """Number of test images."""
    known = KNOWN.get(spec.source)
    if known is not None:
        return known.test
    return sum(map(len, folder_splits(Path(spec.path or ""))["test"].values()))


def _show_progress(progress: Progress) -> None:
    end = "\n" if progress.step == progress.total else ""
    print(
        f"\r{progress.phase}: epoch {progress.step} of {progress.total}", end=end, file=sys.stderr, flush=True
    )
