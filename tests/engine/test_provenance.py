"""Where records come from: what the digest of a trial covers, and of which code a record is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from trials import digits_trial, made_by

from harness.core import clock, user_cache
from harness.engine import digest_cache, provenance
from harness.engine.provenance import (
    CURRENT,
    OLDER,
    UNCOMMITTED,
    UNKNOWN,
    Code,
    CodeState,
    Lineage,
    code_digest,
)
from harness.engine.reach import Module, Sources
from harness.engine.records import FIRST_SCHEMA, Provenance, Record, Trial, hardware
from harness.engine.surroundings import KEEPING_MEMORY


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources from which digests are taken."""
    for folder in provenance.FOLDERS:
        source = provenance.ROOT / folder
        shutil.copytree(source, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path


PARSED: dict[bytes, Module] = {}  # what the trees of all tests have in common is parsed once


def here() -> Code:
    """The code as the files are now."""
    return Code.here(PARSED)


def trial(method: str = "dm", **changes: object) -> Trial:
    return msgspec.structs.replace(digits_trial(), method=method, **changes)


def folder_trial(**changes: object) -> Trial:
    return trial(**{"dataset": "mine", "dataset_source": "folder", "listing": "0" * 16} | changes)


def digest(method: str = "dm", **changes: object) -> str | None:
    """Digest by the files as they are now."""
    return here().digest(trial(method, **changes))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def record(code: str, commit: str | None = None, dirty: bool | None = None, **changes: object) -> Record:
    """A finished record of schema 1 with that digest, from that checkout."""
    made = made_by(code, commit, dirty)
    of = trial(**changes)
    return Record(schema=FIRST_SCHEMA, id=of.id, status="done", trial=of, provenance=made, distilled_in=made)


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        pytest.param(
            "harness/engine/scoring.py", "rows_at_once or 256", "rows_at_once or 128", id="evaluation"
        ),
        pytest.param("harness/core/loop.py", '"cpu": 2e13', '"cpu": 3e13', id="constant of the loop"),
        pytest.param("harness/core/seeds.py", "def seed_for(", "def seed_for(_=1, *, ", id="seeds"),
        pytest.param(
            "harness/engine/trial.py", "allow_tf32 = True", "allow_tf32 = False", id="set-up of torch"
        ),
        pytest.param("harness/engine/trial.py", '"fp32",', '"bf16",', id="context of a phase"),
        pytest.param("harness/engine/schedules.py", "decay=0.1", "decay=0.2", id="protocol's schedule"),
        pytest.param(
            "harness/core/nets/pooling.py", "super().__init__(2)", "super().__init__(3)", id="network"
        ),
        pytest.param("harness/core/distilled.py", "images=images.detach()", "images=images", id="set"),
        pytest.param("harness/core/augment.py", "CROP_RATIO = 0.125", "CROP_RATIO = 0.25", id="augmentation"),
        pytest.param("methods/dm.py", "losses.sum()", "losses.mean()", id="method"),
    ],
)
def test_digest_changes_with_what_a_trial_reaches(checkout: Path, source: str, old: str, new: str) -> None:
    before = digest()
    change(checkout / source, old, new)
    assert digest() != before


def test_a_tuned_protocol_reaches_what_the_protocol_itself_does(checkout: Path) -> None:
    tuned, plain = digest(protocol="dc-smoke@tuned"), digest(protocol="dc-smoke")
    assert tuned == plain != digest(protocol="kd-smoke")
    change(checkout / "harness/engine/protocol.py", "DC, Epochs(20, plain=6)", "DC, Epochs(21, plain=6)")
    assert digest(protocol="dc-smoke@tuned") == digest(protocol="dc-smoke") != plain


def test_digest_changes_with_a_constant_that_a_kernel_reads(checkout: Path) -> None:
    kernels = checkout / "methods/shared/kernels.py"
    change(kernels, "def mean_distance(", "FACTOR = 1\n\n\ndef mean_distance(")
    text = kernels.read_text()
    start = text.index("    return", text.index("def mean_distance("))
    kernels.write_text(f"{text[:start]}    FACTOR\n{text[start:]}")
    before = digest()
    change(kernels, "FACTOR = 1", "FACTOR = 2")
    assert digest() != before
    assert before is not None


