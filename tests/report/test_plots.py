"""Figures of made-up records: against stored pictures, and the choices behind them one by one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import msgspec
import pytest
import torch
from matplotlib.testing.compare import compare_images
from trials import put_record

from harness.commands.cli import main
from harness.core.data import Normalization, load, parse
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.engine.records import CurvePoint, Record
from harness.report import plots
from harness.report.plots import axes, cost, heat, labels, scenes, style
from harness.report.tracks import Row

GOLDEN = Path(__file__).parent / "golden" / "plots"
TOLERANCE = 6.0  # RMS of 0..255: other versions of the font renderer stay below, a missing line does not
DPI = 60
COSTS = {"random": 0.0, "dm": 1e11, "idm": 2e12, "bacon": 3e12}
LEVELS = {"random": 0.35, "dm": 0.50, "idm": 0.62, "bacon": 0.60}
Write: TypeAlias = Callable[..., Path]


@pytest.fixture
def records(make_record: Any) -> list[Record]:
    """Four methods at ipc 1 and 10 with three seeds, `whole`, and two methods under a second network."""
    made = [
        _measured(make_record, method, ipc, seed) for method in COSTS for ipc in (1, 10) for seed in range(3)
    ]
    made += [make_record("whole", 1, seed, accuracies=[0.93, 0.94, 0.935]) for seed in range(2)]
    return made + [
        make_record(method, 10, 0, arch="MLP", accuracies=[level])
        for method, level in (("dm", 0.4), ("idm", 0.5))
    ]


def _measured(make_record: Any, method: str, ipc: int, seed: int) -> Record:
    level = LEVELS[method] + (0.15 if ipc > 1 else 0.0) + 0.01 * (seed - 1)
    record: Record = make_record(
        method,
        ipc,
        seed,
        accuracies=[level, level + 0.01],
        class_accuracies=[[level + 0.02 * (c % 4) - 0.03 for c in range(10)]] * 2,
    )
    assert record.distill is not None
    price = COSTS[method] * ipc**0.3
    steps = (20, 40, 60, 80, 100) if price else ()
    curve = [CurvePoint(step, price * step / 100, [level * step / (step + 10)]) for step in steps]
    paid = msgspec.structs.replace(
        record.distill, flops=price, seconds=2 + price / 1e11, peak_device_bytes=2**28 + int(price / 1e4)
    )
    return msgspec.structs.replace(record, distill=paid, curve=curve)


@pytest.fixture
def results(records: list[Record], write_records: Write) -> Path:
    """The records written, with distilled sets beside those of seed 0 of the first network."""
    folder = write_records(*records)
    for record in records:
        trial = record.trial
        if trial.seed == 0 and trial.arch != "MLP" and trial.method != "whole":
            _save(trial.distillation.set_path(folder), trial.method, trial.ipc)
    return folder


def _save(path: Path, method: str, ipc: int) -> None:
    generator = torch.Generator().manual_seed(len(method) + ipc)
    pixels = torch.rand(3 * ipc, 1, 6, 6, generator=generator)
    transform = Normalization.of((0.5,), (0.25,))
    labels = torch.arange(3).repeat_interleave(ipc)
    names = ("ape", "bee", "cow")
    Distilled(transform(pixels), labels, ipc, "mnist", names, transform, method).save(path)


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels."""
    monkeypatch.setattr(style, "SETTINGS", {**style.SETTINGS, "savefig.dpi": DPI})


def drawn(results: Path, output: Path, *options: str) -> dict[str, Path]:
    """Run the command; PNG by `folder of the track's last word/name`."""
    assert main(["plot", "--results", str(results), "-o", str(output), *options]) == 0
    return {f"{path.parent.name.rpartition('_')[2]}/{path.stem}": path for path in output.glob("*/*.png")}


STORED = [
    ("ipc", "ConvNetW32/ipc"),
    ("compare", "ConvNetW32/compare-ipc1"),
]
MORE_STORED = [
    ("flops", "ConvNetW32/flops"),
    ("seconds", "ConvNetW32/seconds"),
    ("memory", "ConvNetW32/memory"),
    ("curve", "ConvNetW32/curve-ipc10"),
    ("classes", "ConvNetW32/classes-ipc10"),
    ("networks", "several-networks/networks-ipc10"),
    ("gallery", "ConvNetW32/gallery-bacon-ipc10"),
]


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize(
    ("kind", "name"), [*STORED, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE_STORED)]
)
def test_figures_look_as_stored(results: Path, tmp_path: Path, kind: str, name: str) -> None:
    assert_as_stored(drawn(results, tmp_path / "plots", "--kind", kind)[name])


