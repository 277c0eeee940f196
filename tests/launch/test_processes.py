"""How worker processes begin: forked, also when the fork server dies or its code changes, or alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from launch.fake_worker import starts
from launch.test_local import FAKE_SERVER, FAKE_WORKER, Diary, acting, order, wait_for
from support import recorded
from trials import dm_trial

from harness.engine.provenance import ROOT
from harness.engine.records import Trial
from harness.engine.settings import RunSettings
from harness.launch import local, processes
from harness.launch.base import Layout
from harness.launch.local import LocalRunner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers need Linux")


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    (tmp_path / "results").mkdir()
    return RunSettings(
        results=tmp_path / "results", data_dir=tmp_path / "data", datasets={"digits": "digits"}, retries=0
    )


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand-ins for fork servers and workers; the file has the number of each fork server that began."""
    told = tmp_path / "servers"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    monkeypatch.setenv("FAKE_SERVERS", str(told))
    monkeypatch.setattr(processes, "worker_command", lambda: [sys.executable, str(FAKE_WORKER)])
    monkeypatch.setattr(processes, "server_command", lambda: [sys.executable, str(FAKE_SERVER)])
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
    return told


def begun(servers: Path) -> list[int]:
    """The fork servers that began so far."""
    return [int(line) for line in servers.read_text().split()] if servers.exists() else []


class Disturbing(Diary):
    """Does something as soon as the first trial ended."""

    def __init__(self, disturb: object) -> None:
        super().__init__()
        self._disturb = disturb

    def ended(self, trial: Trial, record: object) -> None:
        super().ended(trial, record)  # type: ignore[arg-type]
        if len(self.records) == 1:
            self._disturb()  # type: ignore[operator]


def run(settings: RunSettings, trials: list[Trial], diary: Diary, slots: int = 1) -> list[str]:
    """Run the trials; returns their statuses."""
    assert LocalRunner(settings, Layout(slots, 1)).run(trials, diary) == []
    return [recorded(trial, settings.results).status for trial in trials]


def test_workers_are_children_of_the_launcher_each_in_a_session_of_its_own(
    settings: RunSettings, servers: Path
) -> None:
    diary = Diary()
    assert run(settings, [acting("done", seed=seed) for seed in range(3)], diary) == ["done"] * 3
    seen = starts(settings.results)
    assert [start["parent"] for start in seen] == [os.getpid()] * 3
    assert [start["session"] for start in seen] == [start["pid"] for start in seen]
    (server,) = begun(servers)
    assert server not in {start["pid"] for start in seen}
    assert diary.notes == []
    assert not psutil.pid_exists(server), "it is gone when the run is over"


@pytest.mark.slow
def test_fork_server_that_is_killed_costs_no_trial_and_is_replaced(
    settings: RunSettings, servers: Path
) -> None:
    """Its worker at that moment goes on; those to come are another's."""

    def kill() -> None:
        os.kill(begun(servers)[0], signal.SIGKILL)
        wait_for(lambda: psutil.Process(begun(servers)[0]).status() == psutil.STATUS_ZOMBIE)

    # The second is under way and ends once the first is seen to be gone.
    trials = [acting("done"), acting("survive", seed=1), acting("done", seed=2), acting("done", seed=3)]
    diary = Disturbing(kill)
    assert run(settings, trials, diary, slots=2) == ["done"] * 4
    assert len(order(settings)) == 4
    assert len(begun(servers)) == 2
    assert diary.notes == [
        "the process that trials are forked from was killed by SIGKILL; another is started"
    ]


@pytest.mark.slow
def test_without_a_fork_server_each_trial_starts_by_itself_and_one_line_says_so(
    settings: RunSettings, servers: Path
) -> None:
    servers.with_suffix(".broken").touch()
    diary = Diary()
    assert run(settings, [acting("done", seed=seed) for seed in range(3)], diary) == ["done"] * 3
    assert len(begun(servers)) == 1
    assert diary.notes == [
        "each trial imports torch anew, which takes seconds: the fork server ended with exit status 1: "
        "ModuleNotFoundError: No module named 'torch'"
    ]


