"""`submit`: a distilled set that somebody else made becomes a record, its claimed accuracy beside ours.

The set is read by `harness.importers`, looked over by `harness.lint`, and evaluated as our own are: the
protocol of the scale, the same named seeds, the test split opened once. Its record stands under the method
`NAME@submitted`, so that it is never averaged with what this harness distils. Identity is the name, the seed
and the settings; the same images under them are the same record, other images are refused.

Importing this module does not import torch.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.data.catalog import KNOWN, DatasetSpec, default_data_dir, folder_splits, parse
from harness.errors import UnknownNameError, UserError
from harness.importers import FORMATS, Source
from harness.nets.names import canonical
from harness.protocol import PROTOCOL_VERSION, protocol_named
from harness.records import Record, Submitted, Trial, read_record, write_record
from harness.scales import scale_named
from harness.seeds import seed_for

if TYPE_CHECKING:
    from harness.data import Dataset, Transform
    from harness.importers.common import Imported
    from harness.lint import Finding, Likeness, Reading, Space
    from harness.loop import Progress
    from methods.api import Context, Distilled

SUFFIX = "@submitted"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LABELS = ("stored", "hard", "logits")


@dataclass(frozen=True)
class Request:
    """What `submit` is asked to do; None stands for what the scale, the file or the dataset says.

    claimed: percent, as typed. normalised: None, or the dataset whose statistics were used ("" its own).
    seed: that of the first set in the file; the others count on.
    """

    file: Path | None
    dataset: str
    method: str
    claimed: float | None = None
    ipc: int | None = None
    scale: str = "paper"
    evals: int | None = None
    format: str | None = None
    factor: int | None = None
    normalised: str | None = None
    raw: bool = False
    zca: bool = False
    image_size: int | None = None
    labels: str = "stored"
    lr: float | None = None
    augmentation: str | None = None
    seed: int = 0
    experiment: int | None = None
    arch: str | None = None
    protocol: str | None = None
    device: str = "cpu"
    threads: int | None = None
    results: Path = Path("results")
    data: Path | None = None
    force: bool = False
    lint_only: bool = False
    json: bool = False

    @property
    def data_dir(self) -> Path:
        """Folder of the datasets."""
        return self.data or default_data_dir()

    @property
    def full_name(self) -> str:
        """Method under which the record stands: `dm@submitted`."""
        return f"{self.method}{SUFFIX}"


@dataclass(frozen=True)
class Case:
    """One set of a file, converted and looked over.

    claimed: the accuracy in [0, 1] that is claimed for it, typed or from the file; None if there is none.
    """

    distilled: Distilled
    reading: Reading
    like: Likeness
    findings: list[Finding]
    claimed: float | None
    seed: int
    source: Source
    importer: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `submit`, under the names of `Request`'s fields."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="the distilled set, a file or folder; without it, what was submitted is listed",
    )
    texts = {
        "dataset": ("NAME", "dataset that it was distilled from, see `list datasets`"),
        "method": ("NAME", f"what to call it; tables show NAME{SUFFIX}"),
        "scale": ("NAME", "track: paper, cpu, smoke (paper)"),
        "format": ("NAME", f"{', '.join(FORMATS)} (from the file's name)"),
        "labels": ("HOW", "stored, hard (the highest of a row) or logits (their softmax) (stored)"),
        "augmentation": ("OPS", "DSA operations to train with, or none (from the file, else the field's)"),
        "arch": ("NAME", "network, see `list archs` (from the scale)"),
        "protocol": ("NAME", "evaluation, see `list protocols` (from the scale)"),
        "device": ("NAME", "cpu, cuda or cuda:N (cpu)"),
    }
    whole = {
        "ipc": "stored images per class (from the number of images)",
        "evals": "networks trained on each set (from the scale)",
        "factor": "multi-formation: each image is a grid of N x N (from the file, else 1)",
        "image_size": "side of the images of a folder dataset",
        "seed": "seed of the first set in the file, the others count on (0)",
        "experiment": "take only the N-th set of a file, from 0 (all)",
        "threads": "CPU threads",
    }
    for name, (metavar, about) in texts.items():
        parser.add_argument(_flag(name), metavar=metavar, default=argparse.SUPPRESS, help=about)
    for name, about in whole.items():
        parser.add_argument(_flag(name), type=int, metavar="N", default=argparse.SUPPRESS, help=about)
    _add_numbers_and_switches(parser)


def _add_numbers_and_switches(parser: argparse.ArgumentParser) -> None:
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--claimed", type=float, metavar="PERCENT", default=absent, help="the accuracy claimed, e.g. 65.3"
    )
    parser.add_argument(
        "--lr", type=float, metavar="RATE", default=absent, help="learning rate that was distilled along"
    )
    parser.add_argument(
        "--normalised",
        nargs="?",
        const="",
        metavar="NAME",
        default=absent,
        help="pixels are normalised, by the statistics of the dataset NAME if not by its own",
    )
    parser.add_argument("--results", type=Path, metavar="DIR", default=absent, help="where records lie")
    parser.add_argument("--data", type=Path, metavar="DIR", default=absent, help="where datasets lie")
    switches = {
        "raw": "pixels are in [0, 1] or [0, 255], not normalised",
        "zca": "the set is for ZCA whitened images",
        "force": "evaluate in spite of errors",
        "lint_only": "look it over and stop",
        "json": "print JSON and nothing else",
    }
    for name, about in switches.items():
        parser.add_argument(_flag(name), action="store_true", default=absent, help=about)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def request_from(arguments: argparse.Namespace) -> Request:
    """The request that was typed; UserError for what is missing or cannot be."""
    typed = {name: value for name, value in vars(arguments).items() if name in Request.__dataclass_fields__}
    if typed["file"] is not None:
        for name in ("dataset", "method"):
            if name not in typed:
                raise UserError(f"{_flag(name)} is missing; type submit FILE --dataset NAME --method NAME")
    request = Request(**({"dataset": "", "method": ""} | typed))
    if request.file is not None:
        _check(request)
    return request


def _check(request: Request) -> None:
    if not NAME.fullmatch(request.method):
        raise UserError(
            f"--method {request.method!r} cannot name a record; "
            "expected letters, digits and . _ + -, e.g. dm-2024"
        )
    if request.claimed is not None and not 1 <= request.claimed <= 100:
        raise UserError(f"--claimed {request.claimed:g} is no accuracy in percent; type e.g. --claimed 65.3")
    scale = scale_named(request.scale)
    protocol_named(request.protocol or scale.protocol)
    canonical(request.arch or scale.arch)
    if request.labels not in LABELS:
        raise UnknownNameError("way to read labels", request.labels, LABELS)
    if request.raw and request.normalised is not None:
        raise UserError("--raw says that pixels are not normalised, --normalised that they are; drop one")
    if request.normalised and request.normalised not in KNOWN:
        raise UnknownNameError("dataset", request.normalised, KNOWN)
    if request.lr is not None and not request.lr > 0:
        raise UserError(f"--lr {request.lr:g} is no learning rate; it must be positive")
    for name in ("ipc", "evals", "factor", "threads", "image_size"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UserError(f"{_flag(name)} {value} is impossible; expected a whole number from 1 up")
    if request.seed < 0:
        raise UserError(f"--seed {request.seed} is impossible; expected a whole number from 0 up")


def command(request: Request) -> int:
    """Look the set over, evaluate it, print what came of it; returns 0, or 1 if an error was found."""
    if request.file is None:
        return _list(request)
    cases = list(prepare(request))
    _say(request, *_described(request, cases))
    stopped = not request.force and any(_errors(case) for case in cases)
    if stopped or request.lint_only:
        if stopped:
            _say(request, "not evaluated because of the errors above; --force evaluates all the same")
        if request.json:
            print(_as_json(cases, []))
        return int(stopped)
    records = [evaluate_case(case, request) for case in cases]
    late = [finding for record in records for finding in _late(record)]
    from harness.report.claims import claims_markdown

    _say(request, *late, "", claims_markdown(_with_siblings(records, request.results)), "")
    _say(request, *(f"record: {record.trial.record_path(request.results)}" for record in records))
    if request.json:
        print(_as_json(cases, records))
    return int(not request.force and any(finding.startswith("error") for finding in late))


def prepare(request: Request) -> Iterator[Case]:
    """The sets of the file, converted and looked over, all of it without any look at the test split."""
    from harness import importers
    from harness.data import load, sealed
    from harness.plan import check_device

    check_device(request.device)
    assert request.file is not None
    if request.threads is not None:
        import torch

        torch.set_num_threads(request.threads)
    spec = parse(request.dataset, request.data_dir, request.image_size, request.zca)
    source = importers.find(request.file, request.format)
    data = load(spec, request.data_dir)
    with sealed("a submitted set is looked over"):
        sets = importers.read(source, data)
        if request.experiment is not None:
            chosen = [one for one in sets if one.experiment == request.experiment]
            if not chosen:
                raise UserError(f"--experiment {request.experiment}: {source.path} holds {len(sets)}, from 0")
            sets = chosen
        for one in sets:
            yield _case(one, source, data, request)


def _case(one: Imported, source: Source, data: Dataset, request: Request) -> Case:
    from harness import lint

    images, labels = _channels_first(one.images, data.shape), _labels(one.labels, request.labels)
    findings = lint.structure(images, labels, data, request.ipc)
    lint.refuse_fatal(findings)
    findings += [lint.Finding("warning", "format", note, "") for note in one.notes]
    findings += lint.class_names(one.class_names, data.class_names)
    lint.refuse_fatal(findings)
    transform = _stated_transform(one, data, request)
    reading, oddities = lint.read_pixels(images, data, transform, _stated_space(one, request))
    findings += oddities
    distilled = _distilled(_converted(images, reading.space, transform, data), labels, one, data, request)
    like = lint.likeness(*distilled.decoded(), data, distilled.factor)
    findings += lint.classes(like, data.class_names)
    claimed = request.claimed / 100 if request.claimed is not None else one.claimed
    seed = request.seed + (0 if request.experiment is not None else one.experiment)
    return Case(distilled, reading, like, findings, claimed, seed, source, one.importer)


def _channels_first(images: Any, shape: tuple[int, int, int]) -> Any:
    """Images as (n, C, H, W) where they are so or in a layout that can only mean it, else as they are."""
    channels, height, width = shape
    if tuple(images.shape[1:]) == (height, width) and channels == 1:
        return images.unsqueeze(1)
    if tuple(images.shape[1:]) == (height, width, channels):
        return images.movedim(3, 1).contiguous()
    return images


def _labels(labels: Any, how: str) -> Any:
    """Class numbers (n,) int64 or rows (n, classes) float32, read as was asked."""
    import torch

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        return labels.round().long() if labels.is_floating_point() else labels.long()
    if labels.ndim != 2:
        raise UserError(
            f"labels of shape {tuple(labels.shape)} are neither class numbers nor rows, one for each image"
        )
    if how == "hard":
        return labels.argmax(dim=1)
    return torch.softmax(labels.float(), dim=1) if how == "logits" else labels.float()


def _stated_space(one: Imported, request: Request) -> Space | None:
    """The reading of the pixels that was stated, by the user or the file itself."""
    if request.normalised is not None or one.transform is not None:
        return "normalised"
    if not request.raw:
        return None
    return "bytes" if float(one.images.max()) > 1.5 else "unit"


def _stated_transform(one: Imported, data: Dataset, request: Request) -> Transform:
    """What normalised pixels of the file were made by."""
    from harness.data import Normalization

    if one.transform is not None:
        return one.transform
    if not request.normalised:
        return data.transform
    known = KNOWN[request.normalised]
    if len(known.mean) != data.shape[0]:
        raise UserError(
            f"--normalised {request.normalised}: its statistics are of {len(known.mean)} channels, "
            f"{data.name} has {data.shape[0]}"
        )
    return Normalization.of(known.mean, known.std)


def _converted(images: Any, space: Space, transform: Transform, data: Dataset) -> Any:
    """float32 images in the space of the dataset's transform; those that are in it stay bit for bit."""
    import torch

    from harness.lint import as_unit

    ours, theirs = data.transform.state(), transform.state()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if space == "normalised" and same:
        return images.float().contiguous()
    return data.transform(as_unit(images, space, transform)).contiguous()


