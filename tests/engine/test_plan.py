"""Plans: canonical whatever the order of the wishes, validated as a whole before anything runs."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trials import cost_of, put_record

import methods
from harness.commands.cli import main
from harness.commands.estimate import COUNTED_OFF_BY, from_records, measure, on_this_cpu
from harness.commands.plan import as_json, as_text, beyond_budget, headline, preview
from harness.core import processor
from harness.core.data.catalog import DatasetSpec
from harness.core.errors import DataError, UnknownNameError, UserError
from harness.engine.options import Options, Setting
from harness.engine.plan import DatasetFacts, Plan, expand, finished, make_plan
from harness.engine.protocol import protocol_named
from harness.engine.records import Provenance, Record, Trial
from harness.engine.scales import SCALES
from harness.engine.surroundings import KEEP_MEMORY, KEEPING_MEMORY
from harness.launch.launchers import launcher_of, run_settings

SMALL = DatasetFacts(DatasetSpec("digits", "digits"), (1, 8, 8), 10, 142, 1437)
LARGE = DatasetFacts(DatasetSpec("cifar10", "cifar10"), (3, 32, 32), 10, 5000, 50_000)
SETTINGS = (Setting("*", "batch_real", "16"), Setting("dm", "lr_img", "0.3"), Setting("idm", "lr_img", 0.4))


def wishes(folder: Path, **changed: object) -> Options:
    """Options for a small plan on digits."""
    usual: dict[str, object] = {
        "methods": ("random", "dm"),
        "dataset": ("digits",),
        "ipc": (1,),
        "scale": "smoke",
        "device": "cpu",
        "results": folder / "results",
        "data": folder / "data",
    }
    return Options(**(usual | changed))  # type: ignore[arg-type]


def folder_dataset(path: Path, size: int = 8, per_class: int = 3) -> str:
    """An image folder with two classes, as `folder:PATH`."""
    generator = random.Random(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (path / split / name).mkdir(parents=True)
            for k in range(per_class):
                colour = tuple(generator.randrange(256) for _ in range(3))
                Image.new("RGB", (size, size), colour).save(path / split / name / f"{k}.png")
    return f"folder:{path}"


def record_of(trial: Trial, seconds: float, status: str = "done", device: str = "cpu") -> Record:
    """A record whose two phases took `seconds` each."""
    cost = cost_of(seconds=seconds)
    provenance = Provenance(
        started_at="", finished_at="", resumed=0, device=device, cpu="a CPU", threads=1, python="", torch="",
        torchvision="", harness="", git_commit=None, git_dirty=None, code_digest="old",
    )  # fmt: skip
    done = status == "done"
    return Record(
        id=trial.id,
        status=status,  # type: ignore[arg-type]
        trial=trial,
        accuracies=[0.5] if done else [],
        distill=cost if done else None,
        evaluate=cost if done else None,
        provenance=provenance,
    )


ORDERED = Options(methods=("dm", "idm", "random"), ipc=(1, 10), seeds=(0, 3), scale="smoke", set=SETTINGS)


@pytest.fixture(scope="module")
def ordered_plan() -> Plan:
    return expand(ORDERED, [SMALL, LARGE])


@given(data=st.data())
@settings(max_examples=5)
def test_order_and_repetition_of_wishes_change_nothing(ordered_plan: Plan, data: st.DataObject) -> None:
    reordered = dataclasses.replace(
        ORDERED,
        **{
            name: tuple(data.draw(st.permutations(getattr(ORDERED, name))))
            for name in ("methods", "ipc", "seeds", "set")
        },
    )
    repeated = dataclasses.replace(reordered, ipc=reordered.ipc * 2, methods=(*reordered.methods, "dm"))
    plan = expand(repeated, data.draw(st.permutations([SMALL, LARGE])))
    assert plan.trials == ordered_plan.trials
    assert plan.datasets == ordered_plan.datasets
    assert len({trial.id for trial in plan.trials}) == 3 * 2 * 2 * 2


def test_a_method_that_ignores_ipc_is_run_once() -> None:
    options = Options(methods=("random", "whole"), ipc=(10, 50), seeds=(0,), scale="smoke")
    found = [(trial.method, trial.ipc) for trial in expand(options, [SMALL]).trials]
    assert sorted(found) == [("random", 10), ("random", 50), ("whole", 1)]


def test_trials_survive_json_with_their_id() -> None:
    for trial in expand(Options(scale="paper"), [LARGE]).trials:
        assert msgspec.json.decode(msgspec.json.encode(trial), type=Trial).id == trial.id


def test_values_typed_and_from_a_file_are_the_same_work() -> None:
    ids = [
        [
            trial.id
            for trial in expand(
                Options(methods=("dm",), set=(Setting("dm", "lr_img", value),)), [SMALL]
            ).trials
        ]
        for value in ("2", 2, 2.0)
    ]
    assert ids[0] == ids[1] == ids[2]
    assert ids[0] != [trial.id for trial in expand(Options(methods=("dm",)), [SMALL]).trials]


def test_cheap_trials_come_first_and_datasets_stand_together() -> None:
    trials = expand(Options(methods=("bacon", "random"), seeds=(0,), scale="smoke"), [LARGE, SMALL]).trials
    assert [trial.dataset for trial in trials] == ["digits"] * 6 + ["cifar10"] * 6
    assert [(trial.method, trial.ipc) for trial in trials[:6]] == [
        (method, ipc) for method in ("random", "bacon") for ipc in (1, 10, 50)
    ]


def test_many_seeds_need_no_more_looks_at_the_methods_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    load = methods.load
    monkeypatch.setattr(methods, "load", lambda name: looks.append(name) or load(name))  # type: ignore[func-returns-value]
    counts = []
    for seeds in (1, 20):
        looks.clear()
        trials = expand(Options(methods=("dm", "random"), seeds=tuple(range(seeds))), [SMALL]).trials
        assert len(trials) == 6 * seeds
        counts.append(len(looks))
    assert counts[0] == counts[1] > 0


def test_the_scale_gives_what_is_not_asked_for() -> None:
    (first, *_), wished = (
        expand(Options(scale="cpu"), [SMALL]).trials,
        expand(Options(scale="cpu", seeds=(7,), evals=1, arch="convnetd2"), [SMALL]).trials[0],
    )
    assert (first.seed, first.evals, first.arch, first.protocol) == (0, 3, "ConvNetW32", "dc-cpu")
    assert (wished.seed, wished.evals, wished.arch) == (7, 1, "ConvNetD2")


def test_settings_reach_their_method_and_stars_give_way() -> None:
    options = Options(
        methods=("dm", "idm", "random"),
        seeds=(0,),
        ipc=(1,),
        set=(Setting("dm", "lr_img", "0.3"), Setting("*", "lr_img", "0.1")),
    )
    rates = {trial.method: trial.config.get("lr_img") for trial in expand(options, [SMALL]).trials}
    assert rates == {"dm": 0.3, "idm": 0.1, "random": None}


def whitened(*options: str, zca: bool = False, ipc: int = 10, dataset: DatasetFacts = LARGE) -> Trial:
    """The first trial of MTT at paper scale, with `--set mtt.zca=...` as given."""
    if zca:
        dataset = dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, zca=True))
    settings = tuple(Setting("mtt", "zca", value) for value in options)
    wished = Options(methods=("mtt",), ipc=(ipc,), seeds=(0,), scale="paper", zca=zca, set=settings)
    return expand(wished, [dataset]).trials[0]


def test_images_are_whitened_where_the_methods_settings_say_so() -> None:
    as_published = whitened()
    assert as_published.zca
    assert as_published.config["zca"]
    assert not whitened(ipc=50).zca, "published without whitening"
    assert not whitened(dataset=SMALL).zca, "nothing is published"
    assert not whitened("false").zca
    mixed = expand(Options(methods=("mtt", "dm"), ipc=(10,), seeds=(0,)), [LARGE]).trials
    assert {trial.method: trial.zca for trial in mixed} == {"mtt": True, "dm": False}


def test_whitening_is_the_same_work_however_it_is_asked_for() -> None:
    ways = [whitened("true", ipc=50), whitened(zca=True, ipc=50), whitened("true", zca=True, ipc=50)]
    assert len({trial.id for trial in ways}) == 1
    assert whitened().id == whitened(zca=True).id != whitened("false").id
    with pytest.raises(UserError, match=r"--zca .* --set mtt.zca refuses it; drop one"):
        whitened("false", zca=True)


def test_a_plan_of_digits_needs_nothing_but_itself(tmp_path: Path) -> None:
    plan = make_plan(wishes(tmp_path))
    assert [trial.method for trial in plan.trials] == ["random", "dm"]
    assert plan.datasets == {"digits": "digits"}
    assert not (tmp_path / "results").exists(), "planning leaves nothing behind"


def test_a_folder_is_found_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_dataset(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(wishes(tmp_path, dataset=("folder:pets", "folder:./pets")))
    assert plan.datasets == {"pets": f"folder:{tmp_path / 'pets'}"}
    assert {trial.listing for trial in plan.trials} != {""}


def checked_plan(options: Options) -> Plan:
    launcher_of(options).check()
    return make_plan(options)


def refused(options: Options) -> str:
    with pytest.raises(UserError) as caught:
        checked_plan(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        ({"methods": ("bacn",)}, "did you mean 'bacon'"),
        ({"dataset": ("digit",)}, "did you mean 'digits'"),
        ({"arch": "ConvNot"}, "unknown network 'ConvNot'"),
        ({"arch": "VGG11"}, "cannot take 8x8 images"),
        ({"ipc": (1, 140)}, "no more than 139 training images"),
        ({"dataset": ("cifar10",), "ipc": (5001,)}, "no more than 5000 training images"),
        ({"launcher": "inline", "slots": 2}, "drop one"),
        ({"set": (Setting("dm", "iterations", "-5"),)}, "--set dm.iterations=-5: a loop has no fewer than 0"),
        ({"budget": 1e9, "set": (Setting("dm", "iterations", "5"),)}, "--budget decides the number of steps"),
        (
            {"budget": 1e9, "methods": ("dm", "kip@vec")},
            "leave out the kernels of pairs of images that kip@vec takes; drop one of the two",
        ),
        (
            {"budget": 1e9, "methods": ("idc",), "set": (Setting("idc", "outer", "5"),)},
            "--budget decides the number of steps of idc, and so does --set idc.outer",
        ),
        (
            {"budget": 1e9, "methods": ("dream",), "set": (Setting("*", "inner", "5"),)},
            "--budget decides the number of steps of dream, and so does --set dream.inner",
        ),
        (
            {"budget": 1e9, "methods": ("herding",), "set": (Setting("*", "train_steps", "5"),)},
            "--budget decides the number of steps of herding, and so does --set herding.train_steps",
        ),
        ({"curve": 2, "protocol": ("kd-smoke",)}, "no teacher tells, and protocol kd-smoke asks one"),
        ({"curve": 2, "methods": ("rded",)}, "name another, such as --protocol dc-smoke"),
        ({"image_size": 8}, "--image-size is for folder:PATH"),
        ({"set": (Setting("idm", "lr_img", "1"),)}, "'idm' is not selected; expected one of random, dm or *"),
        ({"set": (Setting("dm", "lr_imgs", "1"),)}, "did you mean 'lr_img'"),
        ({"set": (Setting("*", "lr_imgs", "1"),)}, "did you mean 'lr_img'"),
        ({"set": (Setting("dm", "lr_img", "fast"),)}, "dm.lr_img='fast' does not fit"),
        ({"device": "cuda:99"}, "no such device"),
        ({"dataset": ("folder:nowhere",)}, "no folder 'nowhere'"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    changed: dict[str, object], fragment: str, tmp_path: Path
) -> None:
    assert fragment in refused(wishes(tmp_path, **changed))
    assert list(tmp_path.iterdir()) == []


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    texts = tuple(folder_dataset(tmp_path / parent / "pets") for parent in ("a", "b"))
    assert "would both be called 'pets'" in refused(wishes(tmp_path, dataset=texts))


def test_an_ipc_above_the_smallest_class_of_a_folder_is_refused(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets", per_class=3)
    assert "no more than 3 training images" in refused(wishes(tmp_path, dataset=(text,), ipc=(4,)))


def test_exchanged_images_are_new_trials(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets")
    for file in sorted((tmp_path / "pets").rglob("*.png")):
        Image.open(file).save(file.with_suffix(".bmp"))  # all equally large
        file.unlink()
    options = wishes(tmp_path, dataset=(text,))
    before = make_plan(options)
    for trial in before.trials:
        put_record(record_of(trial, 1.0), options.results)
    assert headline(preview(before, options, launcher_of(options), timing=False)).startswith(
        "2 trials: 2 done, 0 to run"
    )
    cat, dog = (tmp_path / "pets" / "train" / name for name in ("cat", "dog"))
    for file in cat.iterdir():
        other = dog / file.name
        content = file.read_bytes(), other.read_bytes()
        other.write_bytes(content[0])
        file.write_bytes(content[1])
    after = make_plan(options)
    assert {trial.id for trial in after.trials}.isdisjoint(trial.id for trial in before.trials)
    assert headline(preview(after, options, launcher_of(options), timing=False)).startswith(
        "2 trials: 0 done, 2 to run"
    )


def test_records_of_other_images_do_not_count_as_done(tmp_path: Path) -> None:
    """Known datasets are named by nothing but their name: what they hold is compared."""
    text = folder_dataset(tmp_path / "pets")
    options = wishes(tmp_path, dataset=(text,))
    plan = make_plan(options)
    (prints,) = plan.fingerprints.values()
    same, other = (
        msgspec.structs.replace(
            record_of(plan.trials[0], 1.0), dataset_fingerprint=train, test_fingerprint=prints[1]
        )
        for train in (prints[0], "0" * 16)
    )
    put_record(same, options.results)
    preview(plan, options, launcher_of(options), timing=False)
    path = same.trial.record_path(options.results)
    path.unlink()
    put_record(other, options.results)
    with pytest.raises(UserError, match=r"made from other images of pets than lie there now .*--results"):
        preview(plan, options, launcher_of(options), timing=False)


def test_planning_says_what_is_odd_about_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder_dataset(tmp_path / "pets")
    cat = tmp_path / "pets" / "train" / "cat"
    for number in range(5):
        Image.new("RGB", (8, 8)).save(cat / f"{number}.gif")
    for number in range(3):
        shutil.copy(cat / "0.png", tmp_path / "pets" / "test" / "cat" / f"{number}.png")
    (tmp_path / "pets" / "test" / "labels.txt").write_text("0 1")
    plan = make_plan(wishes(tmp_path, dataset=(text,)))
    assert plan.remarks == (
        "pets: passed over, as no images or in no class folder: 5 .gif "
        "(train/cat/0.gif, train/cat/1.gif, train/cat/2.gif and 2 more); 1 .txt (test/labels.txt)",
        "pets: 6 of 6 train images are of a single colour: train/cat/0.png, train/cat/1.png, train/cat/2.png "
        "and 3 more",
        "pets: 6 of 6 test images are of a single colour: test/cat/0.png, test/cat/1.png, test/cat/2.png "
        "and 3 more",
        "pets: all test images of a class are equal in 1 of 2 classes: cat",
    )
    typed = ["--dataset", text, "--methods", "random", "--ipc", "1", "--scale", "smoke", "--no-estimate"]
    assert (
        main(["plan", *typed, "--results", str(tmp_path / "results"), "--data", str(tmp_path / "data")]) == 0
    )
    said = capsys.readouterr()
    assert said.err.count("warning: pets: 6 of 6 train images are of a single colour") == 1
    assert "warning" not in said.out


def test_usual_images_bring_no_remarks(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets")
    for seed, file in enumerate(sorted((tmp_path / "pets").rglob("*.png"))):
        Image.frombytes("RGB", (8, 8), random.Random(seed).randbytes(192)).save(file)
    assert make_plan(wishes(tmp_path, dataset=(text,))).remarks == ()


def test_a_test_split_that_will_not_do_is_refused_before_anything_runs(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets")
    file = tmp_path / "pets" / "test" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:40])
    assert "cannot decode" in refused(wishes(tmp_path, dataset=(text,)))
    for file in (tmp_path / "pets" / "test").rglob("*.png"):
        Image.new("RGB", (16, 16)).save(file)
    assert "test images are 3x16x16" in refused(wishes(tmp_path, dataset=(text,)))


def test_tiles_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets", size=9)
    options = wishes(tmp_path, dataset=(text,), methods=("idm",))
    assert "--image-size 8 or --set idm.factor=1" in refused(options)
    assert make_plan(dataclasses.replace(options, image_size=8)).trials[0].image_size == 8


@pytest.mark.parametrize("place", ["a file", "below a file", "a folder without writing"])
def test_results_that_cannot_be_written_are_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    results = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "results",
        "a folder without writing": Path("/proc/results"),
    }[place]
    assert "pass another folder with --results" in refused(wishes(tmp_path, results=results))


def test_data_that_cannot_be_had_are_named_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match="try --dataset digits"):
        make_plan(wishes(tmp_path, dataset=("mnist",)))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    text = folder_dataset(tmp_path / "pets")
    damaged = tmp_path / "pets" / "train" / "cat" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert f"cannot decode {damaged}" in refused(wishes(tmp_path, dataset=(text,)))


def test_a_broken_method_file_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = methods.MethodInfo("odd", "methods.odd", "", ("does not parse: line 3",))
    known = methods.discover()
    monkeypatch.setattr(methods, "discover", lambda: {**known, "odd": broken})
    assert "does not parse: line 3" in refused(wishes(tmp_path, methods=("odd",)))
    assert make_plan(wishes(tmp_path)).trials, "the others still work"


def test_records_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    options = wishes(tmp_path, seeds=(0, 1), methods=("random",))
    plan = make_plan(options)
    put_record(record_of(plan.trials[0], 1.5), options.results)
    put_record(record_of(plan.trials[1], 1.5, status="failed"), options.results)
    view = preview(plan, options, launcher_of(options), timing=False)
    assert set(finished(plan.trials, options.results)) == {trial.id for trial in plan.trials}
    assert view.waiting == []
    assert headline(view) == "2 trials: 1 done, 1 failed (again with --retry failed), 0 to run"
    retrying = preview(plan, dataclasses.replace(options, retry="failed"), launcher_of(options), timing=False)
    assert [trial.seed for trial in retrying.waiting] == [1]


def test_estimates_come_from_records_of_the_same_work(tmp_path: Path) -> None:
    trials = expand(Options(methods=("dm",), ipc=(1,), seeds=(0, 1, 2), scale="smoke"), [SMALL]).trials
    records = [record_of(trials[0], 2.0), record_of(trials[1], 4.0), record_of(trials[2], 99.0, device="GPU")]
    estimate = from_records(records, "cpu")[trials[2].cell]
    assert (estimate.seconds, estimate.source) == (6.0, "2 records")
    assert estimate.places == {"a CPU with 1 thread"}
    changed = msgspec.structs.replace(trials[0], config={**trials[0].config, "lr_img": 9.0})
    assert changed.cell not in from_records(records, "cpu")


def test_times_of_other_hardware_count_only_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*KEEPING_MEMORY, KEEP_MEMORY):
        monkeypatch.delenv(name, raising=False)
    trials = expand(Options(methods=("dm",), ipc=(1,), seeds=tuple(range(4)), scale="smoke"), [SMALL]).trials
    places: list[dict[str, object]] = [
        {"cpu": "another"},
        {"keeps_memory": False},
        {"threads": 2},
        {},
    ]
    records = []
    for seconds, (trial, place) in enumerate(zip(trials, places, strict=True), start=1):
        here = {"cpu": processor.model(), "threads": 1, "keeps_memory": True} | place
        record = record_of(trial, float(seconds))
        assert record.provenance is not None
        provenance = msgspec.structs.replace(record.provenance, **here)
        records.append(msgspec.structs.replace(record, provenance=provenance))
    (estimate,) = from_records(records, "cpu", on_this_cpu(1)).values()
    assert (estimate.seconds, estimate.source) == (8.0, "1 record")
    assert next(iter(from_records(records, "cpu", on_this_cpu(None)).values())).seconds == 7.0
    assert next(iter(from_records(records[:3], "cpu", on_this_cpu(1)).values())).seconds == 4.0
    assert next(iter(from_records(records, "cpu").values())).seconds == 5.0
    monkeypatch.setenv(KEEP_MEMORY, "0")
    assert next(iter(from_records(records, "cpu", on_this_cpu(1)).values())).seconds == 4.0


def test_who_was_beyond_the_budget_will_be_so_again(tmp_path: Path) -> None:
    options = wishes(tmp_path, methods=("dm", "idm"), seeds=(0, 1), budget=1e6)
    plan = make_plan(options)
    for trial in (trial for trial in plan.trials if trial.seed == 0):
        spent = cost_of(flops=3e6 if trial.method == "dm" else 1e6)
        put_record(msgspec.structs.replace(record_of(trial, 1.0), distill=spent), options.results)
    (note,) = beyond_budget(preview(plan, options, launcher_of(options), timing=False))
    assert "dm (3.00 MFLOPs)" in note
    assert "idm" not in note
    free = dataclasses.replace(options, budget=None)
    assert beyond_budget(preview(make_plan(free), free, launcher_of(free), timing=False)) == []


@pytest.mark.slow
def test_a_teacher_beyond_the_budget_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--methods", "rded,dm", "--budget", "1G", "--dataset", "digits", "--ipc", "1", "--device", "cpu"]
    assert main(["plan", *asked, "--scale", "smoke", "--seeds", "1", "--results", str(tmp_path)]) == 0
    (note,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note: beyond"))
    assert "rded (" in note
    assert "dm (" not in note


@pytest.mark.slow
def test_long_steps_are_counted_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[object] = []
    monkeypatch.setattr("harness.commands.estimate.LIMIT_SECONDS", 600.0)  # however busy the machine is
    options = wishes(tmp_path, methods=("bacon",), ipc=(50,), scale="paper", seeds=(0,), threads=1)
    monkeypatch.setattr("harness.commands.estimate._Bench._time", lambda *asked: made.append(asked))
    monkeypatch.setattr("harness.commands.estimate._speed", lambda *_: 1e9)
    plan = make_plan(options)
    view = preview(plan, options, launcher_of(options), timing=True)
    estimate = view.estimates[plan.trials[0].cell]
    assert estimate.source == "FLOPs counted, a piece timed"
    assert estimate.off_by == COUNTED_OFF_BY
    assert estimate.seconds > 20_000
    assert made == []
    assert "may be off by a factor of 2" in as_text(view)
    assert "counting and timing pieces of bacon" in capsys.readouterr().err


def test_what_the_minute_does_not_suffice_for_stays_without_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.commands.estimate.LIMIT_SECONDS", 0.0)
    options = wishes(tmp_path, methods=("dm", "idm"), ipc=(1,), seeds=(0, 1))
    view = preview(make_plan(options), options, launcher_of(options), timing=True)
    assert (view.estimates, view.seconds) == ({}, None)
    assert "2 cells without a time" in as_text(view)
    assert "the minute is over: 2 cells left" in capsys.readouterr().err


@pytest.mark.slow
def test_estimates_without_records_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.commands.estimate.LIMIT_SECONDS", 600.0)
    options = wishes(tmp_path, methods=("dm",), slots=2, seeds=(0, 1), launcher="local", threads=1)
    plan = make_plan(options)
    view = preview(plan, options, launcher_of(options), timing=True)
    assert view.seconds is not None
    assert view.seconds == pytest.approx(2 * view.estimates[plan.trials[0].cell].seconds)
    assert view.measuring_seconds > 0
    text = as_text(view)
    assert "3 steps timed" in text
    assert "estimating took" in text
    assert "if 2 at a time do not slow one another" in text
    entries = msgspec.json.decode(as_json(view))["trials"]
    assert [entry["state"] for entry in entries] == ["to run", "to run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "setting", "few", "many"),
    [("dm", "iterations", "100", "100000"), ("mtt", "experts", "1", "1000")],
)
def test_timing_grows_with_the_work(method: str, setting: str, few: str, many: str, tmp_path: Path) -> None:
    def seconds(value: str) -> float:
        options = wishes(tmp_path, methods=(method,), set=(Setting(method, setting, value),), threads=1)
        plan = make_plan(options)
        return measure(plan.trials, run_settings(options, plan, "cpu"))[plan.trials[0].cell].seconds

    assert seconds(many) > 20 * seconds(few)


def test_unknown_star_settings_list_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"lr_img.*momentum"):
        expand(Options(methods=("dm", "random"), set=(Setting("*", "nonsense", "1"),)), [SMALL])


def test_the_order_knows_how_long_methods_without_iterations_are() -> None:
    assert methods.steps_of("idc", {"outer": 10, "inner": 7}).count == 70
    assert methods.steps_of("herding", {"train_steps": 5}).count == 5
    assert methods.steps_of("random", {}).count == 0
    options = Options(methods=("idc", "dm", "random"), dataset=("digits",), ipc=(1,), scale="cpu", seeds=(0,))
    assert [trial.method for trial in expand(options, [SMALL]).trials] == ["random", "idc", "dm"]


def test_where_settings_come_from_is_recorded_as_facts(tmp_path: Path) -> None:
    (trial,) = make_plan(wishes(tmp_path, methods=("dm",), set=(Setting("dm", "lr_img", "0.3"),))).trials
    stored = msgspec.json.decode(msgspec.json.encode(trial))
    assert stored["settings_source"] == ""
    assert stored["settings_from"] == {
        "kind": "unpublished",
        "dataset": "digits",
        "ipc": None,
        "wanted_ipc": None,
        "owner": "",
        "scale": "smoke",
        "shortened": True,
        "overrides": ["lr_img"],
        "file": "",
    }


def test_settings_of_another_meaning_may_be_set_beside_a_budget(tmp_path: Path) -> None:
    plan = make_plan(
        wishes(tmp_path, budget=1e9, methods=("idm",), set=(Setting("idm", "train_steps", "5"),))
    )
    assert plan.trials[0].config["train_steps"] == 5


def test_what_the_gains_need_is_planned_along() -> None:
    asked = Options(scale="smoke", methods=("dm",), ipc=(1, 2), protocol=("dc-smoke", "kd-smoke"), gains=True)
    plan = expand(asked, [SMALL])
    assert plan.along == ("random", "whole")
    cells = {(trial.method, trial.ipc, trial.protocol) for trial in plan.trials}
    assert {cell for cell in cells if cell[0] == "random"} == {
        ("random", ipc, protocol) for ipc in (1, 2) for protocol in ("dc-smoke", "kd-smoke")
    }
    assert {cell for cell in cells if cell[0] == "whole"} == {("whole", 1, "dc-smoke")}, "hard labels alone"
    named = dataclasses.replace(asked, methods=("dm", "random"))
    assert expand(named, [SMALL]).along == ("whole",)
    assert expand(dataclasses.replace(asked, gains=False), [SMALL]).along == ()


def test_the_gains_of_evaluations_without_augmentation_are_planned_along() -> None:
    protocols = "dc-smoke", "dc-plain-smoke"
    asked = Options(scale="smoke", methods=("dm",), ipc=(1,), protocol=protocols, gains=True)
    cells = {(trial.method, trial.protocol) for trial in expand(asked, [SMALL]).trials}
    assert cells == {(method, protocol) for method in ("dm", "random", "whole") for protocol in protocols}


def test_soft_labels_that_a_method_does_not_make_are_refused_at_once() -> None:
    asked = Options(scale="smoke", methods=("tesla@soft", "dm"), ipc=(1,), protocol=("dc-smoke", "sl-smoke"))
    with pytest.raises(UserError, match=r"sl-smoke trains on soft labels .* dm makes hard ones") as refusal:
        expand(asked, [SMALL])
    assert "random@soft" in str(refusal.value)
    with pytest.raises(UserError, match="tesla makes hard ones"):
        expand(dataclasses.replace(asked, methods=("tesla",)), [SMALL])
    soft = dataclasses.replace(asked, methods=("tesla@soft",), gains=True)
    planned = {(trial.method, trial.protocol) for trial in expand(soft, [SMALL]).trials}
    made = {("tesla@soft", "dc-smoke"), ("tesla@soft", "sl-smoke")}
    along = {("random", "dc-smoke"), ("random@soft", "sl-smoke"), ("whole", "dc-smoke")}
    assert planned == made | along, "each under what it has labels for"


def test_steps_that_a_method_does_not_learn_are_refused_at_once() -> None:
    asked = Options(scale="smoke", methods=("dd", "dm"), ipc=(1,), protocol=("dc-smoke", "dd"))
    with pytest.raises(UserError, match=r"protocol dd makes the steps that were .* sets of dm keep none"):
        expand(asked, [SMALL])
    alone = dataclasses.replace(asked, methods=("dd",), gains=True)
    planned = {(trial.method, trial.protocol) for trial in expand(alone, [SMALL]).trials}
    along = {("random", "dc-smoke"), ("whole", "dc-smoke")}
    assert planned == {("dd", "dc-smoke"), ("dd", "dd")} | along, "others keep no steps"


@pytest.mark.parametrize(
    ("method", "protocol", "words"),
    [
        ("mtt", "ncfm-2000", "trains by another optimiser"),
        ("tesla@soft", "frepo-cpu", "trains by another optimiser"),
        ("datm", "kd-cpu", "trains by what a teacher says"),
    ],
)
def test_a_rate_that_was_learned_for_sgd_is_not_taken_for_another(
    method: str, protocol: str, words: str
) -> None:
    asked = Options(scale="smoke", methods=(method,), ipc=(1,), protocol=("dc-smoke", protocol))
    with pytest.raises(UserError, match=f"protocol {protocol} {words}, and sets of {method} keep the rate"):
        expand(asked, [SMALL])
    own = expand(dataclasses.replace(asked, protocol=("dc-smoke", "dc-steps-smoke")), [SMALL])
    assert {trial.method for trial in own.trials} == {method}
    without = expand(dataclasses.replace(asked, methods=("random@soft",)), [SMALL])
    assert {trial.protocol for trial in without.trials} == {"dc-smoke", protocol}


def test_images_that_cannot_be_shared_out_to_steps_are_refused_at_once() -> None:
    asked = Options(scale="smoke", methods=("dd",), ipc=(1, 6), set=(Setting("dd", "steps", "4"),))
    with pytest.raises(UserError, match="to 4 steps, and 1 are no multiple of that; choose --ipc 4"):
        expand(asked, [SMALL])
    more = dataclasses.replace(asked, ipc=(4,), set=(Setting("dd", "steps", "9"),))
    with pytest.raises(UserError, match="dd makes 4 steps on 9 batches of images"):
        expand(more, [SMALL])
    assert expand(dataclasses.replace(asked, ipc=(4,)), [SMALL]).trials


def test_each_set_is_asked_by_each_network_under_each_protocol() -> None:
    asked = Options(
        scale="smoke",
        methods=("random",),
        ipc=(1,),
        seeds=(0, 1),
        eval_arch=("convnetw16", "MLP"),
        protocol=("dc-smoke", "dc-cpu@tuned"),
    )
    trials = expand(asked, [SMALL]).trials
    assert {(trial.network, trial.protocol, trial.seed) for trial in trials} == {
        (network, protocol, seed)
        for network in ("ConvNetW16", "MLP")
        for protocol in ("dc-smoke", "dc-cpu@tuned")
        for seed in (0, 1)
    }
    assert len({trial.distillation.id for trial in trials}) == 2
    usual = expand(dataclasses.replace(asked, eval_arch=(), protocol=()), [SMALL]).trials
    assert {trial.id for trial in usual} <= {trial.id for trial in trials}, "its own network is the usual one"


@pytest.mark.parametrize(
    ("method", "scale", "protocol"),
    [
        ("frepo", "smoke", "frepo-smoke"),
        ("frepo", "cpu", "frepo-cpu"),
        ("frepo", "paper", "frepo"),
        ("datm@tesla", "cpu", "datm-cpu"),
        ("dd", "cpu", "dd"),  # as long as the steps that were learned, at any scale
        ("random@soft", "cpu", "sl-cpu"),
    ],
)
def test_methods_with_a_protocol_of_their_own_are_asked_under_its_short_form(
    method: str, scale: str, protocol: str
) -> None:
    asked = Options(scale=scale, methods=(method,), ipc=(1,))
    assert {trial.protocol for trial in expand(asked, [SMALL]).trials} == {protocol}


def test_every_protocol_of_a_method_is_cut_for_the_short_scales_unless_its_sets_say_how_long_it_is() -> None:
    for info in methods.discover().values():
        if info.protocol and not protocol_named(info.protocol).needs_steps:
            cut = {SCALES[scale].protocol_for(info, info.regime) for scale in ("cpu", "smoke")}
            assert cut == {f"{info.protocol}-cpu", f"{info.protocol}-smoke"}, info.name


def test_what_a_method_calls_for_is_the_same_by_syntax_and_when_it_is_run() -> None:
    for info in methods.discover().values():
        method = methods.load(info.name)
        assert (info.regime, info.protocol) == (method.REGIME, method.PROTOCOL), info.name


def test_a_protocol_that_is_named_stands_in_for_the_methods_own() -> None:
    named = Options(scale="smoke", methods=("frepo",), ipc=(1,), protocol=("dc-smoke",))
    assert {trial.protocol for trial in expand(named, [SMALL]).trials} == {"dc-smoke"}