UNRELATED = {
    "row of the catalogue": (
        "harness/core/data/catalog.py",
        "KNOWN = {",
        'KNOWN = {\n    "letters": KnownDataset((1, 8, 8), 26, 1, 1, "x"),',
    ),
    "facts of another dataset": ("harness/core/data/catalog.py", "73_257", "73_258"),
    "unused function": (
        "methods/shared/kernels.py",
        "def mean_distance(",
        "def idle(): ...\n\n\ndef mean_distance(",
    ),
    "network of another name": ("harness/core/nets/factory.py", '"MLP": mlp', '"MLP2": mlp, "MLP": mlp'),
    "name of a network": ("harness/core/nets/names.py", '"MLP": "two', '"MLP2": "three", "MLP": "two'),
    "variant of the ConvNet": ("harness/core/nets/names.py", '("ConvNetD1", ', '("ConvNetD1", "ConvNetD5", '),
    "another protocol": (
        "harness/engine/protocol.py",
        'Protocol("dc-cpu"',
        'Protocol("dc-2", "x", IDC, Epochs(1)), Protocol("dc-cpu"',
    ),
    "another method": ("methods/bacon.py", "import", "X = 1\nimport"),
    "published settings": ("methods/dm.py", '100: {"lr_img": 10.0}', '100: {"lr_img": 11.0}'),
    "shortened settings": ("methods/dm.py", '"iterations": 300', '"iterations": 301'),
    "default of a setting": ("methods/dm.py", "lr_img: float = setting(1.0,", "lr_img: float = setting(1.5,"),
    "comment": ("harness/engine/training.py", "# Index batches", "# Other words: index batches"),
    "docstring": ("harness/engine/training.py", "Train `net` in place", "Train the network `net` in place"),
    "words of an error": ("harness/engine/evaluate.py", "distil it again", "do distil it once more"),
    "report": ("harness/report/tables.py", "NOT_RUN =", "IDLE = 1\nNOT_RUN ="),
    "launcher": ("harness/launch/processes.py", "def own_python", "def idle(): ...\n\n\ndef own_python"),
    "record": ("harness/engine/records.py", "SCHEMA = 1", "SCHEMA = 2"),
    "option": ("harness/engine/options.py", "LAUNCHERS =", "IDLE = 1\nLAUNCHERS ="),
    "looks during distillation": ("harness/engine/curve.py", "@dataclass", "IDLE = 1\n\n\n@dataclass"),
    "method of a set that no trial calls": (
        "harness/core/distilled.py",
        "return TensorDataset(*self.decoded())",
        "return TensorDataset(*self.decoded())  # x\n\n    def idle(self) -> None: ...",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", UNRELATED)
def test_digest_ignores_what_a_trial_does_not_reach(checkout: Path, what: str) -> None:
    source, old, new = UNRELATED[what]
    of_folder = folder_trial()
    before = digest(), here().digest(of_folder)
    path = checkout / source
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert (digest(), here().digest(of_folder)) == before


def test_a_default_that_no_trial_names_counts_and_what_it_means_does_not(checkout: Path) -> None:
    """Settings that came later are left out of a trial while they have their default."""
    before = digest("bacon")
    change(checkout / "methods/shared/pool.py", "learning rate of the networks", "rate at which they learn")
    assert digest("bacon") == before
    change(
        checkout / "methods/shared/pool.py", "lr_net: float = setting(0.01", "lr_net: float = setting(0.02"
    )
    assert digest("bacon") != before


@pytest.mark.slow
def test_a_trials_own_row_counts(checkout: Path) -> None:
    trials = [trial(), trial(dataset="svhn", dataset_source="svhn"), trial(arch="MLP"), trial(arch="LeNet")]
    before = [here().digest(one) for one in trials]
    change(checkout / "harness/core/data/catalog.py", "73_257", "73_258")
    change(checkout / "harness/core/nets/classic.py", "def mlp(", "def mlp(_=0, *, ")
    after = [here().digest(one) for one in trials]
    assert [a != b for a, b in zip(after, before, strict=True)] == [False, True, True, False]


def test_looks_during_distillation_count_where_they_are_taken(checkout: Path) -> None:
    before = digest(), digest(curve=3)
    change(checkout / "harness/engine/curve.py", "def measure(", "def measure(_=0, *, ")
    after = digest(), digest(curve=3)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "old", "counts"),
    [
        ("methods/dm.py", "losses.sum()", True),
        ("methods/bacon.py", "def distance_to(", True),
        ("methods/shared/composition.py", "def compose(", True),
        ("methods/idm.py", "def condense(", False),
    ],
)
def test_digest_of_a_composition_covers_loop_and_distance(
    checkout: Path, source: str, old: str, counts: bool
) -> None:
    before = digest("dm+bacon")
    change(checkout / source, old, f"max({old})" if old.endswith(")") else f"{old}_=0, *, ")
    assert (digest("dm+bacon") != before) == counts
    assert digest("dm+bacon@paper") == digest("dm+bacon")


