"""The speed gate: its rule on made-up figures, its ways with git, and real slowdowns that it must catch.

Most of it runs on trees of three files, whose benchmarks only sleep.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.commands.cli import main
from harness.core.errors import UserError
from harness.perf import FOLDER, ROOT, gate, history
from harness.perf.gate import Verdict, as_table, check, compare, interval
from harness.perf.history import find_commit, laid_out, read_reference
from harness.perf.pairs import MeasuredTree, Run, Times, run_in_turns

OURS, THEIRS = MeasuredTree("this code", Path("ours")), MeasuredTree("0123456789", Path("theirs"))

BENCHMARKS = """
import os, time
from pathlib import Path
import harness, methods, pytest

@pytest.mark.parametrize("case", {cases})
def test_ours(benchmark, case):
    if marks := os.environ.get("MARKS"):
        (Path(marks) / str(os.getpid())).touch()
    benchmark(lambda: time.sleep(methods.SECONDS))

@pytest.mark.parametrize("case", {cases})
def test_plain(benchmark, case):
    benchmark(lambda: time.sleep(0.01))
"""


def figures(ratio: float, noise: float, seed: int, runs: int = 6, pairs: int = 9) -> list[Times]:
    """Seconds of so many runs: every round of either side takes up to so many times longer, by chance."""
    numbers = random.Random(seed)

    def one() -> float:
        return 1 + noise * numbers.expovariate(1)

    return [
        Times(tuple(ratio * one() for _ in range(pairs)), tuple(one() for _ in range(pairs)))
        for _ in range(runs)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "noise", "slower"),
    [(1.0, 0.02, False), (1.0, 0.5, False), (1.12, 0.02, False), (1.3, 0.02, True), (1.3, 0.1, True)],
)
def test_the_rule(ratio: float, noise: float, slower: bool) -> None:
    verdicts = [Verdict.of("a", figures(ratio, noise, seed)).slower for seed in range(50)]
    assert verdicts == [slower] * 50


def test_one_unlucky_process_is_noise() -> None:
    unlucky = [*figures(1.0, 0.02, 0, runs=5), *figures(2.0, 0.02, 1, runs=1)]
    verdict = Verdict.of("a", unlucky)
    assert not verdict.slower
    assert verdict.ratio == pytest.approx(1.0, abs=0.03)
    assert Verdict.of("a", unlucky[-1:]).doubtful


def test_the_interval_is_of_the_same_figures_the_same() -> None:
    ratios = [times.ratios for times in figures(1.2, 0.3, 0)]
    low, high = interval(ratios)
    assert interval(ratios) == (low, high)
    assert low < Verdict.of("a", figures(1.2, 0.3, 0)).ratio < high


def test_table_names_what_got_slower() -> None:
    slower, same = Verdict("pool", (0.26, 0.2), 1.3, 1.28, 1.32), Verdict("network", (1, 1), 1.0, 0.9, 1.2)
    rows = {line.split()[0]: line.split() for line in as_table([slower, same], OURS, THEIRS).splitlines()}
    assert rows["pool"] == ["pool", "260", "200", "1.300", "1.280", "-", "1.320", "SLOWER"]
    assert rows["network"][-1] == "ok"


class Scripted:
    """Stands in for the processes: `ratio(case, run)` of each case in each run."""

    def __init__(self, cases: Sequence[str], ratio: Callable[[str, int], float]) -> None:
        self.cases = list(cases)
        self.ratio = ratio
        self.asked: list[list[str]] = []

    def __call__(self, candidate: MeasuredTree, reference: MeasuredTree, patterns: Sequence[str]) -> Run:
        self.asked.append(list(patterns))
        wanted = [case for case in self.cases if not patterns or case in patterns]
        times = {case: Times((self.ratio(case, len(self.asked)),) * 5, (1.0,) * 5) for case in wanted}
        return Run(times, ("new",), ("old",))


def test_doubtful_cases_are_measured_again_before_they_are_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    burst = Scripted(["a", "b"], lambda case, run: 2.0 if case == "a" and run <= gate.RUNS else 1.0)
    monkeypatch.setattr(gate, "run_in_turns", burst)
    assert compare(OURS, THEIRS) == 0
    again = len(burst.asked) - gate.RUNS
    assert again >= gate.RUNS
    assert burst.asked == [[]] * gate.RUNS + [["a"]] * again
    capsys.readouterr()
    slower = Scripted(["a", "b"], lambda case, run: 1.3 if case == "a" else 1.0)
    monkeypatch.setattr(gate, "run_in_turns", slower)
    assert compare(OURS, THEIRS) == 1
    assert len(slower.asked) == 2 * gate.RUNS
    assert capsys.readouterr().out.splitlines()[-1] == "slower than 0123456789 by more than 15% and noise: a"


def test_what_stays_undecided_is_measured_until_it_is_or_the_looks_are_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two runs are disturbed: the interval of six reaches down to them, that of more does not.
    disturbed = Scripted(["a"], lambda case, run: 0.9 if run <= 2 else 1.3)
    monkeypatch.setattr(gate, "run_in_turns", disturbed)
    assert compare(OURS, THEIRS) == 1
    assert 2 * gate.RUNS < len(disturbed.asked) <= gate.LOOKS * gate.RUNS
    wild = Scripted(["a"], lambda case, run: (0.8, 1.4)[run % 2])
    monkeypatch.setattr(gate, "run_in_turns", wild)
    assert compare(OURS, THEIRS) == 0
    assert len(wild.asked) == gate.LOOKS * gate.RUNS
    assert capsys.readouterr().out.count("0123456789 by more than") == 2


def test_a_run_without_doubts_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = Scripted(["a"], lambda case, run: 1.1)
    monkeypatch.setattr(gate, "run_in_turns", same)
    assert compare(OURS, THEIRS) == 0
    assert len(same.asked) == gate.RUNS
    output = capsys.readouterr().out
    assert "only this code has new\nonly 0123456789 has old\n" in output


def test_nothing_in_common_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "run_in_turns", Scripted([], lambda case, run: 1.0))
    with pytest.raises(UserError, match=r"no benchmark in common that matches pol"):
        compare(OURS, THEIRS, ["pol"])


def git(root: Path, *arguments: str) -> str:
    """What git prints, without anybody's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    names = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    command = ["git", "-C", str(root), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def plant(root: Path, seconds: float, cases: Sequence[str] = ("a", "b")) -> Path:
    """A tree whose benchmarks sleep so long."""
    for package in ("harness", "methods"):
        (root / package).mkdir(parents=True, exist_ok=True)
        (root / package / "__init__.py").write_text(f"SECONDS = {seconds}\n")
    (root / "tests" / "perf").mkdir(parents=True, exist_ok=True)
    (root / "tests" / "perf" / "test_speed.py").write_text(BENCHMARKS.format(cases=list(cases)))
    return root


