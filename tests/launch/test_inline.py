"""The launcher in this process: when the time is up it leaves a checkpoint, and going on changes no byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import recorded
from trials import digits_trial, dm_trial

from harness.engine.options import Options
from harness.engine.settings import RunSettings
from harness.launch.driver import launch
from harness.launch.launchers import Inline

LAUNCHER = Inline(Options())


@dataclasses.dataclass(frozen=True)
class Limited(RunSettings):
    """Options whose time is up once it was asked for so often."""

    looks: int = 0
    asked: list[int] = dataclasses.field(default_factory=list)

    @property
    def time_is_up(self) -> bool:
        self.asked.append(1)
        return len(self.asked) > self.looks


def options(results: Path, kind: type[RunSettings] = RunSettings, **more: int) -> RunSettings:
    return kind(results, results, {"digits": "digits"}, threads=1, quiet=True, **more)


@pytest.mark.slow
@pytest.mark.parametrize("looks", [0, 3, 12])
def test_time_that_is_up_leaves_a_checkpoint_and_what_waits(tmp_path: Path, looks: int) -> None:
    trials = [dm_trial(10), digits_trial(seed=1)]
    whole = launch(trials, options(tmp_path / "whole"), LAUNCHER)
    left = launch(trials, options(tmp_path / "cut", Limited, looks=looks), LAUNCHER)
    assert (left.records, list(left.left), left.exit_status) == ([], trials, 75)
    trial, cut = trials[0], tmp_path / "cut"
    works = trial.distillation.work_folder(cut) / "distill", trial.work_folder(cut) / "evaluate"
    assert [(work / "checkpoint.pt").exists() for work in works] == {
        0: [False, False],
        3: [True, False],
        12: [False, True],
    }[looks]

    gone_on = launch(trials, options(tmp_path / "cut"), LAUNCHER)
    assert gone_on.exit_status == whole.exit_status == 0
    for trial in trials:
        folders = tmp_path / "cut", tmp_path / "whole"
        ours, theirs = (trial.distillation.set_path(folder).read_bytes() for folder in folders)
        assert ours == theirs
        assert len({tuple(recorded(trial, folder).accuracies) for folder in folders}) == 1
    made, evaluated = gone_on.records[0].distilled_in, gone_on.records[0].provenance
    assert made is not None
    assert evaluated is not None
    assert (made.resumed, evaluated.resumed) == {0: (0, 0), 3: (1, 0), 12: (0, 1)}[looks]
