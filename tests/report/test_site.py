"""The web leaderboard as files: what stands in them, and that no name in a record leads anywhere."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from trials import put_record

from harness.commands import cli
from harness.commands.arguments import options_from
from harness.commands.cli import parse
from harness.core.data import Normalization
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.preview import write_preview
from harness.engine.records import CurvePoint, Record, Teaching, TriedRate
from harness.report.fidelity import Fidelity, GoldenCounts
from harness.report.site import build, data, detail, method, pictures, vendor

HOSTILE = "</script><script>alert(1)</script>"
TRAVERSAL = "../../../escaped"


class Reader(HTMLParser):
    """Collects tags with their attributes, text, and the contents of scripts of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, _tag: str) -> None:
        self._inside = ""

    def handle_data(self, text: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += text
        else:
            self.text += text


def made(site: build.Site) -> dict[str, bytes]:
    return dict(build.own_files(site))


def embedded(page: bytes, name: str = "rows") -> Any:
    """What a page carries as JSON in the script of that id."""
    reader = Reader(page)
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    place = next(index for index, attributes in enumerate(scripts) if attributes.get("id") == name)
    return json.loads(reader.scripts[place])


def site_of(*records: Record, results: Path | None = None) -> build.Site:
    return build.site_of(records, results or Path("no such folder"))


@pytest.mark.slow
def test_a_row_has_mean_interval_counts_and_cost(make_record: Any) -> None:
    records = [
        make_record(seed=0, accuracies=[0.80, 0.82]),
        make_record(seed=1, accuracies=[0.84, 0.86]),
        make_record(method="random", accuracies=[0.5]),
    ]
    rows = embedded(made(site_of(*records))["index.html"])
    dm, random = rows[:2]
    assert dm["label"] == "dm"
    assert dm["accuracy"] == pytest.approx(0.83)
    assert (dm["figure"], dm["counts"]) == ("83.0 ± 2.6", "2×2")
    assert dm["low"] < 0.81 < 0.85 < dm["high"]
    assert dm["best"]
    assert (dm["seconds_text"], dm["flops_text"], dm["memory_text"]) == ("12.0 s", "1.23 T", "512 MiB host")
    assert [seed["id"] for seed in dm["records"]] == [record.id for record in records[:2]]
    assert random.get("low") is None
    assert "one seed" in random["note"]


@pytest.mark.slow
def test_configurations_and_tracks_have_rows_of_their_own(make_record: Any) -> None:
    records = [
        make_record(config={"lr_img": 1.0}),
        make_record(config={"lr_img": 2.0}),
        make_record(arch="ConvNet"),
        make_record(dataset="cats", dataset_source="folder", listing="aaaaaaaaaaaa"),
        make_record(dataset="cats", dataset_source="folder", listing="bbbbbbbbbbbb"),
    ]
    rows = embedded(made(site_of(*records))["index.html"])[: len(records)]
    assert len({(row["label"], row["track"]) for row in rows}) == len(records)
    assert {"dm (lr_img=1.0)", "dm (lr_img=2.0)"} < {row["label"] for row in rows}


def test_a_row_without_a_rank_says_why(make_record: Any) -> None:
    hand = "published: mnist ipc 1; cpu scale; set by hand: lr_img"
    records = [
        make_record("dm"),
        make_record("dm", config={"lr_img": 2.0}, settings_source=hand),
        make_record("idm", budget_flops=1e12),
        make_record("whole"),
    ]
    rows = embedded(made(site_of(*records))["index.html"])[: len(records)]
    places = {row["label"]: row.get("place") for row in rows}
    assert places["dm (lr_img=2.0)"] == "not ranked: settings set by hand"
    assert places["idm"] == "not ranked: beyond the budget"
    assert places["whole"].startswith("all training images")


def test_a_trial_without_result_shows_its_status_and_reason(make_record: Any) -> None:
    failed = make_record(status="oom", reason="no memory\nleft")
    files = made(site_of(failed))
    row = embedded(files["index.html"])[0]
    assert (row["figure"], row["note"]) == ("oom", "seed 0 oom: no memory left")
    assert "accuracy" not in row
    assert "no memory" in Reader(files[f"records/{failed.id}.html"]).text


def test_reported_figures_are_rows_with_their_source(tmp_path: Path) -> None:
    csv = tmp_path / "reported.csv"
    csv.write_text(
        "method,dataset,ipc,accuracy_mean,accuracy_std,arch,label,source,note\n"
        "k-center,CIFAR10,10,41.2,0.5,ConvNet,soft,https://a.example/b Table 1,preferred\n"
        "dm,CIFAR10,10,48.9,,ConvNet,hard,recalled,preferred; memory\n"
        "dm,CIFAR10,10,47.0,,ConvNet,hard,javascript:alert(1) Table 2,other\n"
        "whole,CIFAR10,all,84.8,0.1,ConvNet,hard,javascript:alert(1),preferred\n"
    )
    whole, dm, center = data.reported_rows(csv)
    assert {row.kind for row in (whole, dm, center)} == {"reported"}
    assert (center.method, center.figure, center.labels) == ("kcenter", "41.2 ± 0.5", "soft")
    assert (center.url, center.source) == ("https://a.example/b", "https://a.example/b Table 1")
    assert (dm.figure, dm.url, dm.source) == ("48.9†", "", "")
    assert (whole.ipc, whole.url) == (data.ALL_IMAGES, "")
    with pytest.raises(FileNotFoundError):
        data.reported_rows(tmp_path / "absent.csv")


@pytest.mark.slow
def test_rows_name_both_networks_the_protocol_and_what_was_recorded(make_record: Any) -> None:
    said = {"label_kind": "soft", "regime": "stored", "augmentation": ""}
    home, other = (
        make_record(protocol="datm", **said),
        make_record(protocol="datm", eval_arch="LeNet", **said),
    )
    rows = embedded(made(site_of(home, other, make_record("idm")))["index.html"])[:3]
    names = ("network", "arch", "protocol", "regime", "labels", "augmentation")
    facts = {tuple(row[name] for name in names) for row in rows}
    assert facts == {
        ("ConvNetW32", "ConvNetW32", "datm", "stored soft labels", "soft", "none"),
        ("LeNet", "ConvNetW32", "datm", "stored soft labels", "soft", "none"),
        ("ConvNetW32", "ConvNetW32", "dc-cpu", *[data.UNKNOWN] * 3),
    }


@pytest.mark.slow
def test_what_was_not_recorded_is_not_inferred(make_record: Any) -> None:
    images = 10
    told = {
        "stored_images": images,
        "stored_bytes": images * (28 * 28 * 4 + 8),
        "config": {"strategy": "flip"},
    }
    page = made(site_of(record := make_record(**told)))[f"records/{record.id}.html"]
    facts = facts_on(page)
    assert {
        name: facts[name] for name in ("stored labels", "label regime", "augmentation used")
    } == dict.fromkeys(("stored labels", "label regime", "augmentation used"), data.UNKNOWN)
    assert facts["optimiser steps"] == facts["calibration error"] == facts["learning rate"] == data.UNKNOWN


def facts_on(page: bytes) -> dict[str, str]:
    """Names and texts of all lists of facts of a page."""
    pairs = re.findall(r"<dt>(.*?)<dd>(.*?)\n", page.decode())
    return {html.unescape(name): html.unescape(text) for name, text in pairs}


@pytest.mark.slow
def test_the_record_page_has_what_the_evaluation_recorded(make_record: Any) -> None:
    record = make_record(
        eval_arch="LeNet",
        protocol="kd-300",
        regime="teacher",
        label_kind="hard",
        augmentation="crop_flip",
        optimizer_steps=12_040,
        images_per_epoch=400,
        learning_rate=0.003,
        tried_rates=[TriedRate(0.003, 0.41), TriedRate(0.1, None)],
        calibration_errors=[0.10, 0.12],
        negative_log_likelihoods=[1.5, 1.6],
        teacher=Teaching(arch="ResNet18", recipe="r", digest="d", accuracy=0.9),
    )
    facts = facts_on(made(site_of(record))[f"records/{record.id}.html"])
    expected = {
        "evaluated network": "LeNet",
        "distilled by": "ConvNetW32",
        "protocol": "kd-300 1.0",
        "label regime": "a teacher asked at every batch",
        "teacher": "ResNet18, 90.0 % on a part of train",
        "stored labels": "hard",
        "augmentation used": "crop_flip",
        "optimiser steps": "12,040",
        "images per epoch": "400",
        "learning rate": "0.003",
        "rates tried": "0.003: 41.0 %, 0.1: diverged",
        "calibration error": "11.0 points",
        "negative log likelihood": "1.550",
    }
    assert {name: facts[name] for name in expected} == expected


@pytest.mark.slow
def test_evaluations_of_a_set_lead_to_each_other_and_share_a_picture(
    make_record: Any, tmp_path: Path
) -> None:
    home, other = make_record(), make_record(eval_arch="LeNet")
    apart = make_record(seed=1)
    for record in (home, other, apart):
        put_record(record, tmp_path)
    save_set(home.trial.distillation.set_path(tmp_path))
    files = made(site_of(home, other, apart, results=tmp_path))
    assert [name for name in files if name.startswith("pictures/")] == [
        f"pictures/{home.trial.distillation.id}.png"
    ]
    for record in (home, other):
        reader = Reader(files[f"records/{record.id}.html"])
        links = {attributes.get("href") for tag, attributes in reader.tags if tag == "a"}
        assert {f"{home.id}.html", f"{other.id}.html"} <= links
        assert "LeNet · dc-cpu" in reader.text
        pictures_shown = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
        assert pictures_shown == [f"../pictures/{home.trial.distillation.id}.png"]
    assert "asked under" not in Reader(files[f"records/{apart.id}.html"]).text


def test_the_record_page_says_what_is_known(make_record: Any) -> None:
    looks = [CurvePoint(step, step * 1e9, [0.1 * step]) for step in (1, 2, 4)]
    record = msgspec.structs.replace(make_record(class_accuracies=[[0.5, 1.0], [0.7, 0.9]]), curve=looks)
    page = made(site_of(record))[f"records/{record.id}.html"]
    reader = Reader(page)
    for text in ("81.0", "lr_img", "0123456789abcdef", "512 MiB", "class 0", "60.0", "kept here"):
        assert text in reader.text, text
    assert len([tag for tag, _ in reader.tags if tag == "circle"]) == 3
    uncounted = msgspec.structs.replace(make_record("kip@vec"), curve=looks)
    kernels = Reader(made(site_of(uncounted))[f"records/{uncounted.id}.html"])
    assert not [tag for tag, _ in kernels.tags if tag == "circle"], "FLOPs that are not told have no axis"
    bare = made(site_of(make_record(seed=5)))
    assert not any(b"<svg" in page or b"Class by class" in page for page in bare.values())


def test_the_command_repeats_the_trial(make_record: Any) -> None:
    record = make_record(
        method="dm",
        dataset="digits",
        dataset_source="digits",
        seed=3,
        precision="bf16",
        budget_flops=2e16,
        config={"lr_img": 2.5, "iterations": 7, "strategy": "it's"},
        settings_source="default: nothing; set by hand: lr_img, strategy",
    )
    words = shlex.split(detail.command(record))
    assert words[:4] == ["python", "-m", "harness", "run"]
    _, typed = parse(words[3:])
    options = options_from(typed)
    assert (options.methods, options.dataset, options.ipc) == (("dm",), ("digits",), (1,))
    assert (options.seeds, options.evals, options.precision) == ((3,), 3, "bf16")
    assert (options.arch, options.protocol, options.budget) == ("ConvNetW32", ("dc-cpu",), 2e16)
    assert [tuple(setting) for setting in options.set] == [
        ("dm", "lr_img", "2.5"),
        ("dm", "strategy", "it's"),
    ]


@pytest.mark.slow
def test_names_are_text_and_lead_nowhere(make_record: Any, tmp_path: Path) -> None:
    records = [
        make_record(method=HOSTILE, dataset=HOSTILE, config={HOSTILE: '"><img src=x onerror=alert(1)>'}),
        make_record(method=TRAVERSAL, dataset=TRAVERSAL, arch=TRAVERSAL, reason=HOSTILE),
        make_record(status="failed", reason=HOSTILE, arch="'\"&"),
    ]
    folder = tmp_path / "outer" / "site"
    build.write(build.own_files(site_of(*records, results=tmp_path / "outer" / "results")), folder)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(name.startswith("outer/site/") for name in names)
    shown = {f"outer/site/records/{record.id}.html" for record in records}
    assert {name for name in names if "/records/" in name} == shown
    plain = [build.Site([], [])]
    expected = [tag for tag, _ in Reader(made(plain[0])["index.html"]).tags if tag == "script"]
    for name in ("index.html", "compute.html", *(f"records/{record.id}.html" for record in records)):
        reader = Reader((folder / name).read_bytes())
        assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes), name
        assert "alert(1)" in "".join(reader.scripts) + reader.text or TRAVERSAL in reader.text
        if name == "index.html":
            assert [tag for tag, _ in reader.tags if tag == "script"] == expected
    assert embedded((folder / "index.html").read_bytes())[0]["label"] in {HOSTILE, TRAVERSAL, "dm"}