def _distilled(images: Any, labels: Any, one: Imported, data: Dataset, request: Request) -> Distilled:
    """The set in this harness's form, class after class."""
    from harness.lint import hard
    from methods.api import Distilled
    from methods.augment import operations, usual_strategy

    order = hard(labels).argsort(stable=True)
    asked = request.augmentation if request.augmentation is not None else one.augmentation
    augmentation = usual_strategy(data.name) if asked is None else "" if asked == "none" else asked
    if not augmentation.startswith("dc:"):
        operations(augmentation)
    factor = request.factor or one.factor or 1
    return Distilled(
        images=images[order],
        labels=labels[order],
        ipc=request.ipc or max(1, len(images) // data.num_classes),
        dataset=data.name,
        class_names=data.class_names,
        transform=data.transform,
        method=request.full_name,
        config={"factor": factor, "augmentation": augmentation, "lr": request.lr},
        factor=factor,
        augmentation=augmentation,
        learned_lr=request.lr if request.lr is not None else one.learned_lr,
    )


def trial_of(case: Case, request: Request) -> Trial:
    """The trial that the evaluation of a set is."""
    scale = scale_named(request.scale)
    spec = parse(request.dataset, request.data_dir, request.image_size, request.zca)
    protocol = protocol_named(request.protocol or scale.protocol)
    return Trial(
        method=request.full_name,
        dataset=spec.name,
        dataset_source=spec.source,
        ipc=case.distilled.ipc,
        seed=case.seed,
        scale=scale.name,
        arch=canonical(request.arch or scale.arch),
        protocol=protocol.name,
        protocol_version=PROTOCOL_VERSION,
        evals=request.evals or scale.evals,
        config=case.distilled.config,
        zca=request.zca,
        image_size=spec.image_size,
        listing=spec.listing,
        settings_source=f"submitted: {case.source.path.name}",
    )


def evaluate_case(case: Case, request: Request) -> Record:
    """The record of a set: the one that is there, or that of evaluating it now, written before it returns.

    UserError if other images stand under the same name, seed and settings, or another process is at it.
    """
    from harness.trial import BusyError, claimed

    trial = trial_of(case, request)
    try:
        with claimed(trial, request.results):
            path = trial.record_path(request.results)
            if path.exists():
                return _same(read_record(path), case, path, request)
            record = _measured(case, trial, request)
            write_record(record, request.results)
            shutil.rmtree(trial.work_folder(request.results), ignore_errors=True)
            return record
    except BusyError as error:
        raise UserError(f"{error}; wait for it, or end it") from None


def _same(record: Record, case: Case, path: Path, request: Request) -> Record:
    """The record that is there, if it is of the same images and rate; UserError if not."""
    from methods.api import Distilled

    kept = record.trial.distilled_path(request.results)
    # The set beside the record may have been removed, then the digest has to do: it does not cover the rate.
    other_rate = kept.exists() and Distilled.load(kept).learned_lr != case.distilled.learned_lr
    if record.images_digest != case.distilled.digest() or other_rate:
        raise UserError(
            f"{record.trial.label} is the record of other {'rates' if other_rate else 'images'} ({path}); "
            "finished records are not overwritten: give this set another --method or --seed"
        )
    _say(request, f"{record.trial.label}: measured before, the record stays as it is")
    return record


def _measured(case: Case, trial: Trial, request: Request) -> Record:
    """The record of training on the set as it was saved, and of testing once."""
    from harness import meter
    from harness.data import load
    from harness.evaluate import evaluate
    from harness.trial import done_record
    from methods.api import Distilled

    started_at = meter.now()
    spec = parse(request.dataset, request.data_dir, request.image_size, request.zca)
    data = load(spec, request.data_dir, download=False, device=request.device)
    case.distilled.save(trial.distilled_path(request.results))
    distilled = Distilled.load(trial.distilled_path(request.results))
    context = _context(trial, distilled.digest(), request)
    found = evaluate(distilled, data, protocol_named(trial.protocol), evals=trial.evals, context=context)
    return done_record(
        trial,
        distilled,
        data,
        found,
        evaluate=context.cost(),
        submission=_submitted(case, after(found.accuracies, case.claimed, spec, trial)),
        provenance=meter.provenance(
            trial.method, device=request.device, started_at=started_at, resumed=context.resumed
        ),
    )


def _submitted(case: Case, late: Sequence[Finding]) -> Submitted:
    """Where the set comes from, and all that was found, `late` by its evaluation."""
    return Submitted(
        claimed_accuracy=case.claimed,
        file_digest=case.source.digest,
        importer=case.importer,
        findings=[str(finding) for finding in (*case.findings, *late)],
    )


def _context(trial: Trial, digest: str, request: Request) -> Context:
    """What networks are trained in: an interrupted evaluation of the same set by the same code goes on."""
    import torch

    from harness.meter import code_digest
    from methods.api import Context

    circumstances = (digest[:12], code_digest(trial.method), str(torch.__version__), request.device)
    name = "-".join(("evaluate", *(re.sub(r"[^A-Za-z0-9.+]", "_", fact) for fact in circumstances)))
    return Context(
        seed_for(trial.seed, "evaluate"),
        arch=trial.arch,
        data_dir=request.data_dir,
        device=request.device,
        work=trial.work_folder(request.results) / name,
        on_progress=None if request.json or not sys.stderr.isatty() else _show_progress,
    )


def after(
    accuracies: Sequence[float], claimed: float | None, spec: DatasetSpec, trial: Trial
) -> list[Finding]:
    """Findings on the measured accuracies of one set: at chance level, or far from the claim."""
    from scipy.stats import binomtest

    from harness import lint

    known = KNOWN.get(spec.source)
    if known is not None:
        tested, classes = known.test, known.classes
    else:
        test = folder_splits(Path(spec.path or ""))["test"]
        tested, classes = sum(map(len, test.values())), len(test)
    mean = statistics.fmean(accuracies)
    found = lint.outcome(mean, classes, tested)
    if claimed is None:
        return found
    interval = binomtest(round(mean * tested), tested).proportion_ci(lint.CONFIDENCE, method="wilson")
    low, high = min(interval.low, *accuracies), max(interval.high, *accuracies)
    origin = f"the networks of this set, and what {tested} test images leave open"
    smaller = f"; the {trial.scale} scale trains shorter, smaller networks than papers do"
    return found + lint.claim(claimed, (low, high), origin, "" if trial.scale == "paper" else smaller)


def _list(request: Request) -> int:
    """Print what was submitted to the results folder."""
    from harness.report.claims import claims_markdown
    from harness.report.frames import collect

    records = collect(request.results).records
    if request.json:
        print(_as_json([], [record for record in records if record.submission is not None]))
    else:
        print(claims_markdown(records))
    return 0


def _with_siblings(records: Sequence[Record], results: Path) -> list[Record]:
    """These records and those of the same name beside them, other seeds and files of it."""
    folders = {record.trial.record_path(results).parent for record in records}
    paths = sorted({path for folder in folders for path in folder.glob("*.json") if path.name[0] != "."})
    return [read_record(path) for path in paths]


def _described(request: Request, cases: Sequence[Case]) -> Iterator[str]:
    """What was read and found, line by line."""
    from harness.lint import SPACE_WORDS, hard

    source = cases[0].source
    yield f"{source.path}: {source.format}, SHA-256 {source.digest[:12]}, as {request.full_name}"
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


def _late(record: Record) -> list[str]:
    """Findings of a record that only its evaluation could bring."""
    findings = [] if record.submission is None else record.submission.findings
    return [text for text in findings if text.split(": ")[1] in ("chance", "claim")]


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


def _say(request: Request, *lines: str) -> None:
    if not request.json:
        for line in lines:
            print(line, flush=True)


def _show_progress(progress: Progress) -> None:
    end = "\n" if progress.step == progress.total else ""
    print(
        f"\r{progress.phase}: epoch {progress.step} of {progress.total}", end=end, file=sys.stderr, flush=True
    )