def commit(root: Path, message: str) -> str:
    """Commit all of it; the hash."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD").strip()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.mark.slow
def test_both_sides_run_their_own_code_in_their_own_files(tmp_path: Path) -> None:
    candidate = MeasuredTree("this code", plant(tmp_path / "new", 0.013, ["b", "a", "new"]))
    reference = MeasuredTree("reference", plant(tmp_path / "old", 0.01, ["old", "a", "b"]))
    run = run_in_turns(candidate, reference)
    assert (list(run.times), run.only_candidate, run.only_reference) == (["a", "b"], ("new",), ("old",))
    for times in run.times.values():
        assert min(times.candidate) >= 0.013
        assert min(times.reference) >= 0.01
        assert len(times.ratios) >= 5
    assert list(run_in_turns(candidate, reference, ["b*"]).times) == ["b"]


@pytest.mark.slow
def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    tree = plant(tmp_path / "new", 0.01)
    shutil.rmtree(tree / "methods")
    with pytest.raises(UserError, match=r"a benchmark of hollow failed: .*methods was imported from .*, not"):
        run_in_turns(MeasuredTree("hollow", tree), MeasuredTree("whole", plant(tmp_path / "old", 0.01)))


@pytest.mark.slow
def test_a_broken_benchmark_is_named(tmp_path: Path) -> None:
    tree = plant(tmp_path / "new", 0.01)
    (tree / "methods" / "__init__.py").write_text("")
    with pytest.raises(
        UserError, match=r"a benchmark of broken failed: FAILED .*test_ours\[a\].* AttributeError"
    ):
        run_in_turns(MeasuredTree("whole", plant(tmp_path / "old", 0.01)), MeasuredTree("broken", tree))


@pytest.mark.slow
@needs_git
def test_a_slower_tree_fails_and_an_accepted_one_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "RUNS", 1)
    root = plant(tmp_path / "repository", 0.01, ["a"])
    before = commit(root, "fast")
    plant(root, 0.02, ["a"])
    (root / "tests/perf/REFERENCE").write_text(f"# why\n{before} as it was\n")
    assert check(root) == 1
    assert f"slower than {before[:10]} by more than 15% and noise: a" in capsys.readouterr().out
    accepted = commit(root, "slow")
    (root / "tests/perf/REFERENCE").write_text(f"{accepted} sleeps are healthy\n")
    assert check(root) == 0
    assert check(root, "HEAD~1") == 1
    assert len(git(root, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
@needs_git
def test_without_history_the_plain_loops_are_the_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "RUNS", 1)
    root = plant(tmp_path / "repository", 0.001, ["a"])
    first = commit(root, "first")
    (root / "tests/perf/REFERENCE").write_text(f"{first} as it was\n")
    commit(root, "second")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", root.as_uri(), str(shallow))
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".git"))
    for tree, reason in (
        (shallow, f"this shallow checkout has no commit '{first}'"),
        (copy, "no git checkout"),
    ):
        assert check(tree) == 0
        output = capsys.readouterr().out
        assert "no earlier code to compare with" in output
        assert reason in output
        assert "none slower than plain loops" in output
        with pytest.raises(UserError, match=reason.partition("'")[0]):
            check(tree, first)
    plant(copy, 0.03, ["a"])
    assert check(copy) == 1
    assert "slower than plain loops by more than 50% and noise: a" in capsys.readouterr().out


@needs_git
def test_commits_that_cannot_be_compared_with_are_said_so(tmp_path: Path) -> None:
    root = plant(tmp_path, 0.01)
    (root / "tests/perf/test_speed.py").unlink()
    before = commit(root, "no benchmarks yet")
    with pytest.raises(UserError, match=f"commit {before[:10]} has no tests/perf/test_speed.py"):
        check(root, before)
    with pytest.raises(UserError, match="this checkout has no commit 'nowhere'"):
        check(root, "nowhere")
    with pytest.raises(UserError, match="has no commit '--all'"):
        find_commit(root, "--all")


@needs_git
def test_the_other_tree_is_removed_whatever_happens(tmp_path: Path) -> None:
    root = plant(tmp_path, 0.01)
    trees = []

    def interrupted() -> None:
        with laid_out(root, commit(root, "one")) as tree:
            trees.append(tree)
            assert (tree / "methods/__init__.py").is_file()
            (tree / "left.txt").write_text("behind")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not trees[0].parent.exists()
    assert len(git(root, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
@needs_git
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing_behind(ending: signal.Signals, tmp_path: Path) -> None:
    root, marks, scratch = plant(tmp_path / "repository", 30), tmp_path / "marks", tmp_path / "scratch"
    marks.mkdir()
    scratch.mkdir()
    commit(root, "slow")
    gate_of_root = (
        # A shell in the background has its children ignore Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from pathlib import Path; from harness.perf.gate import check; check(Path({str(root)!r}), 'HEAD')"
    )
    environment = os.environ | {"MARKS": str(marks), "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", gate_of_root], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: len(list(marks.iterdir())) == 2)
        process.send_signal(ending)
        assert process.wait(60) not in (0, 1)
    finally:
        process.kill()
    assert list(scratch.iterdir()) == []
    assert len(git(root, "worktree", "list").splitlines()) == 1
    for mark in marks.iterdir():
        wait_until(lambda pid=int(mark.name): not Path(f"/proc/{pid}").exists())


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_the_reference_is_a_commit_and_a_reason(tmp_path: Path) -> None:
    reference = read_reference(ROOT)
    assert reference.reason
    try:
        assert find_commit(ROOT, reference.commit) == reference.commit
    except history.NoHistoryError as error:
        pytest.skip(str(error))
    for text in ("", "0123456\n", "0123456 one\n89abcde another\n"):
        (tmp_path / "tests/perf").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests/perf/REFERENCE").write_text(text)
        with pytest.raises(UserError, match="must hold one line, a commit and the reason"):
            read_reference(tmp_path)


def test_unknown_revisions_are_refused_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perf", "check", "--against", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error or "is no git checkout" in error


@pytest.mark.slow
@pytest.mark.alone
def test_slowdowns_of_distance_and_pool_are_caught_and_equal_trees_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    slowed = MeasuredTree("slowed", ROOT, options=("-p", "slowed"))
    cases = ["prepare-bacon-10", "distance-bacon-10", "distance-dm-50", "pool"]
    assert compare(slowed, MeasuredTree("as it is", ROOT), [*cases, "evaluation"]) == 1
    *rows, conclusion = capsys.readouterr().out.splitlines()
    verdicts = {row.split()[0]: row.split()[-1] for row in rows}
    assert {case: verdicts[case] for case in cases} == dict.fromkeys(cases, "SLOWER")
    assert verdicts["evaluation"] == "ok"
    assert "as it is" in conclusion
