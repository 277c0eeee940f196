"""The sets of a submitted file, brought into this harness's form and looked over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.data.catalog import KNOWN
from harness.core.errors import UserError
from harness.core.nets.names import canonical
from harness.submit.importers import Source, epochs
from harness.submit.request import SubmitRequest

if TYPE_CHECKING:
    from harness.core.data import Dataset, Transform
    from harness.core.distilled import Distilled
    from harness.submit.importers.common import Imported
    from harness.submit.inspect import ClassifierScores, Finding, PixelReading, Space


@dataclass(frozen=True)
class Case:
    """One set of a file, converted and looked over.

    claimed: the accuracy in [0, 1] that is claimed for it, typed or from the file; None if there is none.
    """

    distilled: Distilled
    reading: PixelReading
    like: ClassifierScores
    findings: list[Finding]
    claimed: float | None
    seed: int
    source: Source
    importer: str


def prepare(request: SubmitRequest) -> Iterator[Case]:
    """The sets of the file, converted and looked over, all of it without any look at the test split."""
    from harness.core.data import load, sealed
    from harness.engine.trial import compute_as_trials_do
    from harness.submit import importers

    assert request.file is not None
    compute_as_trials_do(request.device, request.threads)
    spec = request.spec
    source = importers.find(request.file, request.format)
    data = load(spec, request.data_dir)
    with sealed("a submitted set is looked over"):
        sets = importers.read(source, data, request.ipc)
        if request.experiment is not None:
            chosen = [one for one in sets if one.experiment == request.experiment]
            if not chosen:
                raise UserError(f"--experiment {request.experiment}: {source.path} holds {len(sets)}, from 0")
            sets = chosen
        for one in sets:
            yield _case(one, source, data, request)


def _case(one: Imported, source: Source, data: Dataset, request: SubmitRequest) -> Case:
    from harness.submit import inspect

    images = _channels_first(one.images, data.shape)
    classed = request.labels == "hard" and one.classes is not None
    labels = one.classes if classed else _labels(one.labels, request.labels)
    findings = inspect.structure(images, _first_tiles(labels, one, request), data, request.ipc, one.classes)
    inspect.refuse_fatal(findings)
    findings += [inspect.Finding("warning", "format", note, "") for note in one.notes]
    findings += inspect.class_names(one.class_names, data.class_names)
    inspect.refuse_fatal(findings)
    transform = _stated_transform(one, data, request)
    findings += inspect.whitening(one.transform, data.transform)
    reading, oddities = inspect.read_pixels(images, data, transform, _stated_space(one, request))
    findings += oddities
    distilled = _distilled(_converted(images, reading.space, transform, data), labels, one, data, request)
    like = inspect.likeness(distilled.decoded()[0], distilled.hard_labels(), data, distilled.factor)
    findings += inspect.classes(like, data.class_names)
    findings += inspect.channel_order(distilled.decoded()[0], data, distilled.factor)
    claimed = request.claimed / 100 if request.claimed is not None else _claim(one, request)
    if claimed is None and one.claims:
        findings.append(_claims_of_others(one, request))
    seed = request.seed + (0 if request.experiment is not None else one.experiment)
    return Case(distilled, reading, like, findings, claimed, seed, source, one.importer)


def _claim(one: Imported, request: SubmitRequest) -> float | None:
    """The accuracy in [0, 1] that the file gives for the network of this evaluation, if it does."""
    for name, claim in one.claims.items():
        try:
            same = canonical(name) == request.network
        except UserError:
            same = False
        if same:
            return claim
    return None


def _claims_of_others(one: Imported, request: SubmitRequest) -> Finding:
    """A note on accuracies that the file gives for other networks than that of this evaluation."""
    from harness.submit.inspect import Finding

    given = ", ".join(f"{100 * claim:.1f} % with {name}" for name, claim in one.claims.items())
    note = (
        f"the file gives {given}, and this evaluation trains {request.network}: that is no claim for it; "
        "--arch evaluates with theirs, --claimed states a claim"
    )
    return Finding("warning", "format", note, "")


def _channels_first(images: Any, shape: tuple[int, int, int]) -> Any:
    """Images as (n, C, H, W) where they are so or in a layout that can only mean it, else as they are."""
    channels, height, width = shape
    if tuple(images.shape[1:]) == (height, width) and channels == 1:
        return images.unsqueeze(1)
    if tuple(images.shape[1:]) == (height, width, channels):
        return images.movedim(3, 1).contiguous()
    return images


def _labels(labels: Any, how: str) -> Any:
    """Class numbers (n,), int64 if they are whole, or rows (n, classes) float32, read as was asked."""
    import torch

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        # Fractions stay as they are, for the linter to refuse.
        whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
        return labels.long() if whole else labels
    if labels.ndim == 3:
        raise epochs.refusal("the file", len(labels), labels.nbytes)
    if labels.ndim != 2:
        raise UserError(
            f"labels of shape {tuple(labels.shape)} are neither class numbers nor rows, one for each image"
        )
    if how == "hard":
        return labels.argmax(dim=1)
    return torch.softmax(labels.float(), dim=1) if how == "logits" else labels.float()


def _first_tiles(labels: Any, one: Imported, request: SubmitRequest) -> Any:
    """One label for each stored image, of labels that may be of all tiles: those of the first ones."""
    stored, factor = len(one.images), request.factor or one.factor or 1
    return labels[:stored] if len(labels) == stored * factor**2 else labels


def _stated_space(one: Imported, request: SubmitRequest) -> Space | None:
    """The reading of the pixels that was stated, by the user or the file itself."""
    if request.normalised is not None or request.mean is not None or one.transform is not None:
        return "normalised"
    if not request.raw:
        return None
    return "bytes" if float(one.images.max()) > 1.5 else "unit"


def _stated_transform(one: Imported, data: Dataset, request: SubmitRequest) -> Transform:
    """What normalised pixels of the file were made by."""
    from harness.core.data import Normalization

    if one.transform is not None:
        if request.raw or request.mean is not None or request.normalised is not None:
            raise UserError(
                "the file itself says how its pixels are normalised; leave --raw, --normalised, --mean and "
                "--std out"
            )
        return one.transform
    channels = data.shape[0]
    if request.mean is not None and request.std is not None:
        for name, numbers in (("mean", request.mean), ("std", request.std)):
            if len(numbers) not in (1, channels):
                raise UserError(
                    f"--{name} gives {len(numbers)} numbers; expected one, or one for each of the {channels} "
                    f"channels of {data.name}"
                )
        mean, std = (numbers * (channels // len(numbers)) for numbers in (request.mean, request.std))
        return Normalization.of(mean, std)
    if not request.normalised:
        return data.transform
    known = KNOWN[request.normalised]
    if len(known.mean) != channels:
        raise UserError(
            f"--normalised {request.normalised}: its statistics are of {len(known.mean)} channels, "
            f"{data.name} has {channels}"
        )
    return Normalization.of(known.mean, known.std)


def _converted(images: Any, space: Space, transform: Transform, data: Dataset) -> Any:
    """float32 images in the space of the dataset's transform; those that are in it stay bit for bit."""
    import torch

    from harness.submit.inspect import as_unit

    ours, theirs = data.transform.state(), transform.state()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if space == "normalised" and same:
        return images.float().contiguous()
    return data.transform(as_unit(images, space, transform)).contiguous()


