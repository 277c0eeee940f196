"""What Slurm's commands say, from stand-ins for them: states, deaths, and silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.launch import queue
from harness.launch.queue import QueuedJob, SlurmUnreachableError

Say = Callable[[str, str], None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Puts a stand-in for a command on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, body: str) -> None:
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    return write


def test_the_queue_lists_each_job_of_an_array(say: Say) -> None:
    lines = ("7|2|PENDING|Priority||dd-a-1", "7|0|RUNNING|None|n1|dd-a-1", "9|N/A|FAILED|x|n2|y")
    say("squeue", "\n".join(f"echo '{line}'" for line in lines))
    listed = queue.queue("me")
    assert listed["7", 0] == QueuedJob("7", 0, "RUNNING", "None", "n1", "dd-a-1")
    assert [job.active for job in listed.values()] == [True, True, False]
    assert listed["9", 0].name == "y"


def test_a_silent_controller_is_told_from_an_empty_queue(say: Say) -> None:
    say("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmUnreachableError, match=r"Slurm does not answer .*Unable to contact"):
        queue.queue("me")
    say("squeue", "true")
    assert queue.queue("me") == {}


def test_no_slurm_on_the_machine_is_one_line(say: Say) -> None:
    with pytest.raises(
        UserError, match=r"no Slurm on this machine .*sbatch, srun, squeue, scontrol not found"
    ):
        queue.queue("me")
    assert queue.array_limit() == 1000


def test_accounting_tells_how_a_job_ended_where_there_is_any(say: Say) -> None:
    assert queue.final_state("7", 1) is None
    say("sacct", "echo '7_0|COMPLETED'; echo '7_1|CANCELLED by 1000'; echo '7_[2-5]|PENDING'")
    assert queue.final_state("7", 1) == "CANCELLED"
    assert queue.final_state("7", 2) is None
    say("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert queue.final_state("7", 1) is None


def test_the_largest_array_is_the_clusters(say: Say) -> None:
    say("scontrol", "echo 'MaxArraySize            = 51'")
    assert queue.array_limit() == 50


def test_a_refusal_is_in_slurms_words(say: Say, tmp_path: Path) -> None:
    say("sbatch", "echo 'sbatch: error: invalid: x' >&2; echo 'allocation failure: No' >&2; exit 1")
    assert queue.refusal(tmp_path / "job.sh") == "No"
    say("sbatch", "exit 0")
    assert queue.refusal(tmp_path / "job.sh") is None


def test_a_slow_controller_is_silent_when_asked_for_a_refusal(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.1)
    say("sbatch", "exec /bin/sleep 60")
    with pytest.raises(SlurmUnreachableError, match=r"Slurm does not answer \(sbatch waited 0.1 s\)"):
        queue.refusal(tmp_path / "job.sh")


def test_nodes_of_this_machine_alone_see_all_of_its_folders(say: Say) -> None:
    say("sinfo", "echo localhost; echo 127.0.0.1")
    assert not queue.nodes_elsewhere(None)
    say("sinfo", "echo localhost; echo node17")
    assert queue.nodes_elsewhere("gpu")
