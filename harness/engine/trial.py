"""One trial from start to record: distil what is not there yet, evaluate it, write down what happened.

Importing this module does not import torch, so that launchers stay light.
"""

from __future__ import annotations

import dataclasses
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.core import clock
from harness.core.errors import CircumstanceError, DataError, UserError
from harness.core.files import replacing
from harness.core.seeds import seed_for
from harness.engine import provenance as code
from harness.engine.claim import BusyError, claimed
from harness.engine.curve import CurveEvaluator, measure
from harness.engine.outcomes import (
    distillation_record,
    done_record,
    failure,
    keep_predictions,
    show_set,
    taught_by,
)
from harness.engine.protocol import protocol_named
from harness.engine.record_files import (
    FoundSet,
    existing_record,
    find_set,
    write_atomically,
    write_distillation,
    write_record,
)
from harness.engine.records import (
    WORK_FOLDER,
    CurvePoint,
    Distillation,
    DistillationRecord,
    Provenance,
    Record,
    Teaching,
    Trial,
)
from harness.engine.settings import RunSettings
from harness.engine.surroundings import with_threads

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import Dataset, HeldOut
    from harness.core.distilled import Distilled
    from harness.core.progress import Progress
    from harness.core.teachers import Teacher
    from harness.engine.evaluate import Evaluation

CACHE_NAME = "cache"  # beside the work folders: trained networks that trials share
SET_NAME, NOTED_NAME = "set.safetensors", "distillation.json"  # in a distillation's work folder


