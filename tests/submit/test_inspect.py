"""What the linter finds in sets with one known fault, and that it finds nothing in sets without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.core.data import Dataset, Normalization, load, parse, sealed
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.core.formation import compose, decode
from harness.submit import inspect
from methods.shared.whitening import whitened

IPC = 5


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse("digits", Path(".")), Path("."))


@pytest.fixture(scope="module")
def images(digits: Dataset) -> Tensor:
    """Real images, five of each class, normalised."""
    return digits.batch(digits.index.draw(IPC, torch.Generator().manual_seed(3)).indices)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(10).repeat_interleave(IPC)


def checks(findings: list[inspect.Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in findings]


def test_sound_set_has_no_findings(images: Tensor, labels: Tensor, digits: Dataset) -> None:
    soft = torch.nn.functional.one_hot(labels, 10).float() * 0.9 + 0.01
    for good in (labels, soft):
        assert inspect.structure(images, good, digits, IPC) == []
        assert inspect.structure(images, good, digits, None) == []
    reading, findings = inspect.read_pixels(images, digits, digits.transform, None)
    assert (reading.space, findings) == ("normalised", [])
    assert inspect.classes(inspect.likeness(images, labels, digits), digits.class_names) == []


def test_counts_that_do_not_fit(images: Tensor, labels: Tensor, digits: Dataset) -> None:
    total, by_class = inspect.structure(images[:-3], labels[:-3], digits, None)
    assert str(total) == "error: counts: saw 47 images; expected a multiple of the 10 classes of digits"
    assert str(by_class) == "error: images per class: saw 9: 2; expected 5 of each class"
    whole, by_class = inspect.structure(images[:-3], labels[:-3], digits, IPC)
    assert str(whole) == "error: counts: saw 47 images; expected 50, 10 classes x ipc 5"
    assert str(by_class) == "error: images per class: saw 9: 2; expected 5 of each class"
    shifted = labels.clone()
    shifted[0] = 1
    (uneven,) = inspect.structure(images, shifted, digits, None)
    assert uneven.seen == "0: 4, 1: 6"


def test_a_class_that_is_missing_is_named_not_those_that_are_whole(
    images: Tensor, labels: Tensor, digits: Dataset
) -> None:
    kept = labels != 3
    (finding,) = inspect.structure(images[kept], labels[kept], digits, IPC)[1:]
    assert str(finding) == "error: missing classes: saw no image of 3; expected 5 of each of the 10 classes"
    for ipc in (IPC, None):
        found = inspect.structure(images[kept], labels[kept], digits, ipc)
        assert [one.seen for one in found if one.check != "counts"] == ["no image of 3"]
    # Nine classes of ten images are ninety, a multiple of ten.
    twice = torch.cat([images[kept], images[kept]]), torch.cat([labels[kept], labels[kept]])
    (finding,) = inspect.structure(*twice, digits, None)
    assert (finding.check, finding.seen) == ("missing classes", "no image of 3")
    assert finding.expected == "10 of each of the 10 classes"
    assert inspect.images_per_class(twice[1], 10) == 10


def test_labels_that_are_fractions_are_refused(images: Tensor, labels: Tensor, digits: Dataset) -> None:
    (finding,) = inspect.structure(images, labels + 0.3, digits, None)
    assert (finding.check, finding.fatal) == ("labels", True)
    assert finding.seen == "50 of 50 labels that are fractions: 0.3, 0.3, 0.3, 0.3, ..."
    assert inspect.structure(images, labels.double(), digits, None) == []


def test_what_cannot_be_evaluated_is_fatal(images: Tensor, labels: Tensor, digits: Dataset) -> None:
    broken = images.clone()
    broken[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    faults = {
        "shape": inspect.structure(images.expand(-1, 3, -1, -1), labels, digits, None),
        "counts": inspect.structure(images, labels[:-1], digits, None),
        "numbers": inspect.structure(broken, labels, digits, None),
        "labels": inspect.structure(images, labels + 1, digits, None),
    }
    for check, (finding,) in faults.items():
        assert (finding.check, finding.level, finding.fatal) == (check, "error", True)
        with pytest.raises(UserError, match=f"{check}: saw "):
            inspect.refuse_fatal([finding])
    assert faults["numbers"][0].seen.startswith("2 values")
    assert faults["labels"][0].seen == "class numbers 1 to 10"
    (rows,) = inspect.structure(images, torch.ones(len(images), 7) / 7, digits, None)
    assert rows.fatal


def test_classes_beside_soft_labels_are_those_of_the_dataset(
    images: Tensor, labels: Tensor, digits: Dataset
) -> None:
    rows = torch.nn.functional.one_hot(labels.roll(1), 10).float()
    assert inspect.structure(images, rows, digits, None, labels) == []
    for classes in (labels - 1, labels + 1):
        (finding,) = inspect.structure(images, rows, digits, None, classes)
        assert (finding.check, finding.fatal) == ("labels", True)


def test_soft_labels_have_to_be_probabilities(images: Tensor, labels: Tensor, digits: Dataset) -> None:
    centred = torch.nn.functional.one_hot(labels, 10).float() - 0.1
    found = inspect.structure(images, centred, digits, None)
    assert checks(found) == [("error", "soft labels")]
    assert "50 of 50" in found[0].seen


@pytest.mark.parametrize("space", inspect.SPACES)
def test_reading_of_the_pixels_is_inferred_and_a_wrong_one_contradicted(
    space: inspect.Space, images: Tensor, digits: Dataset
) -> None:
    unit = digits.transform.inverse(images)
    stored = {"normalised": images, "unit": unit, "bytes": unit * 255, "signed": 2 * unit - 1}
    as_stored = stored[space]
    reading, findings = inspect.read_pixels(as_stored, digits, digits.transform, None)
    assert (reading.space, findings) == (space, [])
    for other in inspect.SPACES:
        _, findings = inspect.read_pixels(as_stored, digits, digits.transform, other)
        assert (("error", "pixels") in checks(findings)) == (other != space)


def test_pixels_unlike_the_data_in_any_reading(digits: Dataset) -> None:
    noise = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 12
    _, findings = inspect.read_pixels(noise, digits, digits.transform, "normalised")
    assert checks(findings) == [("warning", "pixels"), ("warning", "pixel range")]


def test_a_reading_that_nothing_supports_is_no_guess(digits: Dataset) -> None:
    """Stated, it is a warning; unstated, the evaluation would stand on a guess."""
    noise = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 12
    _, findings = inspect.read_pixels(noise, digits, digits.transform, None)
    assert checks(findings)[0] == ("error", "pixels")
    assert "unlike digits in any reading" in findings[0].seen
    assert "--mean and --std state it" in findings[0].expected


def test_dull_normalised_images_are_not_taken_for_signed_ones(images: Tensor, digits: Dataset) -> None:
    """Means of classes have half the contrast of images, as distilled sets of ipc 1 do."""
    means = torch.stack([digits.batch(digits.labels == c).mean(dim=0) for c in range(10)])
    reading, _ = inspect.read_pixels(means, digits, digits.transform, None)
    assert reading.space == "normalised"


def coloured() -> Dataset:
    """A dataset of orange pictures with a little noise."""
    from harness.core.data.dataset import Samples

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-40, 40, (400, 3, 8, 8), generator=generator)
    pixels = (noise + torch.tensor([200, 130, 60])[:, None, None]).clamp(0, 255).byte()
    train = Samples(pixels, torch.arange(4).repeat(100), ("a", "b", "c", "d"))
    return Dataset(toy().spec, train, Normalization.fit(pixels), lambda: train)


def test_exchanged_channels_are_found() -> None:
    data = coloured()
    right = data.images[:40].float() / 255
    assert inspect.channel_order(data.transform(right), data) == []
    (finding,) = inspect.channel_order(data.transform(right.flip(1)), data)
    assert (finding.level, finding.check) == ("error", "channel order")
    assert finding.seen.startswith("40 of 40 images whose red and blue look exchanged (BGR")


def test_no_order_of_channels_is_found_where_colours_tell_nothing(images: Tensor, digits: Dataset) -> None:
    assert inspect.channel_order(images, digits) == []
    grey = coloured()
    grey.images[:] = grey.images.float().mean(dim=1, keepdim=True).byte()
    assert inspect.channel_order(grey.batch(slice(40)).flip(1), grey) == []


def test_statistics_of_another_dataset_are_undone(images: Tensor, digits: Dataset) -> None:
    other = Normalization.of((0.1307,), (0.3081,))
    stored = other(digits.transform.inverse(images))
    torch.testing.assert_close(inspect.as_unit(stored, "normalised", other), digits.transform.inverse(images))


@pytest.mark.slow
@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [0, 1, 2, 3, 4, 5, 6, 9, 8, 7]])
def test_permuted_classes_are_named(
    order: list[int], images: Tensor, labels: Tensor, digits: Dataset
) -> None:
    """Images of class c are labelled order[c]."""
    like = inspect.likeness(images, torch.tensor(order)[labels], digits)
    (finding,) = inspect.classes(like, digits.class_names)
    assert (finding.level, finding.check) == ("error", "class order")
    moved = [c for c, given in enumerate(order) if c != given]
    named = {f"{order[c]} like {c}" for c in moved}
    found = finding.seen.partition(" (")[0].removeprefix("images labelled ").partition(" and ")[0].split(", ")
    assert set(found) <= named
    assert len(found) == min(4, len(moved))


def test_permutation_shows_at_one_image_per_class(digits: Dataset) -> None:
    one = digits.batch(digits.index.draw(1, torch.Generator().manual_seed(1)).indices)
    right, wrong = torch.arange(10), torch.arange(10).roll(1)
    assert inspect.classes(inspect.likeness(one, right, digits), digits.class_names) == []
    found = inspect.classes(inspect.likeness(one, wrong, digits), digits.class_names)
    assert checks(found) == [("error", "class order")]


def test_noise_is_no_permutation(labels: Tensor, digits: Dataset) -> None:
    noise = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = inspect.classes(inspect.likeness(noise, labels, digits), digits.class_names)
    assert checks(found) == [("warning", "classes")]


def test_whitened_images_do_not_pass_for_normalised_ones(labels: Tensor, digits: Dataset) -> None:
    whitened = load(parse("digits", Path("."), zca=True), Path("."))
    chosen = digits.index.draw(IPC, torch.Generator().manual_seed(3)).indices
    (finding,) = inspect.classes(inspect.likeness(whitened.batch(chosen), labels, digits), digits.class_names)
    assert (finding.level, finding.check) == ("warning", "classes")
    assert "need --zca" in finding.expected
    assert (
        inspect.classes(inspect.likeness(whitened.batch(chosen), labels, whitened), digits.class_names) == []
    )


@pytest.mark.slow
def test_tiles_are_judged_decoded(digits: Dataset) -> None:
    generator = torch.Generator().manual_seed(5)
    parts = [digits.batch(digits.index.draw(IPC, generator).indices) for _ in range(4)]
    tiles = torch.arange(10).repeat_interleave(IPC)
    like = inspect.likeness(decode(compose(parts, 2), 2), tiles.repeat(4), digits, factor=2)
    assert inspect.classes(like, digits.class_names) == []
    assert len(like.labels) == 200
    # Whole images taken for tiles look like nothing: that is no order of classes.
    whole = decode(parts[0], 2)
    found = inspect.classes(inspect.likeness(whole, tiles.repeat(4), digits, factor=2), digits.class_names)
    assert checks(found) == [("warning", "classes")]
    assert "need --factor" in found[0].expected


def test_test_split_is_never_looked_at() -> None:
    data = toy()
    with sealed("this test"):
        chosen = data.index.draw(2, torch.Generator().manual_seed(0)).indices
        inspect.read_pixels(data.batch(chosen), data, data.transform, None)
        inspect.likeness(data.batch(chosen), data.labels[chosen], data)
    assert data.test_looks == 0


def test_chance_is_what_guessing_reaches() -> None:
    assert checks(inspect.outcome(0.11, [100] * 10)) == [("error", "chance")]
    assert inspect.outcome(0.13, [100] * 10) == []
    # Fewer test images leave more room for luck.
    assert checks(inspect.outcome(0.13, [10] * 10)) == [("error", "chance")]


def test_chance_is_the_share_of_the_largest_test_class() -> None:
    """Naming always the largest class is no accuracy: 19.6 % on the test split of SVHN."""
    counts = [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595]
    (finding,) = inspect.outcome(0.196, counts)
    assert (finding.level, finding.check) == ("error", "chance")
    assert "the largest class's share of 19.6 %" in finding.expected
    assert inspect.outcome(0.22, counts) == []


def test_claim_outside_the_interval_is_a_warning() -> None:
    assert inspect.claim(0.65, (0.6, 0.7), "interval") == []
    (finding,) = inspect.claim(0.753, (0.6, 0.7), "interval", "; reason")
    assert str(finding) == (
        "warning: claim: saw a claim of 75.3 %; "
        "expected one within the measured 60.0 ... 70.0 % (interval); reason"
    )


def test_other_class_names_or_their_other_order() -> None:
    assert inspect.class_names(None, ("a", "b")) == []
    assert inspect.class_names(("a", "b"), ("a", "b")) == []
    assert checks(inspect.class_names(("b", "a"), ("a", "b"))) == [("error", "class order")]
    assert checks(inspect.class_names(("a", "c"), ("a", "b"))) == [("error", "class names")]


def test_another_kind_of_normalisation_is_said(digits: Dataset) -> None:
    plain, zca = digits.transform, load(parse("digits", Path("."), zca=True), Path(".")).transform
    own = whitened(digits, 0.1).transform
    assert inspect.whitening(None, plain) == []
    assert inspect.whitening(Normalization.of((0.1,), (0.2,)), plain) == []
    assert inspect.whitening(zca, zca) == []
    said = {
        (zca, plain): "made for ZCA-whitened images, and networks see plain ones; --zca trains on these",
        (plain, zca): "made for plain images, and networks see ZCA-whitened ones, as --zca says",
        (own, plain): "whitened as only its method does; networks see plain images",
        (own, zca): "whitened as only its method does; networks see ZCA-whitened images",
    }
    for (theirs, ours), words in said.items():
        (finding,) = inspect.whitening(theirs, ours)
        assert str(finding) == f"warning: whitening: {words}"
