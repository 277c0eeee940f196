"""What people read while trials run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from trials import digits_trial

from harness.engine.records import Record, Trial
from harness.engine.worker import Snapshot
from harness.launch import display as launch_display
from harness.launch.display import LineDisplay, LiveDisplay, TrialProgress, duration, result

SEEDS = [digits_trial(seed=seed) for seed in range(4)]
SNAPSHOT = Snapshot("distill", 120, 2000, 1.23456, 300 * 2**20)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(launch_display.time, "monotonic", made.monotonic)
    return made


def done(trial: Trial, *accuracies: float) -> Record:
    return Record(id=trial.id, status="done", trial=trial, accuracies=list(accuracies))


def test_line_of_a_finished_trial(clock: Clock) -> None:
    ledger = TrialProgress(total=20, over=2, slots=1, waiting=list(SEEDS))
    ledger.start(SEEDS[0])
    clock.now += 12
    line = ledger.end(SEEDS[0], done(SEEDS[0], 0.70, 0.72, 0.71))
    assert line == "[3/20] done random · digits · ipc 1 · seed 0: 71.0 ± 1.0 % (n=3) in 12 s"


def test_result_of_one_network_has_no_spread() -> None:
    assert result(done(SEEDS[0], 0.7125)) == "71.2 % (n=1)"


def test_time_left_comes_from_finished_trials_of_the_same_cell(clock: Clock) -> None:
    longer = digits_trial(ipc=10)
    ledger = TrialProgress(total=5, over=0, slots=2, waiting=[*SEEDS, longer])
    assert ledger.seconds_left() is None
    for trial in (SEEDS[0], longer):
        ledger.start(trial)
    clock.now += 10
    ledger.end(SEEDS[0], done(SEEDS[0], 0.5))
    clock.now += 90
    ledger.end(longer, done(longer, 0.5))
    ledger.start(SEEDS[1])
    clock.now += 4
    assert ledger.seconds_left() == pytest.approx((6 + 10 + 10) / 2)


def test_failed_trials_do_not_feed_the_estimate(clock: Clock) -> None:
    ledger = TrialProgress(total=4, over=0, slots=1, waiting=list(SEEDS))
    ledger.start(SEEDS[0])
    ledger.end(SEEDS[0], Record(id=SEEDS[0].id, status="failed", reason="no", trial=SEEDS[0]))
    assert ledger.seconds_left() is None


def test_plain_lines_have_a_heartbeat(clock: Clock) -> None:
    stream = io.StringIO()
    display = LineDisplay(TrialProgress(4, 0, 1, list(SEEDS)), stream)
    display.started(SEEDS[0])
    for _ in range(130):
        clock.now += 1
        display.progressed(SEEDS[0], SNAPSHOT)
    assert stream.getvalue().splitlines() == [
        "random · digits · ipc 1 · seed 0: distill 120/2000, loss 1.235, 300 MiB after 1 min 0 s",
        "random · digits · ipc 1 · seed 0: distill 120/2000, loss 1.235, 300 MiB after 2 min 0 s",
    ]


def test_live_table_shows_what_is_under_way(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with LiveDisplay(TrialProgress(4, 0, 1, list(SEEDS)), console) as display:
        display.started(SEEDS[0])
        clock.now += 30
        display.progressed(SEEDS[0], SNAPSHOT)
        display._live.refresh()
        shown = stream.getvalue()
        display.ended(SEEDS[0], done(SEEDS[0], 0.5))
    for text in ("seed 0", "distill", "120/2000", "1.235", "300 MiB", "30 s"):
        assert text in shown
    assert "[1/4] done random · digits · ipc 1 · seed 0: 50.0 % (n=1) in 30 s" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18_180, "5 h 3 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