def run_trial(
    trial: Trial,
    settings: RunSettings,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Record:
    """The record of a trial: the one that is there, done or failed, or else that of running it now.

    A set that was distilled is not distilled again, whichever trial it was made for. An interrupted trial
    goes on from its checkpoints. What goes wrong in the trial becomes a failed record; raised are BusyError,
    UserError for a file in the record's place that is none, OSError when the record cannot be written, and
    `harness.core.loop.Stopped` when a loop obeyed `should_stop`.
    """
    results = settings.results
    with claimed(trial, results):
        record = existing_record(trial, results)
        if record is None:
            _sweep(trial.record_path(results))
            record = _attempt(_Run(trial, settings, on_progress, should_stop))
            write_record(record, results)
        if record.status == "done":
            shutil.rmtree(trial.work_folder(results), ignore_errors=True)
        return record


def refused(trial: Trial, results: Path, reason: str) -> Record:
    """The record that is there, or else a failed one that says why the trial is not run as things are.

    The same command goes on with it. Raises BusyError, UserError and OSError as `run_trial` does.
    """
    with claimed(trial, results):
        record = existing_record(trial, results)
        if record is None:
            record = Record(id=trial.id, status="failed", reason=reason, resumable=True, trial=trial)
            write_record(record, results)
        return record


class _Start(msgspec.Struct, frozen=True):
    """What a work folder was begun with; what another code or device began is not gone on with."""

    started_at: str
    code_digest: str
    torch: str
    device: str


class _Begun(msgspec.Struct, frozen=True):
    """How a phase was begun: with so many threads of torch, since they decide how sums are rounded."""

    threads: int
    set_digest: str = ""


@dataclass(frozen=True)
class _Run:
    """A trial under way."""

    trial: Trial
    settings: RunSettings
    on_progress: Callable[[Progress], None] | None
    should_stop: Callable[[], bool] | None

    @property
    def work(self) -> Path:
        """Where the evaluation keeps its checkpoints."""
        return self.trial.work_folder(self.settings.results)

    @property
    def set_work(self) -> Path:
        """Where the distillation keeps its own, for all trials that ask about the set."""
        return self.trial.distillation.work_folder(self.settings.results)

    def context(self, phase: str, **changes: Any) -> Context:
        """Context of one phase. Evaluation measures: its precision and length are the protocol's alone.

        `changes` replace arguments of the context.
        """
        from harness.core.context import Context

        distilling = phase == "distill"
        arguments: dict[str, Any] = {
            "arch": self.trial.arch if distilling else self.trial.network,
            "data_dir": self.settings.data_dir,
            "cache": self.settings.results / WORK_FOLDER / CACHE_NAME,
            "device": self.settings.device,
            "precision": self.trial.precision if distilling else "fp32",
            "budget_flops": self.trial.budget_flops if distilling else None,
            "work": (self.set_work if distilling else self.work) / phase,
            "checkpoint_seconds": self.settings.checkpoint_seconds,
            "on_progress": self.on_progress,
            "should_stop": self.should_stop,
            "snapshots": self.trial.curve if distilling else 0,
        }
        return Context(seed_for(self.trial.seed, phase), **(arguments | changes))


def _attempt(run: _Run) -> Record:
    start = _fresh_start(run)
    # What this process runs next does not have the threads of a run that goes on with its own.
    with with_threads(run.settings.threads):
        try:
            _set_up(run.settings.device, run.settings.threads)
            return _measured(run)
        except BusyError:
            raise  # another process is making the set
        except Exception as error:  # noqa: BLE001 - whatever a method raises costs this trial only
            _log_traceback(run, error)
            status, reason, resumable = failure(error)
            return Record(
                id=run.trial.id,
                status=status,
                reason=reason,
                resumable=resumable,
                trial=run.trial,
                provenance=_provenance(run, start, resumed=0),
            )


def _measured(run: _Run) -> Record:
    dataset, held_out = _dataset(run), None
    if run.trial.curve:
        dataset, held_out = dataset.hold_out()
    found = _found_or_made(run, dataset, held_out)
    _begin(run.work, _fresh_start(run, "evaluate"))
    _go_on(run.work / "evaluate", found.record.images_digest or "")
    return _evaluated(run, dataset, found)


def _found_or_made(run: _Run, dataset: Dataset, held_out: HeldOut | None) -> FoundSet:
    """The set that the trial asks about, in its place by now; BusyError if another process is at it."""
    results, distillation = run.settings.results, run.trial.distillation
    with claimed(distillation, results):
        found = find_set(distillation, results)
        if found is None or not _readable(found.path(results)):
            found = _made(run, dataset, held_out, found)
        return found


def _readable(path: Path) -> bool:
    """Whether there is a set that is not damaged."""
    from harness.core.distilled import Distilled

    try:
        Distilled.load(path)
    except UserError:
        return False
    return True


def _made(run: _Run, dataset: Dataset, held_out: HeldOut | None, earlier: FoundSet | None) -> FoundSet:
    """The set, distilled now or by an earlier, killed run; `earlier` is a record of it whose set is gone."""
    from harness.core.distilled import Distilled

    results, distillation = run.settings.results, run.trial.distillation
    start = _begin(run.set_work, _fresh_start(run, "distill"))
    _go_on(run.set_work / "distill")
    record = _finished_distillation(run) or _distilled(run, dataset, start)
    if earlier is not None and earlier.record.images_digest != record.images_digest:
        raise CircumstanceError(
            f"the set of {earlier.place}.json is gone, and distilled again it came out otherwise (digest "
            f"{record.images_digest[:12]}, recorded {str(earlier.record.images_digest)[:12]}); bring the set "
            "back, or move the record away and give the same command to use the new one"
        )
    target = distillation.set_path(results)
    if (run.set_work / SET_NAME).exists():
        with replacing(target) as aside:
            shutil.copyfile(run.set_work / SET_NAME, aside)
    if earlier is None:
        if held_out is not None:
            curve = _curve(run, dataset, held_out, record)
            record = msgspec.structs.replace(record, curve=curve, judged_for=run.trial.id)
        show_set(Distilled.load(target), distillation, results)
        write_distillation(record, results)
    shutil.rmtree(run.set_work, ignore_errors=True)
    return FoundSet(distillation.place, record) if earlier is None else earlier


def _evaluated(run: _Run, dataset: Dataset, found: FoundSet) -> Record:
    """The record of training networks on the set, as it was saved, and of testing them."""
    from harness.core.distilled import Distilled

    trial, path = run.trial, found.path(run.settings.results)
    distilled = Distilled.load(path)
    if distilled.digest() != found.record.images_digest:
        raise CircumstanceError(
            f"the set {path} was changed since it was distilled (digest {distilled.digest()[:12]}, recorded "
            f"{str(found.record.images_digest)[:12]}); restore it, or move it and its record away"
        )
    start = _begin(run.work, _fresh_start(run, "evaluate"))
    context = run.context("evaluate")
    evaluation, teaching = ask(trial, distilled, dataset, context, run.settings.results)
    return done_record(
        trial,
        found,
        dataset,
        evaluation,
        teacher=teaching,
        evaluate=context.cost(),
        provenance=_provenance(run, start, context.resumed),
    )


def ask(
    trial: Trial, distilled: Distilled, dataset: Dataset, context: Context, results: Path
) -> tuple[Evaluation, Teaching | None]:
    """Train and test networks as a trial asks, and keep their predictions; also told is who taught them."""
    from harness.engine.evaluate import check_asked, evaluate

    protocol = protocol_named(trial.protocol)
    check_asked(distilled, protocol)
    teacher = _teacher(trial, dataset, context) if protocol.regime == "teacher" else None
    evaluation = evaluate(distilled, dataset, protocol, evals=trial.evals, context=context, teacher=teacher)
    keep_predictions(trial, evaluation, results)
    return evaluation, None if teacher is None else taught_by(teacher)


def _teacher(trial: Trial, dataset: Dataset, context: Context) -> Teacher:
    """The teacher of all evaluations of sets by this network at this scale; UserError if it is no good."""
    from harness.core.teachers import RECIPES, check_worth, teacher_network, train_teacher

    teacher = train_teacher(context, dataset, teacher_network(trial.arch), RECIPES[trial.scale])
    check_worth(teacher, dataset.name)
    return teacher


def _curve(run: _Run, dataset: Dataset, held_out: HeldOut, made: DistillationRecord) -> list[CurvePoint]:
    """How good the set was along the way and in the end, by images that it was not distilled from."""
    from harness.core.data import sealed
    from harness.core.distilled import Distilled

    trial = run.trial

    def context_of(step: int, k: int) -> Context:
        return run.context(f"curve-{step}-{k}", work=None, on_progress=None, should_stop=None)

    def distil_to(work: Path, step: int) -> tuple[Distilled, float]:
        context = run.context("distill", work=work, limit_steps=step, on_progress=None, snapshots=0)
        return distil(trial.distillation, dataset, context), context.cost().flops

    judge = CurveEvaluator(held_out, protocol_named(trial.protocol), trial.evals, context_of)
    with sealed(f"watching {trial.method} distil"):
        points = list(measure(run.set_work, judge, distil_to))
        path = trial.distillation.set_path(run.settings.results)
        final = judge.accuracies(Distilled.load(path), made.steps)
    return [*points, CurvePoint(made.steps, made.cost.flops if made.cost else 0.0, final)]


def _distilled(run: _Run, dataset: Dataset, start: _Start) -> DistillationRecord:
    """Run the method and save the set; its record, which is noted in the work folder for a killed run."""
    from harness.core.data import sealed

    distillation, context = run.trial.distillation, run.context("distill")
    with sealed(f"distilling {distillation.method}"):
        distilled = distil(distillation, dataset, context)
    distilled.save(run.set_work / SET_NAME)
    record = distillation_record(
        distillation,
        distilled,
        dataset,
        cost=context.cost(),
        steps=context.steps_of("distill"),
        provenance=_provenance(run, start, context.resumed),
    )
    write_atomically(run.set_work / NOTED_NAME, msgspec.json.encode(record))
    return record


def distil(distillation: Distillation, dataset: Dataset, context: Context) -> Distilled:
    """What a method makes of the dataset, with the name and settings that it was asked for by.

    A method need not know its name, which may be that of a variant.
    """
    from harness.core.settings import values_of
    from methods import config_from, load

    method = distillation.method
    config = config_from(method, distillation.config)
    made: Distilled = load(method).distill(dataset, distillation.ipc, config=config, context=context)
    return dataclasses.replace(made, method=method, config=values_of(config))


def _finished_distillation(run: _Run) -> DistillationRecord | None:
    """What an earlier run noted of its distilled set, if that still is the one it saved."""
    from harness.core.distilled import Distilled

    here, target = run.set_work / SET_NAME, run.trial.distillation.set_path(run.settings.results)
    try:
        noted = msgspec.json.decode((run.set_work / NOTED_NAME).read_bytes(), type=DistillationRecord)
        intact = Distilled.load(here if here.exists() else target).digest() == noted.images_digest
    except (FileNotFoundError, msgspec.DecodeError, UserError):
        return None
    return noted if intact else None


def _dataset(run: _Run) -> Dataset:
    """The trial's dataset, which was there when the run was planned: what is wrong with it now may pass."""
    from harness.core.data import load, parse

    trial, settings = run.trial, run.settings
    text = settings.datasets[trial.dataset]
    try:
        spec = parse(text, settings.data_dir, trial.image_size, trial.zca)
        if (spec.name, spec.source, spec.listing) != (trial.dataset, trial.dataset_source, trial.listing):
            raise DataError(f"{text} changed since the run was planned; start the command again")
        return load(spec, settings.data_dir, download=False, device=settings.device)
    except DataError as error:
        raise CircumstanceError(str(error)) from error


def _fresh_start(run: _Run, part: code.Part = "whole") -> _Start:
    import torch

    digest = code.code_digest(run.trial, part)
    return _Start(clock.now(), digest, str(torch.__version__), run.settings.device)


def _set_up(device: str, threads: int | None) -> None:
    """How torch computes in this process."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if device.startswith("cuda"):
        # TF32, which convolutions have there by default, for products of matrices as well.
        torch.backends.cuda.matmul.allow_tf32 = True


def compute_as_trials_do(device: str, threads: int | None) -> None:
    """Let torch compute in this process as it does in trials, for what is asked of a set outside of one."""
    _set_up(device, threads)


def _begin(work: Path, start: _Start) -> _Start:
    """Open a work folder: an interrupted run's, or a fresh one where that ran other code or elsewhere."""
    path = work / "start.json"
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=_Start)
    except (FileNotFoundError, msgspec.DecodeError):
        earlier = None
    if earlier is not None and msgspec.structs.replace(earlier, started_at=start.started_at) == start:
        return earlier
    for leftover in ("distill", "evaluate"):
        shutil.rmtree(work / leftover, ignore_errors=True)
    (work / NOTED_NAME).unlink(missing_ok=True)
    write_atomically(path, msgspec.json.encode(start))
    return start


