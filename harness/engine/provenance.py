"""Where a record comes from: the circumstances of its run, and whether its code is that which is here.

Importing this module does not import torch, so that `status` can judge hundreds of records in an instant.
"""

from __future__ import annotations

import io
import platform
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

import methods
from harness import __version__
from harness.core import clock, processor
from harness.core.errors import UserError
from harness.core.nets.names import base_and_width, convnet_spec
from harness.engine import digest_cache, surroundings
from harness.engine.cache_file import FOLDERS
from harness.engine.reach import Module, Sources, Start
from harness.engine.records import FIRST_SCHEMA, Provenance, Record, Trial

ROOT = Path(__file__).resolve().parents[2]

# Begins the digests of today's rule; those without it were of whole files and cannot be compared with them.
SCHEME = "2:"
SUBMITTED = "@submitted"  # ends the method of a set that was handed in: no method of ours ran

Part = Literal["whole", "distill", "evaluate"]
# What runs a trial, from the data to its accuracies, and what each of its halves.
ENTRIES: Mapping[Part, tuple[str, ...]] = {
    "whole": ("harness.engine.trial._Run", "harness.engine.trial._measured"),
    "distill": (
        "harness.engine.trial._Run",
        "harness.engine.trial._dataset",
        "harness.engine.trial._distilled",
    ),
    "evaluate": (
        "harness.engine.trial._Run",
        "harness.engine.trial._dataset",
        "harness.engine.trial._evaluated",
    ),
}
SET_UP = ("harness.engine.trial._set_up", "harness.engine.trial._begin")  # the second in older code
CLOSED = (
    # Bookkeeping: how a record is written, not what stands in it.
    *("harness.engine.records", "harness.engine.record_files", "harness.engine.provenance"),
    "harness.core.clock.Cost",
    *("harness.core.errors", "harness.core.faults", "harness.core.files"),
    "harness.engine.trial._provenance",
    *("harness.engine.outcomes", "harness.engine.predictions", "harness.core.preview"),
    # How a method's file is found, and its settings: the file is an entry, the settings are in the trial.
    *("methods.load", "methods.resolve"),
)
# Of older code: bookkeeping as well, where it lay until it moved, and what is gone.
CLOSED_ONCE = (
    *("harness.engine.trial.done_record", "harness.engine.trial.distillation_record"),
    *("harness.engine.trial._keep_predictions", "harness.engine.trial.show_set"),
)
CLOSED_BEFORE = ("harness.meter.provenance", "harness.meter.code_digest", "methods.settings")
CURVE = "harness.engine.trial._curve"  # runs only in trials that ask for one
# Tables of which a trial uses the rows that it names.
REGISTRIES = (
    "harness.core.data.catalog.KNOWN",
    "harness.core.nets.factory._ZOO",
    "harness.core.nets.names.ARCHS",
    "harness.core.nets.names._VARIANTS",
    "harness.core.nets.names._ZOO",
    "harness.engine.protocol.PROTOCOLS",
    "harness.core.augment.DIGIT_DATASETS",
)
COMPOSE = "methods.shared.composition.compose"
SOFTEN = "methods.shared.soft_labels.soften"
SOFT = "@soft"  # the variant that is a rule for all methods, with code of its own
# Where older code has what now lies in these rooms.
MOVED = (
    *(("harness.core.augment.", "methods.augment."), ("methods.shared.", "methods.")),
    *(("harness.engine.", "harness."), ("harness.core.", "harness.")),
)

CodeState = Literal["current", "older code", "uncommitted code", "code not known"]
CURRENT: CodeState = "current"
OLDER: CodeState = "older code"
UNCOMMITTED: CodeState = "uncommitted code"
UNKNOWN: CodeState = "code not known"
CODE_WORDS: Mapping[CodeState, str] = {
    OLDER: "code that a trial reaches has changed since, or is another",
    UNCOMMITTED: "the checkout held changes that no commit has",
    UNKNOWN: "the record names no commit, or one that is not in this history",
}
KEPT_NAME = "digests.json"