def test_variant_has_the_digest_of_its_file() -> None:
    assert digest("bacon@paper") == digest("bacon")
    assert digest("bacon") != digest("dm")
    assert digest("tesla@soft") == digest("tesla"), "a variant of the file, not the rule"


def test_digest_of_the_rule_for_soft_labels_covers_how_they_are_made(checkout: Path) -> None:
    before = digest("random"), digest("random@soft")
    assert before[0] != before[1]
    change(checkout / "methods" / "shared" / "soft_labels.py", "temp * torch", "2 * temp * torch")
    assert digest("random") == before[0]
    assert digest("random@soft") != before[1]


def test_digest_covers_what_a_method_takes_from_another(checkout: Path) -> None:
    source = checkout / "methods" / "dm.py"
    change(source, "losses.sum()", "extra(losses).sum()")
    change(source, "\n\n@dataclass", "\nfrom methods.random import extra\n\n\n@dataclass")
    other = checkout / "methods" / "random.py"
    other.write_text(other.read_text() + "\n\ndef extra(x):\n    return x\n")
    before = digest()
    change(other, "    return x\n", "    return 2 * x\n")
    assert digest() != before


@pytest.mark.slow
def test_a_set_that_was_handed_in_reaches_no_method(checkout: Path) -> None:
    before = digest("dm@submitted")
    change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
    assert digest("dm@submitted") == before
    change(checkout / "harness/engine/scoring.py", "rows_at_once or 256", "rows_at_once or 128")
    assert digest("dm@submitted") != before


def test_code_that_cannot_run_a_trial_has_no_digest(checkout: Path) -> None:
    assert digest("gone") is None
    assert code_digest(trial("gone")) == "2:none"
    (checkout / "methods" / "dm.py").write_text("def f(:\n")
    assert digest() is None


def test_every_name_that_the_rule_gives_exists() -> None:
    """A name that has moved would no longer be left out, or no longer be found."""
    code = here()
    for path in (
        *(name for names in provenance.ENTRIES.values() for name in names),
        provenance.SET_UP[0],
        provenance.CURVE,
        *provenance.REGISTRIES,
        *provenance.CLOSED,
    ):
        assert code._sources.has(path) or code._sources.module(path) is not None, path


@pytest.mark.slow
def test_every_method_has_a_digest() -> None:
    import methods

    code = here()
    missing = [name for name in (*methods.discover(), "dm+bacon") if code.digest(trial(name)) is None]
    assert missing == []


def test_digest_needs_no_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from trials import digits_trial;"
        "from harness.engine.provenance import code_digest; code_digest(digits_trial());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=provenance.ROOT, check=False).returncode == 0


def test_a_process_keeps_the_digest_of_the_code_that_it_began_with(checkout: Path) -> None:
    before = code_digest(trial())
    change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
    assert code_digest(trial()) == before
    assert digest() != before


def test_provenance_of_a_folder_without_checkout_has_no_commit(checkout: Path) -> None:
    facts = provenance.provenance("2:0", device="cpu", started_at=clock.now(), resumed=2)
    assert (facts.git_commit, facts.git_dirty, facts.code_digest) == (None, None, "2:0")
    assert (facts.resumed, facts.device, facts.torch) == (2, "cpu", torch.__version__)


