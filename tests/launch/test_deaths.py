"""The deaths of a trial's workers, and how the kernel tells of those that it caused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trials import digits_trial

from harness.launch.deaths import (
    FILE_NAME,
    KILLED_BY_KERNEL,
    Death,
    death_record,
    deaths,
    forget_deaths,
    note_death,
    oom_kills,
)

KILLED = Death("killed by SIGKILL", "2025-01-01T00:00:00+00:00")


def test_deaths_are_counted_until_they_are_forgotten(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert deaths(work) == ()
    other = Death("killed by SIGSEGV", "2025-01-02T00:00:00+00:00")
    assert [note_death(work, KILLED), note_death(work, KILLED), note_death(work, other)] == [1, 2, 3]
    assert deaths(work) == (KILLED, KILLED, other)
    forget_deaths(work)
    assert deaths(work) == ()
    forget_deaths(work)


def test_death_of_a_job_counts_once(tmp_path: Path) -> None:
    def of(job: str) -> Death:
        return Death("lost with its node", "2025-01-01T00:00:00+00:00", job)

    noted = (of("4711"), of("4711"), KILLED, of("4712"), of("4711"))
    counts = [note_death(tmp_path, death) for death in noted]
    assert counts == [1, 1, 2, 3, 3]


def test_no_death_is_lost_when_several_are_noted_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: note_death(tmp_path, KILLED), range(24)))
    assert sorted(counts) == list(range(1, 25))


def test_unreadable_note_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('[{"reason": "cut o')
    assert deaths(tmp_path) == ()
    assert note_death(tmp_path, KILLED) == 1


@pytest.mark.parametrize(
    ("reason", "status", "attempts", "said"),
    [
        ("killed by SIGSEGV", "failed", 3, "killed by SIGSEGV; 3 attempts"),
        (KILLED_BY_KERNEL, "oom", 1, f"{KILLED_BY_KERNEL}; 1 attempt"),
    ],
)
def test_record_of_the_last_death(reason: str, status: str, attempts: int, said: str) -> None:
    record = death_record(digits_trial(), Death(reason, KILLED.at), attempts)
    assert (record.status, record.reason, record.resumable) == (status, said, False)


V1 = "memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
V2 = "", "memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 7\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("membership", "counter", "place"),
    [
        ("0::/job/step", V2, "job/step"),
        ("0::/", V2, ""),
        ("0::/seen/from/outside", V2, ""),
        ("9:name=systemd:/\n5:cpu,memory:/job\n0::/elsewhere", V1, "job"),
        ("4:memory:/docker/4711", V1, ""),
    ],
)
def test_the_cgroup_counts_kills(
    tmp_path: Path, membership: str, counter: tuple[str, str, str], place: str
) -> None:
    (tmp_path / "cgroup").write_text(membership + "\n")
    controller, name, content = counter
    path = tmp_path / "mount" / controller / place / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "mount") == 7


@pytest.mark.parametrize("counter", [None, "oom_kill_disable 0\nunder_oom 0\n", "oom_kill many\n", ""])
def test_nothing_is_claimed_where_the_kernel_does_not_tell(tmp_path: Path, counter: str | None) -> None:
    assert oom_kills(tmp_path / "cgroup", tmp_path) is None
    (tmp_path / "cgroup").write_text("4:memory:/job\n0::/job\n")
    if counter is not None:
        path = tmp_path / "memory" / "job" / "memory.oom_control"
        path.parent.mkdir(parents=True)
        path.write_text(counter)
    assert oom_kills(tmp_path / "cgroup", tmp_path) is None