@pytest.mark.slow
@pytest.mark.usefixtures("small_pictures")
def test_nearest_real_images_look_as_stored(make_record: Any, write_records: Write, tmp_path: Path) -> None:
    """Sets of the digits: real images, and the same half faded into the mean of all."""
    data = load(parse("digits", tmp_path), tmp_path, download=False)
    images = data.images.float() / 255
    real = torch.stack([images[data.labels == c][c] for c in range(data.num_classes)])
    made = {"random": real, "dm": 0.5 * real + 0.5 * images.mean(dim=0)}
    kept = [make_record(method, 1, 0, dataset="digits", dataset_source="digits") for method in made]
    results = write_records(*kept)
    for record, pixels in zip(kept, made.values(), strict=True):
        names, path = data.class_names, record.trial.distillation.set_path(results)
        labels, transform = torch.arange(data.num_classes), data.transform
        Distilled(transform(pixels), labels, 1, "digits", names, transform, record.trial.method).save(path)
    assert_as_stored(drawn(results, tmp_path / "plots", "--kind", "nearest")["ConvNetW32/nearest-ipc1"])


def assert_as_stored(made: Path) -> None:
    reference = GOLDEN / made.name
    assert reference.is_file(), f"look at {made} and copy it to {reference}"
    difference = compare_images(str(reference), str(made), TOLERANCE)
    assert difference is None, f"{difference}\nif the new one is right, copy {made} to {reference}"