def _distilled(images: Any, labels: Any, one: Imported, data: Dataset, request: SubmitRequest) -> Distilled:
    """The set in this harness's form, class after class."""
    from harness.core import dc_augment
    from harness.core.augment import operations, usual_strategy
    from harness.core.distilled import Distilled
    from harness.submit.inspect import hard, images_per_class

    classes = hard(_first_tiles(labels, one, request)) if one.classes is None else one.classes
    order = classes.argsort(stable=True)
    asked = request.augmentation if request.augmentation is not None else one.augmentation
    augmentation = usual_strategy(data.name) if asked is None else "" if asked == "none" else asked
    if not dc_augment.operations(augmentation):  # either refuses one that does not exist
        operations(augmentation)
    factor = request.factor or one.factor or 1
    return Distilled(
        images=images[order],
        labels=labels.unflatten(0, (-1, len(images)))[:, order].flatten(0, 1),
        ipc=request.ipc or images_per_class(classes, data.num_classes),
        dataset=data.name,
        class_names=data.class_names,
        transform=data.transform,
        method=request.full_name,
        config={"factor": factor, "augmentation": augmentation, "lr": request.lr},
        factor=factor,
        augmentation=augmentation,
        learned_lr=request.lr if request.lr is not None else one.learned_lr,
        classes=None if one.classes is None or labels.ndim == 1 else classes[order],
        steps=None if one.steps is None else one.steps.reordered(order),
    )
