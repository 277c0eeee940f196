"""What jobs ask for, and how trials are packed into jobs and jobs into arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trials import digits_trial

from harness.core.errors import UserError
from harness.engine.options import Options, parse_options
from harness.launch.launchers import launcher_of
from harness.launch.resources import Resources, arrays, check_resources, resources_of
from harness.launch.submission import shares


def options(**typed: Any) -> Options:
    return parse_options({"methods": "random,dm", "launcher": "slurm", **typed})


def test_a_job_asks_for_what_was_typed() -> None:
    asked = options(partition="gpu", time="1-12:30", gpus="1", cpus="8", mem="32g", slurm=["constraint=a100"])
    assert resources_of("dm", asked) == Resources("gpu", 2190, 1, 8, "32G", extra=(("constraint", "a100"),))
    assert asked.device == "cuda", "a job with GPUs uses them"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("45m", 45), ("12h", 720), ("2d", 2880), ("01:30:00", 90), ("1-0", 1440)],
)
def test_times_are_read_as_people_and_slurm_write_them(text: str, minutes: int) -> None:
    assert options(time=text).time == minutes


@pytest.mark.parametrize("text", ["0", "soon", "12:30", "-5", "1h30"])
def test_times_that_are_none_or_could_be_two_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--time .*expected minutes"):
        options(time=text)


def test_one_method_may_be_given_more() -> None:
    asked = options(mem="8G", resources=["dm.mem=64G", "dm.time=2h"])
    check_resources(asked)
    assert (resources_of("dm", asked).mem, resources_of("dm", asked).time) == ("64G", 120)
    assert resources_of("random", asked).mem == "8G"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("idm.mem=64G", "method 'idm' is not selected"),
        ("dm.memory=64G", "unknown resource 'memory'; did you mean 'mem'"),
        ("dm.mem=much", r"--resources dm\.mem=much: expected a size such as"),
    ],
)
def test_resources_for_a_method_are_checked(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_resources(options(resources=[setting]))


def test_a_profile_holds_what_single_methods_need() -> None:
    def mem(method: str, **typed: Any) -> str | None:
        asked = parse_options({"methods": "mtt,dm", "profile": "gpu", **typed})
        check_resources(asked)
        return resources_of(method, asked).mem

    assert (mem("mtt"), mem("dm")) == ("48G", "32G")
    assert mem("mtt", mem="64G") == "64G", "what is typed wins"
    assert mem("mtt", mem="64G", resources=["mtt.mem=4G"]) == "4G"
    assert mem("dm", methods="dm") == "32G", "it may hold methods that do not run"


def test_a_profile_may_not_hold_methods_that_there_are_not(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[resources.mtz]\nmem = "64G"\n')
    with pytest.raises(UserError, match="unknown method 'mtz'; did you mean 'mtt'"):
        parse_options({"methods": "dm", "profile": str(path)})


def test_trials_of_one_dataset_share_a_job_and_equal_jobs_an_array() -> None:
    trials = [digits_trial(seed=seed) for seed in range(5)]
    trials += [digits_trial(dataset="mnist", seed=seed) for seed in range(3)]
    (array,) = arrays(trials, options(trials_per_job="2", array_parallelism="3"), 100)
    assert [[(trial.dataset, trial.seed) for trial in pack] for pack in array.packs] == [
        [("digits", 0), ("digits", 1)],
        [("digits", 2), ("digits", 3)],
        [("digits", 4)],
        [("mnist", 0), ("mnist", 1)],
        [("mnist", 2)],
    ]
    assert array.parallel == 3


def test_arrays_share_the_cap_on_running_jobs_and_no_array_is_larger_than_the_cluster_takes() -> None:
    trials = [digits_trial(seed=seed) for seed in range(30)]
    trials += [digits_trial(method="dm", seed=seed) for seed in range(10)]
    made = arrays(trials, options(array_parallelism="8", resources=["dm.mem=64G"]), 12)
    assert [(len(array.packs), array.parallel, array.chained) for array in made] == [
        (12, 6, False),
        (12, 6, True),
        (6, 6, True),
        (10, 2, False),
    ]


def test_a_thousand_trials_are_not_a_thousand_jobs_at_once() -> None:
    trials = [digits_trial(seed=seed) for seed in range(1000)]
    made = arrays(trials, options(trials_per_job="8"), 1000)
    assert sum(len(array.packs) for array in made) == 125
    assert sum(array.parallel for array in made) == 32


def test_a_job_shares_its_cpus_among_its_slots() -> None:
    asked = options(cpus="8", slots="3", trials_per_job="6")
    assert shares(resources_of("dm", asked), asked) == (3, 2)
    packed = options(gpus="2", slots_per_gpu="2", cpus="8", trials_per_job="16")
    assert shares(resources_of("dm", packed), packed) == (4, 2)
    alone = options(cpus="8", slots="3")
    assert shares(resources_of("dm", alone), alone) == (1, 8)


def test_a_profile_is_a_file_of_options_and_what_is_typed_wins(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        'partition = "long"\ncpus = 8\nsetup = ["module load a,b", "module load c"]\n'
        '[slurm]\nconstraint = "a100"\nexclusive = true\n[resources.dm]\nmem = "64G"\n'
    )
    asked = parse_options({"methods": "dm", "profile": str(path), "cpus": "2", "slurm": ["nice=5"]})
    assert asked.launcher == "slurm"
    assert resources_of("dm", asked) == Resources(
        "long",
        cpus=2,
        mem="64G",
        extra=(("constraint", "a100"), ("exclusive", True), ("nice", "5")),
        setup=("module load a,b", "module load c"),
    )


@pytest.mark.parametrize("name", ["gpu", "packed-gpu", "cpu"])
def test_the_profiles_that_come_along_are_read(name: str) -> None:
    asked = parse_options({"methods": "dm", "profile": name})
    launcher_of(asked).check()
    assert asked.launcher == "slurm"


def test_a_profile_with_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('partitoin = "long"\n')
    with pytest.raises(
        UserError, match=r"unknown option in .*site\.toml: 'partitoin'; did you mean 'partition'"
    ):
        parse_options({"profile": str(path)})
    with pytest.raises(UserError, match="unknown profile 'gpus'; did you mean 'gpu'"):
        parse_options({"profile": "gpus"})


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            {"launcher": "local", "partition": "gpu"},
            "--partition is for jobs of a cluster; add --launcher slurm",
        ),
        ({"launcher": "local", "trials_per_job": "4"}, "--trials-per-job is for jobs of a cluster"),
        ({"device": "cpu", "gpus": "1"}, "--gpus 1 asks for GPUs that --device cpu leaves idle"),
        ({"device": "cuda:1", "gpus": "2"}, "Slurm chooses those of a job; type --device cuda"),
        ({"slots_per_gpu": "2"}, "--slots-per-gpu needs jobs with GPUs; add --gpus 1"),
    ],
)
def test_options_that_contradict_one_another_are_refused(typed: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        launcher_of(options(**typed)).check()


def test_trials_that_wait_for_the_same_set_share_a_job() -> None:
    trials = [
        digits_trial(seed=seed, eval_arch=network) for seed in range(2) for network in ("", "MLP", "LeNet")
    ]
    (array,) = arrays(trials, options(trials_per_job="1"), 100)
    assert [[(trial.seed, trial.eval_arch) for trial in pack] for pack in array.packs] == [
        [(0, ""), (0, "MLP"), (0, "LeNet")],
        [(1, ""), (1, "MLP"), (1, "LeNet")],
    ]