@pytest.mark.slow
@pytest.mark.usefixtures("small_pictures")
def test_the_tolerance_sees_a_method_that_is_missing(results: Path, tmp_path: Path) -> None:
    made = drawn(results, tmp_path / "plots", "--kind", "ipc", "--methods", "dm,idm,random")["ConvNetW32/ipc"]
    assert compare_images(str(GOLDEN / "ipc.png"), str(made), TOLERANCE) is not None


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    for output in ("one", "two"):
        with mpl.rc_context({"lines.linewidth": 7.0, "svg.hashsalt": output}):
            drawn(results, tmp_path / output, "--kind", "ipc,compare")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/*"))
    assert {path.suffix for path in files} == {".png", ".svg"}
    for path in files:
        first = (tmp_path / "one" / path).read_bytes()
        assert first == (tmp_path / "two" / path).read_bytes()
        assert b"dc:date" not in first


@pytest.mark.slow
def test_what_cannot_be_drawn_is_one_line(
    make_record: Any, write_records: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record("dm"), make_record("dm", dataset="svhn", dataset_source="svhn"))
    drawn(results, tmp_path / "plots")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not drawn: ")]
    kinds = [line.split()[2] for line in lines]
    assert kinds == ["flops", "seconds", "curve", "classes", "networks", "gallery", "compare", "nearest"]
    assert all("mnist" in line and "svhn" in line for line in lines), "tracks of one reason share a line"
    assert "run --curve" in next(line for line in lines if "not drawn: curve" in line)


def test_only_what_failed_gives_status_one(
    make_record: Any, write_records: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record(status="failed", reason="diverged"))
    assert main(["plot", "--results", str(results), "-o", str(tmp_path / "plots")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "not drawn: ipc" in captured.err
    assert not (tmp_path / "plots").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "flop"), "unknown kind of figure 'flop'; did you mean 'flops'?"),
        (("--methods", "bacn"), "did you mean 'bacon'?"),
        (("--dataset", "cifar10"), "available: mnist"),
        (("--scale", "paper"), "available: cpu"),
        (("--ipc", "50"), "available: 1, 10"),
        (("--ipc", "ten"), "expected whole numbers"),
        (("--methods", "idm", "--ipc", "1", "--results", "nowhere"), "no records under nowhere"),
    ],
)
def test_mistakes_are_one_line(
    results: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", "--results", str(results), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (results / "report").exists()


@pytest.mark.slow
def test_figures_go_below_the_results_without_a_folder(results: Path) -> None:
    assert main(["plot", "--results", str(results), "--kind", "memory", "--methods", "dm"]) == 0
    assert list(results.glob("report/plots/*ConvNetW32/memory.svg"))


@pytest.mark.slow
def test_tracks_get_figures_of_their_own(results: Path, tmp_path: Path) -> None:
    made = drawn(results, tmp_path / "plots", "--kind", "memory")
    assert set(made) == {"ConvNetW32/memory", "MLP/memory"}


def test_tracks_of_one_heading_get_folders_of_their_own(make_record: Any) -> None:
    twins = [make_record(dataset_source="folder", listing=listing) for listing in ("aa", "bb")]
    tracks = [scene.track for scene in scenes.scenes_of(twins, Path(), Path())]
    assert tracks[0].heading == tracks[1].heading
    assert len(set(scenes.slugs(tracks).values())) == 2


def test_records_of_other_images_never_share_a_figure(make_record: Any) -> None:
    """Nor one across networks, where each network has its own images."""
    prints = [{"dataset_fingerprint": letter * 16, "test_fingerprint": "0" * 16} for letter in "12"]
    made = [
        make_record(method, 1, arch=arch, **facts)
        for arch, facts in zip(("ConvNetW32", "MLP"), prints, strict=True)
        for method in ("dm", "idm")
    ]
    found = scenes.scenes_of(made, Path(), Path())
    assert [len(scene.records) for scene in found] == [2, 2]
    assert all(facts["dataset_fingerprint"] in repr([s.track.heading for s in found]) for facts in prints)
    assert [len(scene.records) for scene in scenes.scenes_across_archs(found)] == [2, 2]


@pytest.mark.slow
def test_seconds_of_two_machines_never_share_a_figure(make_record: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for method in ("dm", "idm"):
        for seed, device in enumerate(("cpu", "Some GPU")):
            record = make_record(method, 1, seed)
            place = msgspec.structs.replace(record.provenance, device=device)
            put_record(msgspec.structs.replace(record, provenance=place), results)
    made = drawn(results, tmp_path / "plots", "--kind", "seconds")
    assert sorted(made) == [
        "ConvNetW32/seconds-Some-CPU-@-2.0-GHz-with-1-thread",
        "ConvNetW32/seconds-Some-GPU",
    ]


def test_pareto_front_holds_what_none_beats() -> None:
    def spot(name: str, price: float, accuracy: float) -> cost.CostPoint:
        return cost.CostPoint(Row(name, ""), price, accuracy, None, None)

    cheap, twin, best = spot("cheap", 0, 30), spot("twin", 0, 30), spot("best", 5, 60)
    beaten = [spot("worse", 0, 20), spot("dear", 9, 60), spot("dearer", 9, 50), spot("late", 4, 30)]
    assert cost.pareto_front([*beaten, best, twin, cheap]) == [cheap, twin, best]
    assert cost.pareto_front([]) == []


def test_names_are_spread_no_farther_than_needed() -> None:
    assert labels.spread([1.0, 5.0], 1.0, 0.0, 10.0) == [1.0, 5.0]
    assert labels.spread([5.0, 5.0], 1.0, 0.0, 10.0) == [4.5, 5.5]
    assert labels.spread([9.9, 9.8], 1.0, 0.0, 10.0) == [10.0, 9.0]
    crowded = labels.spread([3.0, 3.0, 3.1, 0.0, 8.0], 1.0, 0.0, 10.0)
    ordered = sorted(crowded)
    assert all(b - a >= 1.0 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert crowded[3] == 0.0
    assert crowded[4] == 8.0


@pytest.mark.slow
@pytest.mark.parametrize("wide", ["method", "mmm@www"])
def test_names_beside_points_do_not_overlap(wide: str) -> None:
    with style.settings():
        figure, (panel,) = style.figure_of(style.FigureLayout("title", "track", "note"))
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        names = [labels.Name(f"{wide}{k}", 0.5, 0.5 + 0.001 * k, "black", k < 4) for k in range(8)]
        labels.beside_points(panel, names)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in panel.texts]
    # The text's own box: that of an annotation includes its leader.
    bare = [mpl.text.Text.get_window_extent(text) for text in panel.texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for k, a in enumerate(bare) for b in bare[:k])


def test_costs_of_nothing_have_a_place_on_the_logarithmic_axis() -> None:
    scale = axes.cost_scale([0.0, 1e9, 1e12])
    assert 0 < scale.place(0.0) < scale.place(1e9) < scale.place(1e12)
    assert "stands at 0" in scale.note
    assert axes.cost_scale([1e9, 1e12]).note == ""
    assert axes.cost_scale([0.0]).place(0.0) > 0
    assert [axes.short(value) for value in (0.5, 200.0, 5e11, 2e12)] == ["0.5", "200", "500 G", "2 T"]


def test_the_whole_train_split_is_measured_before_it_is_reported(make_record: Any) -> None:
    facts = {"dataset": "cifar10", "dataset_source": "cifar10", "scale": "paper", "arch": "ConvNet"}
    dm = make_record("dm", 10, **facts)
    whole = make_record("whole", 1, **facts, accuracies=[0.8, 0.82])
    (reported,) = scenes.scenes_of([dm], Path(), Path())
    (measured,) = scenes.scenes_of([dm, whole], Path(), Path())
    assert reported.reference is not None
    assert measured.reference is not None
    assert "reported" in reported.reference.text
    assert measured.reference.percent == pytest.approx(81.0)
    assert "measured" in measured.reference.text
    assert [row.method for row in measured.rows] == ["dm"], "a ceiling is no competitor"


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": "cpu"},
        {"arch": "ResNet18"},
        {"zca": True},
        {"budget_flops": 1e12},
        {"dataset": "cifar10-jpeg"},
    ],
)
def test_nothing_reported_is_drawn_where_papers_speak_of_something_else(
    make_record: Any, changes: dict[str, Any]
) -> None:
    facts = {"dataset": "cifar10", "dataset_source": "cifar10", "scale": "paper", "arch": "ConvNet"} | changes
    (scene,) = scenes.scenes_of([make_record("dm", 10, **facts)], Path(), Path())
    assert scene.reference is None


def test_looks_differ_also_without_colours() -> None:
    looks = [style.MethodStyle.of(place) for place in range(28)]
    assert len({(look.marker, str(look.dashes)) for look in looks}) == 28


def test_without_a_home_the_data_folder_is_asked_for(
    records: list[Record], write_records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    results = write_records(*records[:1])
    for name in ("HARNESS_DATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UserError, match=r"no home folder.*HARNESS_DATA"):
        plots.command(plots.selection_of("ipc", "", "", "", ""), results)


def test_every_kind_of_figure_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plot", "--help"])
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in plots.KINDS)


@pytest.mark.slow
def test_figures_of_records_need_no_torch(results: Path, tmp_path: Path) -> None:
    kinds = ",".join(kind for kind in plots.KINDS if kind != "nearest")
    code = (
        "import sys; from harness.commands.cli import main; status = main(sys.argv[1:]);"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules); sys.exit(status)"
    )
    options = [
        "plot",
        "--results",
        str(results),
        "-o",
        str(tmp_path / "plots"),
        "--kind",
        kinds,
        "--methods",
        "dm,idm",
    ]
    subprocess.run([sys.executable, "-c", code, *options], check=True, stdout=subprocess.DEVNULL)


def heats(monkeypatch: pytest.MonkeyPatch, made: list[Record]) -> list[tuple[heat.Heat, style.FigureLayout]]:
    """What the figures across networks of these records are drawn from."""
    shown: list[tuple[heat.Heat, style.FigureLayout]] = []
    monkeypatch.setattr(heat, "_draw", lambda *facts: shown.append(facts))
    (scene,) = scenes.scenes_across_archs(scenes.scenes_of(made, Path(), Path()))
    list(heat.across_networks(scene))
    return shown


def test_networks_that_did_not_distil_have_columns_of_their_own(
    make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {
        ("dm", ""): 0.6,
        ("dm", "MLP"): 0.4,
        ("dm", "LeNet"): 0.5,
        ("idm", ""): 0.7,
        ("idm", "MLP"): 0.3,
    }
    made = [make_record(m, eval_arch=other, accuracies=[level]) for (m, other), level in levels.items()]
    ((found, layout),) = heats(monkeypatch, made)
    assert found.columns == ["ConvNetW32", "LeNet", "MLP"], "the network that distilled first"
    assert dict(zip(found.rows, found.values, strict=True)) == {
        "dm": [pytest.approx(60), pytest.approx(50), pytest.approx(40)],
        "idm": [pytest.approx(70), None, pytest.approx(30)],
    }
    assert found.x_label == "evaluated network"
    assert "sets that ConvNetW32 distilled" in layout.note
    assert "sets by ConvNetW32" in layout.track


def test_sets_by_several_networks_never_share_a_row(
    make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        make_record(accuracies=[0.6]),
        make_record(accuracies=[0.4], eval_arch="MLP"),
        make_record(accuracies=[0.5], arch="MLP"),
    ]
    ((found, _),) = heats(monkeypatch, made)
    assert dict(zip(found.rows, found.values, strict=True)) == {
        "dm, by ConvNetW32": [pytest.approx(60), pytest.approx(40)],
        "dm, by MLP": [None, pytest.approx(50)],
    }
    at_home = [record for record in made if not record.trial.eval_arch]
    ((found, layout),) = heats(monkeypatch, at_home)
    assert dict(zip(found.rows, found.values, strict=True)) == {"dm": [pytest.approx(60), pytest.approx(50)]}
    assert "distilled and judged with the network of the column" in layout.note