def test_accuracy_and_compute_open_with_the_track_that_has_most(make_record: Any) -> None:
    most = [make_record(method) for method in ("dm", "idm")]
    few = [make_record(scale="paper"), make_record(scale="smoke")]
    rows = embedded(made(site_of(*few, *most))["compute.html"])
    assert [row["scale"] for row in rows] == ["cpu", "cpu", "paper", "smoke"]


def test_a_set_outside_the_results_folder_is_not_shown(make_record: Any, tmp_path: Path) -> None:
    record = make_record(method="../../../..")
    results = tmp_path / "a" / "b" / "results"
    path = record.trial.distillation.set_path(results)
    (results / record.trial.scale / record.trial.dataset).mkdir(parents=True)
    save_set(Path(str(path.parent.resolve())) / path.name)
    assert path.is_file()
    assert pictures.picture_of(record, results).caption == pictures.ABSENT


def save_set(path: Path, classes: int = 3, ipc: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.rand(classes * ipc, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    transform = Normalization.of((0.5,), (0.2,))
    names = tuple(f"class-{index}" for index in range(classes))
    labels = torch.arange(classes).repeat_interleave(ipc)
    Distilled(transform(pixels), labels, ipc, "mnist", names, transform=transform, method="dm").save(path)


def test_a_set_beside_its_record_is_shown(make_record: Any, tmp_path: Path) -> None:
    record = make_record(class_accuracies=[[0.1, 0.2, 0.3]])
    put_record(record, tmp_path)
    save_set(record.trial.distillation.set_path(tmp_path))
    files = made(site_of(record, results=tmp_path))
    picture = f"pictures/{record.trial.distillation.id}.png"
    assert files[picture].startswith(b"\x89PNG")
    reader = Reader(files[f"records/{record.id}.html"])
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert [image["src"] for image in images] == [f"../{picture}"]
    assert "class-2" in reader.text


def test_a_set_that_is_not_kept_has_its_small_picture(make_record: Any, tmp_path: Path) -> None:
    record = make_record()
    put_record(record, tmp_path)
    path = record.trial.distillation.preview_path(tmp_path)
    write_preview(torch.rand(30, 1, 8, 8), torch.arange(10).repeat_interleave(3), path)
    picture = pictures.picture_of(record, tmp_path)
    assert (picture.png, picture.caption) == (path.read_bytes(), pictures.PREVIEW)
    assert (picture.width, picture.height) == (2 * 89, 2 * 8)
    path.write_bytes(b"no picture")
    assert pictures.picture_of(record, tmp_path).caption == pictures.ABSENT


def test_pictures_beyond_the_budget_are_left_out(
    make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [make_record(seed=seed) for seed in (1, 0)]
    for record in records:
        save_set(record.trial.distillation.set_path(tmp_path))
    size = len(pictures.picture_of(records[0], tmp_path).png)
    monkeypatch.setattr(build, "PICTURES_BYTES", size)
    site = site_of(*records, results=tmp_path)
    names = list(map(build.picture_id, records))
    assert site.pictures[names[1]].png
    assert not site.pictures[names[0]].png
    assert "left out" in site.pictures[names[0]].caption


def test_a_damaged_set_costs_its_picture_only(make_record: Any, tmp_path: Path) -> None:
    record = make_record()
    path = record.trial.distillation.set_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing of the kind")
    page = made(site_of(record, results=tmp_path))[f"records/{record.id}.html"]
    assert "cannot be read" in Reader(page).text


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(make_record: Any) -> None:
    records = [make_record(method=method, seed=seed) for method in ("dm", "idm") for seed in (0, 1)]
    first = made(site_of(*records))
    assert first == made(site_of(*reversed(records)))


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(make_record: Any) -> None:
    files = made(site_of(make_record()))
    for name, page in files.items():
        if name.endswith(".html"):
            for tag, attributes in Reader(page).tags:
                for key in ("src", "href"):
                    target = attributes.get(key) or ""
                    assert tag == "a" or not re.match(r"(?:https?:)?//", target), (name, target)
        if name.endswith(".css"):
            assert b"url(" not in page
            assert b"@import" not in page


@pytest.mark.slow
def test_500_records_fit_in_five_megabytes(make_record: Any) -> None:
    config = {f"setting_{k}": 0.5 for k in range(15)}
    records = [
        make_record(method=f"method{method}", ipc=ipc, seed=seed, config=config)
        for method in range(25)
        for ipc in (1, 10)
        for seed in range(10)
    ]
    sizes = [len(page) for _, page in build.files(site_of(*records))]
    assert len(sizes) > 500
    assert sum(sizes) + build.PICTURES_BYTES < 5e6


@pytest.mark.slow
def test_the_command_writes_pages_and_drops_those_of_records_that_are_gone(
    make_record: Any, write_records: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record(), make_record(seed=1))
    folder = tmp_path / "site"
    stale = folder / "records" / "0123456789.html"
    other = folder / "records" / "notes.html"
    stale.parent.mkdir(parents=True)
    stale.touch()
    other.touch()
    assert cli.main(["report", "--results", str(results), "--site", str(folder)]) == 0
    assert "2 records" in capsys.readouterr().out
    assert (folder / "index.html").is_file()
    assert other.exists()
    assert not stale.exists()


@pytest.mark.slow
def test_scales_of_no_leaderboard_are_left_out_or_marked(
    make_record: Any, write_records: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke, folder = make_record(scale="smoke"), tmp_path / "site"
    results = write_records(smoke)
    words = ["report", "--results", str(results), "--site", str(folder)]
    assert cli.main(words) == 0
    assert embedded((folder / "index.html").read_bytes())[0]["scale"] == "smoke"
    assert "on no leaderboard" in Reader((folder / "index.html").read_bytes()).text
    put_record(make_record(), results)
    assert cli.main(words) == 0
    assert "left out: 1 record " in capsys.readouterr().err
    page = (folder / "index.html").read_bytes()
    assert "smoke" not in {row["scale"] for row in embedded(page)}
    assert "on no leaderboard" not in Reader(page).text
    assert not (folder / "records" / f"{smoke.id}.html").exists()


@pytest.mark.slow
def test_filters_choose_the_records(make_record: Any, write_records: Any, tmp_path: Path) -> None:
    results, folder = write_records(make_record(), make_record(dataset="digits")), tmp_path / "site"
    words = ["report", "--results", str(results), "--site", str(folder)]
    assert cli.main([*words, "--dataset", "digits"]) == 0
    rows = embedded((folder / "index.html").read_bytes())
    assert {row["dataset"] for row in rows if row["kind"] == "measured"} == {"digits"}
    assert cli.main([*words, "--dataset", "digit"]) == cli.USER_ERROR
    assert cli.main([*words, "--check"]) == cli.USER_ERROR


def test_errors_are_one_line(
    write_records: Any, make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.main(["report", "--results", str(empty), "--site", str(tmp_path / "site")]) == cli.USER_ERROR
    assert "no records under" in capsys.readouterr().err
    results = write_records(make_record())
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["report", "--results", str(results), "--site", str(file)]) == cli.USER_ERROR
    assert "is a file" in capsys.readouterr().err


def test_a_file_that_is_no_record_costs_its_line_only(
    write_records: Any, make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record())
    broken = results / "cpu" / "mnist" / "dm" / "ipc1" / "broken.json"
    broken.write_text("{")
    assert cli.main(["report", "--results", str(results), "--site", str(tmp_path / "site")]) == 1
    assert "broken.json" in capsys.readouterr().err
    assert (tmp_path / "site" / "index.html").is_file()


def test_a_library_without_its_export_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "dt_bundle.js").write_text("export{a as other}")
    monkeypatch.setattr(vendor.resources, "files", lambda _name: tmp_path)
    with pytest.raises(UserError, match="itables"):
        vendor.datatables_script()
    monkeypatch.setattr(vendor.resources, "files", lambda _name: tmp_path / "absent")
    with pytest.raises(UserError, match=r"pip install"):
        vendor.datatables_script()


def test_reporting_the_site_needs_no_torch() -> None:
    code = "import sys, harness.report.site.build; sys.exit(bool({'torch', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_method_has_a_page_of_its_own(make_record: Any, tmp_path: Path) -> None:
    records = [
        make_record("bacon", 10, dataset="cifar10", dataset_source="cifar10", accuracies=[0.6, 0.62]),
        make_record("bacon@paper", 10, dataset="cifar10", dataset_source="cifar10", accuracies=[0.5]),
        make_record(HOSTILE),
    ]
    put_record(records[0], tmp_path)
    save_set(records[0].trial.distillation.set_path(tmp_path))
    files = made(site_of(*records, results=tmp_path))
    assert "methods/bacon.html" in files
    assert not any("alert" in name or "@" in name for name in files)
    reader = Reader(files["methods/bacon.html"])
    for text in (
        "Bayesian optimal condensation",
        "Departures from the authors' code",
        "log(2 pi) / 2",
        "45.62",
    ):
        assert text in reader.text, text
    rows = [row.split("<td>") for row in files["methods/bacon.html"].decode().split("<tr>")[1:]]
    own = next(row for row in rows if records[0].id in row[0])
    assert (own[1:3], own[4]) == (["cifar10", "10"], "61.0 ± 1.4 (1×2)")
    assert "62.06" in own[5]
    assert any(records[1].id in row[0] for row in rows), "variants stand on the page of their method"
    assert ["cifar10", "50", "–", "not run"] in [row[1:5] for row in rows], "reported alone"
    assert f"../pictures/{records[0].trial.distillation.id}.png" in [
        attributes.get("src") for tag, attributes in reader.tags if tag == "img"
    ]
    listed = {attributes.get("href") for tag, attributes in Reader(files["methods.html"]).tags if tag == "a"}
    assert {"methods/bacon.html", "methods/random.html"} <= listed
    back = {attributes.get("href") for _, attributes in Reader(files[f"records/{records[1].id}.html"]).tags}
    assert "../methods/bacon.html" in back
    assert not any("methods/" in (link or "") for link in _links(files[f"records/{records[2].id}.html"]))


def _links(page: bytes) -> list[str | None]:
    return [
        attributes.get("href") for tag, attributes in Reader(page).tags if tag == "a" and "href" in attributes
    ]


def test_the_page_of_a_method_has_the_outcomes_of_its_golden_tests(make_record: Any) -> None:
    outcomes = {
        "loss": {"bacon": GoldenCounts(2, 1), "dm": GoldenCounts(1, 0)},
        "prior": {"bacon@paper": GoldenCounts(4, 0)},
        "nets": {"*": GoldenCounts(9, 0)},
    }
    by_name = {page.name: page for page in method.pages([], [], Fidelity(outcomes))}
    assert [tuple(fact) for fact in by_name["bacon"].golden] == [
        ("loss", "2 of 3"),
        ("prior (bacon@paper)", "4 of 4"),
    ]
    assert by_name["random"].golden == ()
    assert "bacon@paper" not in by_name