class Subject(NamedTuple):
    """What of a trial decides which code it reaches."""

    method: str
    dataset: str
    dataset_source: str
    arch: str
    protocol: str
    curve: bool
    part: Part = "whole"

    @classmethod
    def of(cls, trial: Trial, part: Part = "whole") -> Subject:
        """That of a trial; variants of a method are one, since they differ in settings alone, but for SOFT.

        What a half of a trial does not use is left out: all evaluations by one network and protocol reach the
        same code, whatever made the sets.
        """
        submitted = trial.method.endswith(SUBMITTED) or part == "evaluate"
        method = "" if submitted else "+".join(name.partition("@")[0] for name in trial.method.split("+"))
        method += SOFT if method and _is_softened(trial.method) else ""
        watched = trial.curve > 0 and part != "evaluate"
        asked = trial.protocol.partition("@")[0] if part != "distill" or watched else ""
        arch = trial.network if part == "evaluate" else trial.arch
        return cls(method, trial.dataset, trial.dataset_source, arch, asked, watched, part)

    @property
    def name(self) -> str:
        """All of it in one line, different for different ones."""
        return " ".join(map(repr, self))


class Code:
    """The code of one tree, and what trials reach of it."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.digests: dict[str, str | None] = {}  # by the names of subjects, so far as they were asked for

    @classmethod
    def here(cls, parsed: dict[bytes, Module] | None = None) -> Code:
        """That of this package, as its files are now; `parsed` may hold what other trees have in common."""

        def read(path: str) -> bytes | None:
            if path.partition("/")[0] not in FOLDERS:
                return None  # an installed package has all others beside it
            try:
                return (ROOT / path).read_bytes()
            except OSError:
                return None

        return cls(Sources(read, lambda folder: (path.stem for path in (ROOT / folder).glob("*.py")), parsed))

    @classmethod
    def at(cls, commit: str, parsed: dict[bytes, Module] | None = None) -> Code | None:
        """That of a commit of this checkout; None if it is not in its history."""
        files = _files_at(commit)
        if files is None:
            return None

        def stems(folder: str) -> Iterator[str]:
            paths = map(Path, files)
            return (path.stem for path in paths if path.parent == Path(folder) and path.suffix == ".py")

        return cls(Sources(files.get, stems, parsed))

    def digest(self, trial: Trial, part: Part = "whole") -> str | None:
        """Digest of all code that decides what a trial measures; None if this tree cannot run it at all.

        That is the trial's method, the data, the networks, the loop and the evaluation, so far as they are
        reached (`harness.engine.reach`). Its settings and the version of its protocol stand in the trial.
        """
        return self.digest_of(Subject.of(trial, part))

    def digest_of(self, subject: Subject) -> str | None:
        """The same for all trials that reach the same code."""
        if subject.name not in self.digests:
            found = self._sources.digest(self._start(subject))
            self.digests[subject.name] = None if found is None else f"{SCHEME}{found}"
        return self.digests[subject.name]

    def _start(self, subject: Subject) -> Start:
        named, soft = subject.method.removesuffix(SOFT), subject.method.endswith(SOFT)
        parts = [f"methods.{part}" for part in named.split("+")] if named else []
        set_up = [path for path in self._places(SET_UP) if self._sources.has(path)][:1]
        entries = [*self._places(ENTRIES[subject.part]), *set_up]
        entries += self._places([SOFTEN]) if soft else []
        entries += [self._places([CURVE])[0]] if subject.curve and subject.part == "distill" else []
        fields = [f"{part}.Config" for part in parts]
        if len(parts) == 1:
            entries += [f"{parts[0]}.distill", *fields]
        elif len(parts) == 2:
            loop, distance = parts
            entries += [*self._places([COMPOSE]), f"{loop}.condense", f"{loop}.Config"]
            entries += [f"{distance}.distance_to"]
            fields = [f"{loop}.Config", f"{distance}.Weights"]
            entries += [path for path in fields[1:] if self._sources.has(path)]
        closed = (*CLOSED, *CLOSED_ONCE) if subject.curve else (*CLOSED, *CLOSED_ONCE, CURVE)
        return Start(
            entries=tuple(entries),
            fields=tuple(fields),
            closed=frozenset((*self._places(closed), *CLOSED_BEFORE)),
            registries=frozenset(self._places(REGISTRIES)),
            keys=frozenset((*subject[1:5], _row_of(subject.arch))),
        )

    def _places(self, names: Iterable[str]) -> list[str]:
        """Where this tree has what these names stand for."""
        today = self._sources.has(ENTRIES["whole"][0])
        return list(names) if today else [_as_it_was(name) for name in names]


def _is_softened(method: str) -> bool:
    """Whether the rule for all methods makes it, and no variant of that name in the method's file."""
    return method.endswith(SOFT) and method not in methods.discover()