def test_on_other_systems_each_trial_starts_by_itself(
    settings: RunSettings, servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "can_fork", lambda: False)
    diary = Diary()
    assert run(settings, [acting("done")], diary) == ["done"]
    assert begun(servers) == []
    assert diary.notes == [
        "each trial imports torch anew, which takes seconds: "
        f"the fork server needs Linux, this is {sys.platform}"
    ]


@pytest.mark.slow
def test_code_that_changed_is_not_forked_from(
    settings: RunSettings, servers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("harness", "methods"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(checkout), str(ROOT / "tests"))))
    changed = checkout / "harness" / "engine" / "worker.py"
    diary = Disturbing(lambda: changed.write_text(changed.read_text() + "\n# changed\n"))
    assert run(settings, [acting("done", seed=seed) for seed in range(4)], diary) == ["done"] * 4
    assert len(begun(servers)) == 2
    assert diary.notes == []


@pytest.mark.slow
def test_files_that_no_fork_server_imports_may_change(
    settings: RunSettings, servers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("harness", "methods"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(checkout), str(ROOT / "tests"))))
    diary = Disturbing(lambda: (checkout / "methods" / "dm.py").write_text("# changed\n"))
    assert run(settings, [acting("done", seed=seed) for seed in range(3)], diary) == ["done"] * 3
    assert len(begun(servers)) == 1


@pytest.mark.slow
def test_importing_what_trials_share_begins_no_thread_and_no_cuda() -> None:
    code = "from harness.launch import forkserver as f; f.prepare(); f._check_nothing_is_under_way()"
    # OpenBLAS has threads at once, and ends them when there is a fork.
    environment = os.environ | dict.fromkeys(local.THREAD_VARIABLES, "4") | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_thread_under_way_is_noticed() -> None:
    code = (
        "import threading, time; from harness.launch import forkserver as f;"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start();"
        "f._check_nothing_is_under_way()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert b"importing began 1 threads, which do not survive a fork" in ended.stderr


@pytest.fixture
def by_either_way(
    monkeypatch: pytest.MonkeyPatch, settings: RunSettings, tmp_path: Path
) -> dict[str, RunSettings]:
    """The same trial, run by a real worker that was forked, and by one that started by itself."""
    ways = {}
    for name in ("forked", "by itself"):
        ways[name] = RunSettings(
            results=tmp_path / name, data_dir=settings.data_dir, datasets=settings.datasets
        )
        if name == "by itself":
            monkeypatch.setattr(local, "starter_of", lambda *_: processes.EachByItself())
        diary = Diary()
        assert run(ways[name], [dm_trial(3)], diary) == ["done"]
        assert diary.notes == []
    return ways


@pytest.mark.slow
def test_forked_or_not_a_trial_gives_the_same_bytes_and_the_same_memory(
    by_either_way: dict[str, RunSettings],
) -> None:
    trial = dm_trial(3)
    forked, alone = (recorded(trial, way.results) for way in by_either_way.values())
    sets = [trial.distillation.set_path(way.results).read_bytes() for way in by_either_way.values()]
    assert sets[0] == sets[1]
    assert (forked.accuracies, forked.train_losses) == (alone.accuracies, alone.train_losses)
    assert forked.provenance is not None
    assert alone.provenance is not None
    assert forked.provenance.code_digest == alone.provenance.code_digest
    assert forked.provenance.threads == alone.provenance.threads
    assert forked.provenance.keeps_memory
    assert alone.provenance.keeps_memory
    for ours, theirs in ((forked.distill, alone.distill), (forked.evaluate, alone.evaluate)):
        assert ours is not None
        assert theirs is not None
        assert (ours.flops, ours.steps) == (theirs.flops, theirs.steps)
        assert ours.peak_host_bytes == pytest.approx(theirs.peak_host_bytes, rel=0.15)