def test_seconds_of_a_process_that_keeps_memory_are_of_other_hardware(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> Provenance:
        return provenance.provenance("2:0", device="cpu", started_at=clock.now(), resumed=0)

    for name in KEEPING_MEMORY:
        monkeypatch.delenv(name, raising=False)
    plain = seen()
    for name, value in KEEPING_MEMORY.items():
        monkeypatch.setenv(name, value)
    assert hardware(seen()) == f"{hardware(plain)}, freed memory kept"


def test_provenance_tells_a_dirty_checkout_from_a_clean_one(checkout: Path) -> None:
    def seen() -> Provenance:
        return provenance.provenance("2:0", device="cpu", started_at=clock.now(), resumed=0)

    git(checkout, "init")
    git(checkout, "add", "harness", "methods")
    git(checkout, "commit", "-m", "all")
    clean = seen()
    (checkout / "notes.txt").write_text("no code")
    still_clean = seen()
    change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
    dirty = seen()
    assert clean.git_commit == git(checkout, "rev-parse", "HEAD")
    assert [clean.git_dirty, still_clean.git_dirty, dirty.git_dirty] == [False, False, True]


@pytest.mark.slow
def test_a_set_and_its_evaluation_are_each_of_their_own_code() -> None:
    of = trial()
    here = Code.here()
    made, evaluated = (made_by(here.digest(of, part) or "") for part in ("distill", "evaluate"))
    older, unsaved = made_by("2:000000000000"), made_by("2:000000000000", dirty=True)
    lineage = Lineage()
    cases: list[tuple[Provenance | None, Provenance | None, CodeState]] = [
        (made, evaluated, CURRENT),
        (older, evaluated, OLDER),
        (made, older, OLDER),
        (made, unsaved, UNCOMMITTED),
        (evaluated, made, OLDER),
        (None, evaluated, UNKNOWN),
        (made, None, UNKNOWN),
    ]
    for of_set, of_evaluation, state in cases:
        one = Record(id=of.id, status="done", trial=of, provenance=of_evaluation, distilled_in=of_set)
        assert lineage.state(one) == state
    failed = Record(id=of.id, status="failed", trial=of, provenance=made_by(here.digest(of) or ""))
    assert lineage.state(failed) == CURRENT


@pytest.mark.slow
def test_evaluations_by_one_network_and_protocol_reach_the_same_code() -> None:
    here = Code.here()
    dm, random = trial(), trial(method="random")
    assert here.digest(dm, "evaluate") == here.digest(random, "evaluate")
    assert here.digest(dm, "distill") != here.digest(random, "distill")
    other = msgspec.structs.replace(dm, eval_arch="MLP")
    assert here.digest(other, "distill") == here.digest(dm, "distill")
    taught = msgspec.structs.replace(dm, protocol="kd-cpu")
    assert here.digest(taught, "distill") == here.digest(dm, "distill")
    assert here.digest(taught, "evaluate") != here.digest(dm, "evaluate")


@pytest.mark.slow
def test_of_which_code_a_record_is(checkout: Path) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    first = git(checkout, "rev-parse", "HEAD")
    present = digest() or ""
    cases: list[tuple[Record, CodeState]] = [
        (record(present, first, False), CURRENT),
        (record(present, first, True), CURRENT),
        (record(present), CURRENT),
        (record("2:000000000000", first, False), OLDER),
        (record("2:000000000000"), OLDER),
        (record("2:000000000000", first, True), UNCOMMITTED),
        # Digests of the earlier scheme say nothing, the commit's own code does.
        (record("0123456789ab", first, False), CURRENT),
        (record("0123456789ab", first, True), UNCOMMITTED),
        (record("0123456789ab", "f" * 40, False), UNKNOWN),
        (record("0123456789ab", "--output=x", False), UNKNOWN),
        (record("0123456789ab"), UNKNOWN),
        (msgspec.structs.replace(record(present), provenance=None), UNKNOWN),
    ]
    lineage = Lineage()
    assert [lineage.state(one) for one, _ in cases] == [state for _, state in cases]

    change(checkout / "methods" / "dm.py", "losses.sum()", "losses.mean()")
    later = Lineage()
    assert later.state(record("0123456789ab", first, False)) == OLDER
    assert later.state(record("0123456789ab", first, False, method="random")) == CURRENT
    assert later.state(record(present, first, False)) == OLDER


@pytest.mark.slow
def test_digests_of_the_code_that_is_here_are_worked_out_once(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = checkout / "results"
    dm = trial()
    record = Record(id=dm.id, status="failed", trial=dm, provenance=made_by(digest() or ""))
    assert Lineage(results).states([record]) == {dm.id: CURRENT}
    with monkeypatch.context() as patched:
        patched.setattr(Sources, "digest", lambda *_: pytest.fail("worked out again"))
        assert Lineage(results).states([record]) == {dm.id: CURRENT}
    change(checkout / "methods" / "dm.py", "context.steps(", "context.steps(0 + ")
    assert Lineage(results).states([record]) == {dm.id: OLDER}
    cache = user_cache.folder() / digest_cache.NAME
    cache.write_bytes(cache.read_bytes()[:-1] + b"x")
    assert Lineage(results).states([record]) == {dm.id: OLDER}