def _row_of(arch: str) -> str:
    """The row of the tables of networks that a name of any width stands for; what is no name is itself."""
    try:
        return arch if convnet_spec(arch) is not None else base_and_width(arch)[0]
    except UserError:
        return arch


def _as_it_was(name: str) -> str:
    """The name of something in code that is older than the rooms it lies in now."""
    for now, then in MOVED:
        if name.startswith(now):
            return then + name.removeprefix(now)
    return name


def code_digest(trial: Trial, part: Part = "whole") -> str:
    """Digest of the code that this process runs and that decides what a trial measures, see `Code.digest`.

    Read from the files when it is first asked for: what is edited later, this process does not run.
    """
    return _digest_of(Subject.of(trial, part), ROOT)


@cache
def _text_of(root: Path) -> str:
    return digest_cache.text_digest(root, FOLDERS)


@cache
def _digest_of(subject: Subject, root: Path) -> str:
    text = _text_of(root)
    known = digest_cache.load(text)
    if subject.name not in known:
        known = {subject.name: Code.here().digest_of(subject)}
        _keep(known, root, text)
        # Syntax trees take tens of megabytes, which are no part of what a trial needs.
        clock.release_freed_memory()
    return known[subject.name] or f"{SCHEME}none"


def _keep(digests: Mapping[str, str | None], root: Path, text: str) -> None:
    """Keep digests for later processes, unless files changed meanwhile: they may be of either text."""
    if digest_cache.text_digest(root, FOLDERS) == text:
        digest_cache.keep(text, digests)