def _go_on(folder: Path, set_digest: str = "") -> None:
    """Go on in the folder of a phase as it was begun; not with networks that learned from another set.

    set_digest: of the set that they learn from; "" in a distillation.
    """
    import torch

    path = folder / "begun.json"
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=_Begun)
    except (FileNotFoundError, msgspec.DecodeError):
        begun = _Begun(torch.get_num_threads())  # or by code that did not note it
    if begun.set_digest != set_digest:
        shutil.rmtree(folder, ignore_errors=True)
        begun = _Begun(torch.get_num_threads(), set_digest)
    torch.set_num_threads(begun.threads)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(begun))


def _sweep(path: Path) -> None:
    """Remove what a write that was killed midway left beside the record."""
    for aside in path.parent.glob(f".{path.stem}.*.tmp"):
        aside.unlink(missing_ok=True)


def _provenance(run: _Run, start: _Start, resumed: int) -> Provenance:
    """Facts about the run; its code is that which it began with, whatever lies on the disk by now."""
    return code.provenance(
        start.code_digest, device=run.settings.device, started_at=start.started_at, resumed=resumed
    )


def _log_traceback(run: _Run, error: Exception) -> None:
    path = run.settings.log_of(run.trial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.writelines(traceback.format_exception(error))
    except OSError:
        # The disk is full or gone: the record's reason, or the launcher's, has to do.
        return
