"""`submit` from the command line: files as authors write them, real evaluations at smoke scale on digits."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from harness.commands.cli import main
from harness.commands.status import summarise
from harness.core.context import Context
from harness.core.data import load, parse
from harness.core.distilled import Distilled
from harness.core.tangent import KernelRidge, TangentKernel
from harness.engine.record_files import existing_record, read_records
from harness.engine.records import Record
from harness.report.claims import claims_markdown
from harness.report.formats import markdown
from harness.report.standing import scored
from harness.report.tables import blocks_by_track, document
from methods import random
from methods.shared.whitening import whitened

IPC = 2
ARCH = "ConvNetW8"
SMALL = ("--scale", "smoke", "--arch", ARCH, "--evals", "1")


@pytest.fixture(scope="module")
def distilled() -> Distilled:
    """Real images: whole numbers of grey levels, which also survive in a PNG."""
    return random.distill("digits", IPC, context=Context(seed=4))


def save_dc(found: Distilled, folder: Path) -> Path:
    path = folder / "res_DM_digits_ConvNet_2ipc.pt"
    accuracies = {ARCH: [np.float64(0.25), np.float64(0.35)], "AlexNet": [0.1, 0.2]}
    torch.save({"data": [[found.images, found.labels]], "accs_all_exps": accuracies}, path)
    return path


def save_dc_of_old_torch(found: Distilled, folder: Path) -> Path:
    path = folder / "old.pt"
    content = {"data": [[found.images, found.labels]], "accs_all_exps": {"ConvNet": []}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def save_idm(found: Distilled, folder: Path) -> Path:
    path = folder / "synset.pkl"
    with path.open("wb") as file:
        pickle.dump((found.images, found.labels), file)
    return path


def save_mtt(found: Distilled, folder: Path) -> Path:
    torch.save(found.images, folder / "images_best.pt")
    torch.save(found.labels, folder / "labels_best.pt")
    return folder


def save_kip(found: Distilled, folder: Path) -> Path:
    rows = torch.nn.functional.one_hot(found.labels, 10).float() - 0.1
    path = folder / "kip.npz"
    np.savez(path, images=found.pixels().movedim(1, 3).numpy(), labels=rows.numpy())
    return path


def save_folder(found: Distilled, folder: Path) -> Path:
    for k, (image, label) in enumerate(zip(found.pixels(), found.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{k:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)
    return folder


def save_own(found: Distilled, folder: Path) -> Path:
    path = folder / "own.safetensors"
    found.save(path)
    return path


SAVERS: dict[str, tuple[Callable[[Distilled, Path], Path], tuple[str, ...]]] = {
    "dc": (save_dc, ()),
    "dc-old": (save_dc_of_old_torch, ("--normalised",)),
    "idm": (save_idm, ()),
    "mtt": (save_mtt, ()),
    "kip": (save_kip, ("--labels", "hard", "--raw")),
    "folder": (save_folder, ()),
    "safetensors": (save_own, ()),
}


def submit(path: Path, results: Path, *more: str, method: str = "theirs") -> int:
    fixed = ("--dataset", "digits", "--method", method, "--results", str(results), *SMALL)
    return main(["submit", str(path), *fixed, *more])


def only_record(results: Path) -> Record:
    (record,) = read_records(results)
    return record


def test_labels_of_every_epoch_in_a_file_are_refused(
    distilled: Distilled, tmp_path: Path, capsys: Any
) -> None:
    rows = np.full((300, len(distilled.images), 10), 0.1, dtype=np.float32)
    np.savez(tmp_path / "theirs.npz", images=distilled.pixels().numpy(), labels=rows)
    assert submit(tmp_path / "theirs.npz", tmp_path / "results") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "labels of each of 300 epochs" in line
    assert "--protocol kd-bssl" in line
    assert not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize("beside", [True, False])
def test_labels_of_every_epoch_in_a_folder_are_refused(beside: bool, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "theirs"
    labels = folder / "FKD_soft_label" if beside else folder
    for epoch in range(3):
        (labels / f"epoch_{epoch}").mkdir(parents=True)
        (labels / f"epoch_{epoch}" / "batch_0.tar").write_bytes(bytes(1024))
    assert submit(folder, tmp_path / "results") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {labels} holds labels of each of 3 epochs (3.00 KiB)")


def test_fractional_labels_are_refused(distilled: Distilled, tmp_path: Path, capsys: Any) -> None:
    odd = dataclasses.replace(distilled, labels=distilled.labels + 0.3)
    assert submit(save_dc(odd, tmp_path), tmp_path / "results") == 2
    assert "20 of 20 labels that are fractions: 0.3, 0.3, 1.3, 1.3" in capsys.readouterr().err
    whole = dataclasses.replace(distilled, labels=distilled.labels.float())
    assert submit(save_dc(whole, tmp_path), tmp_path / "results", "--lint-only") == 0


@pytest.mark.slow
def test_every_format_gives_the_same_measurement(distilled: Distilled, tmp_path: Path) -> None:
    for kind, (save, options) in SAVERS.items():
        folder = tmp_path / kind
        folder.mkdir()
        assert submit(save(distilled, folder), tmp_path / "results", *options, "--force", method=kind) == 0
    records = {record.trial.method: record for record in read_records(tmp_path / "results")}
    assert set(records) == {f"{kind}@submitted" for kind in SAVERS}
    facts = {(r.accuracies[0], r.train_losses[0], r.images_digest) for r in records.values()}
    assert len(facts) == 1
    for kind, record in records.items():
        assert record.status == "done"
        assert record.test_looks == 1
        assert record.distill is None
        assert record.submission is not None
        assert record.submission.importer == kind.partition("@")[0].partition("-")[0]


@pytest.mark.slow
def test_measured_as_our_own_sets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr("harness.engine.trial._set_up", lambda device, threads: devices.append(device))
    options = ["--dataset", "digits", "--methods", "random", "--ipc", str(IPC), "--launcher", "inline"]
    assert main(["run", *options, "--results", str(tmp_path / "own"), *SMALL]) == 0
    own = only_record(tmp_path / "own")
    assert submit(own.trial.distillation.set_path(tmp_path / "own"), tmp_path / "theirs", "--force") == 0
    theirs = only_record(tmp_path / "theirs")
    assert theirs.accuracies == own.accuracies
    assert devices == ["cpu", "cpu"], "what a device needs for the same precision is set up for both"
    assert theirs.trial.seed == own.trial.seed
    assert theirs.trial.id != own.trial.id


@pytest.mark.slow
def test_record_stands_in_tables_and_status_under_its_own_name(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert submit(save_dc(distilled, tmp_path), results, "--force", method="dm") == 0
    shown = capsys.readouterr().out
    record = only_record(results)
    path = record.trial.record_path(results)
    assert str(path) in shown
    assert path.parent == results / "smoke" / "digits" / "dm@submitted" / f"ipc{IPC}"
    assert existing_record(record.trial, results) == record
    (row,) = summarise([record])
    assert (row.method, row.counts, row.stale) == ("dm@submitted", {"done": 1}, 0)
    tracks = scored([record])
    assert "dm@submitted" in markdown(document(blocks_by_track(tracks, {}), tracks))
    assert record.submission is not None
    assert record.submission.claimed_accuracy == pytest.approx(0.3)  # mean of those in the file
    (line,) = claims_markdown([record]).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "dm@submitted"
    assert cells[3] == "30.0"
    assert cells[4].startswith(f"{100 * record.accuracies[0]:.1f} ")
    assert cells[6] == f"{100 * (record.accuracies[0] - 0.3):+.1f}"
    assert main(["submit", "--results", str(results)]) == 0
    assert line in capsys.readouterr().out


@pytest.mark.slow
def test_same_file_twice_is_one_record_and_other_images_are_refused(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = tmp_path / "results", save_idm(distilled, tmp_path)
    assert submit(path, results, "--force") == 0
    record = only_record(results)
    before = record.trial.record_path(results).read_bytes()
    assert submit(path, results, "--force") == 0
    (tmp_path / "images").mkdir()
    assert submit(save_folder(distilled, tmp_path / "images"), results, "--force") == 0
    other = random.distill("digits", IPC, context=Context(seed=5))
    capsys.readouterr()
    assert submit(save_idm(other, tmp_path), results, "--force") == 2
    assert "is the record of other images" in capsys.readouterr().err
    assert record.trial.record_path(results).read_bytes() == before
    assert len(read_records(results)) == 1


@pytest.mark.slow
def test_each_repetition_in_a_file_is_a_seed(distilled: Distilled, tmp_path: Path) -> None:
    other = random.distill("digits", IPC, context=Context(seed=5))
    path = tmp_path / "two.pt"
    accuracies = {ARCH: [0.2, 0.4]}
    data = [[found.images, found.labels] for found in (distilled, other)]
    torch.save({"data": data, "accs_all_exps": accuracies}, path)
    assert submit(path, tmp_path / "all", "--seed", "3", "--force") == 0
    found = {record.trial.seed: record for record in read_records(tmp_path / "all")}
    assert sorted(found) == [3, 4]
    assert [found[k].submission.claimed_accuracy for k in (3, 4)] == [0.2, 0.4]  # type: ignore[union-attr]
    assert found[3].images_digest != found[4].images_digest
    assert "(2×1)" in claims_markdown(found.values())
    assert submit(path, tmp_path / "one", "--experiment", "1", "--force") == 0
    assert only_record(tmp_path / "one").images_digest == found[4].images_digest
    assert submit(path, tmp_path / "one", "--experiment", "2") == 2


@pytest.mark.slow
def test_errors_stop_unless_forced_and_stay_in_the_record(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = tmp_path / "results", tmp_path / "permuted.pt"
    torch.save({"data": [[distilled.images, distilled.labels.roll(IPC)]]}, path)
    assert submit(path, results) == 1
    assert "error: class order" in capsys.readouterr().out
    assert not results.exists()
    assert submit(path, results, "--force", "--claimed", "98.5") == 0
    record = only_record(results)
    assert record.submission is not None
    kinds = [finding.check for finding in record.submission.found]
    assert kinds[0] == "class order"
    assert kinds[-1] == "claim"
    assert "98.5" in claims_markdown([record])


def test_wrong_normalisation_is_an_error(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_kip(distilled, tmp_path)
    assert submit(path, tmp_path / "results", "--labels", "hard", "--normalised", "--lint-only") == 1
    shown = capsys.readouterr().out
    assert "error: pixels: saw values of mean" in shown
    assert "as of pixels in [0, 1]; expected normalised, as stated" in shown


def test_soft_labels_and_factor_reach_the_evaluation(distilled: Distilled, tmp_path: Path) -> None:
    path = tmp_path / "logits.pt"
    logits = 4 * torch.nn.functional.one_hot(distilled.labels, 10).float()
    torch.save({"data": [[distilled.images, logits]]}, path)
    results = tmp_path / "results"
    assert submit(path, results, "--labels", "logits", "--factor", "2", "--lr", "0.02", "--force") == 0
    record = only_record(results)
    kept = Distilled.load(record.trial.distillation.set_path(results))
    torch.testing.assert_close(kept.labels, logits.softmax(dim=1))
    assert (kept.factor, kept.learned_lr) == (2, 0.02)
    assert record.decoded_images == 4 * len(kept.images)


def test_a_rate_of_sgd_is_refused_before_the_first_of_several_evaluations(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = save_dc(distilled, tmp_path), tmp_path / "results"
    assert submit(path, results, "--lr", "0.02", "--protocol", "dc-smoke,ncfm-2000", "--force") == 2
    assert "protocol ncfm-2000 trains by another optimiser" in capsys.readouterr().err
    assert not list(results.rglob("*.json"))


@pytest.mark.slow
def test_classes_of_soft_labels_come_along_and_each_tile_keeps_its_own(tmp_path: Path) -> None:
    tiles = random.distill("digits", 2 * IPC, context=Context(seed=4))
    firsts = torch.arange(len(tiles.labels)).view(10, 2, IPC)[:, 0].flatten()
    rows = torch.nn.functional.one_hot(tiles.labels[firsts].roll(IPC), 10).float()  # wrong, were they read
    own = dataclasses.replace(
        tiles,
        images=tiles.images[firsts],
        labels=torch.cat([rows] * 4),
        classes=tiles.labels[firsts],
        ipc=IPC,
        factor=2,
    )
    path = save_own(own, tmp_path)
    assert submit(path, tmp_path / "results", "--protocol", "sl-smoke,dc-steps-smoke", "--force") == 0
    for record in read_records(tmp_path / "results"):
        assert (record.label_kind, record.trial.ipc) == ("soft", IPC)
        assert record.submission is not None
        assert {finding.check for finding in record.submission.found} <= {"classes", "chance"}


def test_json_holds_findings_and_records(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = tmp_path / "results", save_mtt(distilled, tmp_path)
    assert submit(path, results, "--force", "--json", "--claimed", "30") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["records"][0]["accuracies"] == only_record(results).accuracies
    assert content["sets"][0]["pixels"] == "normalised"
    assert content["sets"][0]["findings"][0]["check"] == "format"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--claimed", "0.653"], "no accuracy in percent"),
        (["--method", "a/b"], "cannot name a record"),
        (["--method", "dm@submitted"], "cannot name a record"),
        (["--raw", "--normalised"], "drop one"),
        (["--raw", "--mean", "0.5", "--std", "0.5"], "drop one"),
        (["--mean", "0.5"], "--mean and --std belong together"),
        (["--mean", "0.5", "--std", "0"], "--std positive"),
        (["--mean", "a", "--std", "0.5"], "expected numbers, e.g. 0.5 or 0.5,0.5,0.5"),
        (
            ["--mean", "0.5,0.5", "--std", "0.5"],
            "--mean gives 2 numbers; expected one, or one for each of the 1",
        ),
        (["--normalised", "cifar11"], "did you mean 'cifar10'"),
        (["--normalised", "cifar10"], "statistics are of 3 channels, digits has 1"),
        (["--labels", "harder"], "did you mean 'hard'"),
        (["--format", "idmm"], "did you mean 'idm'"),
        (["--ipc", "0"], "--ipc 0 is impossible"),
        (["--lr", "-1"], "must be positive"),
        (["--scale", "cpuu"], "did you mean 'cpu'"),
        (["--arch", "ConvNetX"], "unknown suffix"),
        (["--augmentation", "flip_blur"], "unknown augmentation 'blur'"),
        (["--augmentation", "dc:blur"], "unknown augmentation of DC 'blur'"),
        (["--dataset", "digit"], "did you mean 'digits'"),
        (["--dataset", "folder:~nosuch/x"], "folder:~nosuch/x: no such home folder is known"),
    ],
)
def test_mistakes_are_one_line_before_any_training(
    options: list[str],
    complaint: str,
    distilled: Distilled,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save_dc(distilled, tmp_path)
    assert submit(path, tmp_path / "results", *options) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "results").exists()


def test_accuracies_are_a_claim_for_the_network_that_they_name(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "set.pt"
    accuracies = {"ConvNet": [0.9, 0.8], "AlexNet": [0.2], "their own network": [0.3]}
    torch.save({"data": [[distilled.images, distilled.labels]], "accs_all_exps": accuracies}, path)
    assert submit(path, tmp_path / "results", "--force") == 0
    shown = capsys.readouterr().out
    assert "the file gives 85.0 % with ConvNet, 20.0 % with AlexNet, 30.0 % with their own network" in shown
    assert "this evaluation trains ConvNetW8: that is no claim for it" in shown
    record = only_record(tmp_path / "results")
    assert record.submission is not None
    assert record.submission.claimed_accuracy is None
    assert submit(path, tmp_path / "alex", "--force", "--lint-only", "--json", "--arch", "alexnet") == 0
    assert json.loads(capsys.readouterr().out)["sets"][0]["claimed_accuracy"] == 0.2


@pytest.mark.slow
def test_a_claim_on_a_measured_set_changes_the_claim_and_nothing_else(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = tmp_path / "results", save_idm(distilled, tmp_path)
    assert submit(path, results, "--force") == 0
    before = only_record(results)
    assert before.submission is not None
    assert submit(path, results, "--force", "--claimed", "99") == 0
    shown = capsys.readouterr().out
    assert "the claim is now 99.0 % (without a claim before)" in shown
    assert "warning: claim: saw a claim of 99.0 %" in shown
    after = only_record(results)
    assert after.submission is not None
    assert after.submission.claimed_accuracy == 0.99
    assert [one.check for one in after.submission.found].count("claim") == 1
    assert " 99.0 |" in claims_markdown([after])
    assert msgspec.structs.replace(after, submission=None) == msgspec.structs.replace(before, submission=None)
    honest = f"{100 * before.accuracies[0]:.3f}"
    assert submit(path, results, "--force", "--claimed", honest) == 0
    assert "(before 99.0 %)" in capsys.readouterr().out
    last = only_record(results)
    assert last.submission is not None
    assert "claim" not in [one.check for one in last.submission.found]
    assert submit(path, results, "--force") == 0
    assert only_record(results) == last  # a claim that is not typed again stays


def test_findings_are_fields_and_sentences_of_older_records_are_read(
    distilled: Distilled, tmp_path: Path
) -> None:
    results, path = tmp_path / "results", save_mtt(distilled, tmp_path)
    assert submit(path, results, "--force", "--claimed", "99.5") == 0
    record = only_record(results)
    assert record.submission is not None
    note, *_, claim = record.submission.found
    assert (note.level, note.check, note.expected) == ("warning", "format", "")
    assert (claim.level, claim.check, claim.seen) == ("warning", "claim", "a claim of 99.5 %")
    file = record.trial.record_path(results)
    content = json.loads(file.read_text())
    assert all(isinstance(one, dict) for one in content["submission"]["findings"])
    content["submission"]["findings"] = list(map(str, record.submission.found))
    file.write_text(json.dumps(content))
    older = only_record(results)
    assert older.submission is not None
    assert older.submission.found == record.submission.found
    assert claims_markdown([older]) == claims_markdown([record])
    assert main(["submit", "--results", str(results), "--json"]) == 0


@pytest.mark.slow
def test_pixels_from_minus_one_to_one_are_recognised_or_stated(distilled: Distilled, tmp_path: Path) -> None:
    """By mean 0.5 and standard deviation 0.5, as many repositories normalise."""
    path = tmp_path / "signed.pkl"
    path.write_bytes(pickle.dumps((2 * distilled.pixels() - 1, distilled.labels)))
    for name, options in {"found": [], "stated": ["--mean", "0.5", "--std", "0.5"]}.items():
        assert submit(path, tmp_path / name, *options, "--force") == 0
        record = only_record(tmp_path / name)
        assert record.submission is not None
        assert "pixels" not in [one.check for one in record.submission.found]
        kept = Distilled.load(record.trial.distillation.set_path(tmp_path / name))
        torch.testing.assert_close(kept.images, distilled.images, rtol=0, atol=1e-5)


def test_images_alone_are_labelled_by_ipc(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "images.pt"
    torch.save(distilled.images, path)
    assert submit(path, tmp_path / "results") == 2
    assert "20 images without labels; expected labels" in capsys.readouterr().err
    assert submit(path, tmp_path / "results", "--ipc", str(IPC), "--force") == 0
    assert only_record(tmp_path / "results").images_digest == distilled.digest()


def test_fractions_and_missing_classes_are_named(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "set.pt"
    torch.save([distilled.images, distilled.labels + 0.3], path)
    assert submit(path, tmp_path / "results") == 2
    assert "labels that are fractions: 0.3, 0.3, 1.3" in capsys.readouterr().err
    kept = distilled.labels != 7
    torch.save([distilled.images[kept], distilled.labels[kept]], path)
    assert submit(path, tmp_path / "results", "--lint-only") == 1
    assert "saw no image of 7; expected 2 of each of the 10 classes" in capsys.readouterr().out


def test_a_file_that_states_its_normalisation_is_not_contradicted(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_own(distilled, tmp_path)
    assert submit(path, tmp_path / "results", "--raw") == 2
    assert "the file itself says how its pixels are normalised" in capsys.readouterr().err


def test_missing_names_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(tmp_path / "x.pt"), "--dataset", "digits"]) == 2
    assert "--method is missing" in capsys.readouterr().err


def test_command_line_stays_free_of_torch() -> None:
    code = "import sys, harness.submit.command, harness.submit.importers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_left_out_of_whitened_sets_and_those_of_a_kernel_is_said(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = whitened(load(parse("digits", Path(".")), Path(".")), 0.1)
    ridge = KernelRidge(TangentKernel("vec", 3), 1e-6)
    own = dataclasses.replace(
        distilled, images=view.transform(distilled.pixels()), transform=view.transform, ridge=ridge
    )
    assert submit(save_own(own, tmp_path), tmp_path / "results", "--lint-only") == 0
    shown = capsys.readouterr().out
    assert "warning: whitening: whitened as only its method does; networks see plain images" in shown
    assert (
        "warning: format: only networks are measured, which leaves out the kernel that the set is for "
        "(vec, regulariser 1e-06)"
    ) in shown
    zca = random.distill(load(parse("digits", Path("."), zca=True), Path(".")), IPC, context=Context(seed=4))
    assert submit(save_own(zca, tmp_path), tmp_path / "results", "--lint-only") == 0
    assert "warning: whitening: made for ZCA-whitened images" in capsys.readouterr().out
    assert submit(save_own(zca, tmp_path), tmp_path / "results", "--lint-only", "--zca") == 0
    assert "whitening" not in capsys.readouterr().out


def test_classes_in_an_export_are_one_for_each_image(
    distilled: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file of others a name such as `classes` may stand for anything."""
    rows = torch.nn.functional.one_hot(distilled.labels, 10).float()
    path = tmp_path / "set.pt"
    content = {"images": distilled.images, "labels": rows, "classes": torch.arange(3)}
    torch.save(content, path)
    assert submit(path, tmp_path / "results", "--lint-only") == 0
    ours = {f"transform.{name}": tensor for name, tensor in distilled.transform.state().items()}
    for classes in (torch.arange(3), distilled.labels.float()):
        torch.save(content | ours | {"classes": classes}, path)
        capsys.readouterr()
        assert submit(path, tmp_path / "results", "--lint-only") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected a whole number for each of the 20 images" in line


def test_without_a_home_the_data_folder_is_asked_for(
    distilled: Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    path = save_dc(distilled, tmp_path)
    for name in ("HARNESS_DATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert submit(path, tmp_path / "results") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this user has no home folder" in line
    assert "pass --data, or set HARNESS_DATA" in line