class Lineage:
    """Of which code records are, compared with the code that is here.

    For records whose digests are of an earlier scheme that is read from the history of this checkout, or from
    the file of `kept_digests` under `results`, which a checkout without history has as well.
    """

    def __init__(self, results: Path | None = None) -> None:
        self._parsed: dict[bytes, Module] = {}
        self._text = digest_cache.text_digest(ROOT, FOLDERS)
        self._here = Code.here(self._parsed)
        self._here.digests.update(digest_cache.load(self._text))
        self._commits: dict[str, Code | None] = {}
        self._kept = _read_kept(results) if results is not None else {}

    def state(self, record: Record) -> CodeState:
        """Whether a record is of the present code, else what is known of its own."""
        if record.schema > FIRST_SCHEMA:
            return self._of_halves(record)
        made = record.provenance
        if made is None:
            return UNKNOWN
        digest = self.digest(record)
        if digest is not None and digest == self._here.digest(record.trial):
            return CURRENT
        if made.git_dirty:
            return UNCOMMITTED
        return UNKNOWN if digest is None else OLDER

    def of_set(self, record: Record) -> CodeState:
        """Of which code a record's set is; that of a submitted one does not matter."""
        if record.submission is not None:
            return CURRENT
        made = record.distilled_in
        if made is not None and made is not record.provenance:
            return self._judged(made, record.trial, "distill")
        return UNKNOWN if made is None else self.state(record)

    def _of_halves(self, record: Record) -> CodeState:
        """The worse of what is known of the set and of its evaluation; a failure is of the whole trial."""
        made = record.provenance
        if record.status != "done" and made is not None:
            return self._judged(made, record.trial, "whole")
        states = {self.of_set(record)}
        states.add(UNKNOWN if made is None else self._judged(made, record.trial, "evaluate"))
        return next((state for state in (UNKNOWN, OLDER, UNCOMMITTED) if state in states), CURRENT)

    def _judged(self, made: Provenance, trial: Trial, part: Part) -> CodeState:
        if made.code_digest == self._here.digest(trial, part):
            return CURRENT
        if made.git_dirty:
            return UNCOMMITTED
        return OLDER if made.code_digest.startswith(SCHEME) else UNKNOWN

    def states(self, records: Iterable[Record]) -> dict[str, CodeState]:
        """States by the ids of the records."""
        known = len(self._here.digests)
        found = {record.id: self.state(record) for record in records}
        if len(self._here.digests) > known:
            _keep(self._here.digests, ROOT, self._text)
        return found

    def digest(self, record: Record) -> str | None:
        """Digest of a record's code by today's scheme; None if that code is not known."""
        made = record.provenance
        if made is None or made.code_digest.startswith(SCHEME):
            return None if made is None else made.code_digest
        if made.git_commit is None or made.git_dirty is not False:
            return None
        kept = self._kept.get(_kept_key(record))
        if kept is not None and kept.startswith(SCHEME):
            return kept
        if made.git_commit not in self._commits:
            self._commits[made.git_commit] = Code.at(made.git_commit, self._parsed)
        code = self._commits[made.git_commit]
        return None if code is None else code.digest(record.trial)

    def kept_digests(self, records: Iterable[Record]) -> bytes | None:
        """Content of the file that keeps what history tells of these records; None if there is nothing."""
        found = {
            _kept_key(record): digest
            for record in records
            if record.provenance is not None and not record.provenance.code_digest.startswith(SCHEME)
            if (digest := self.digest(record)) is not None
        }
        if not found:
            return None
        return msgspec.json.format(msgspec.json.encode(found, order="sorted"), indent=1) + b"\n"


def _kept_key(record: Record) -> str:
    """A record and the digest that it has: a record made anew has another key."""
    return f"{record.id} {record.provenance.code_digest if record.provenance else ''}"


def _read_kept(results: Path) -> dict[str, str]:
    path = results / KEPT_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); delete it, `report` makes it anew") from None


def renewal(results: Path) -> str:
    """The command that measures anew what is not of the present code."""
    where = [] if results == Path("results") else ["--results", str(results)]
    return shlex.join(["python", "-m", "harness", "renew", *where])


def provenance(digest: str, *, device: str, started_at: str, resumed: int) -> Provenance:
    """Facts about the run that ends now, on `device`, by this process, of the code with that digest."""
    import torch

    commit, dirty = _checkout()
    return Provenance(
        started_at=started_at,
        finished_at=clock.now(),
        resumed=resumed,
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        cpu=processor.model(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        torchvision=metadata.version("torchvision"),
        harness=__version__,
        git_commit=commit,
        git_dirty=dirty,
        code_digest=digest,
        keeps_memory=surroundings.keeps_memory(),
    )


def _checkout() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether its code differs; else nulls."""
    if not (ROOT / ".git").exists():
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", *FOLDERS)
    dirty = bool(changes) if commit is not None and changes is not None else None
    return commit.decode().strip() if commit is not None else None, dirty


def _files_at(commit: str) -> Mapping[str, bytes] | None:
    """Sources of a commit by their paths; None where there is no such commit."""
    if not (ROOT / ".git").exists() or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return None
    packed = _git("archive", "--format=tar", commit, "--", *FOLDERS)
    if packed is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".py")]
        return {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
