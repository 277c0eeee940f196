"""The sets of a submitted file, brought into this harness's form and looked over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.data.catalog import KNOWN
from harness.errors import UserError
from harness.importers import Source
from harness.submit.request import Request

if TYPE_CHECKING:
    from harness.data import Dataset, Transform
    from harness.importers.common import Imported
    from harness.lint import Finding, Likeness, Reading, Space
    from methods.api import Distilled


@dataclass(frozen=True)
class Case:
    """One set of a file, converted and looked over.

    claimed: the accuracy in [0, 1] that is claimed for it, typed or from the file; None if there is none.
    """

    distilled: Distilled
    reading: Reading
    like: Likeness
    findings: list[Finding]
    claimed: float | None
    seed: int
    source: Source
    importer: str


def prepare(request: Request) -> Iterator[Case]:
    """The sets of the file, converted and looked over, all of it without any look at the test split."""
    from harness import importers
    from harness.data import load, sealed

    assert request.file is not None
    if request.threads is not None:
        import torch

        torch.set_num_threads(request.threads)
    spec = request.spec
    source = importers.find(request.file, request.format)
    data = load(spec, request.data_dir)
    with sealed("a submitted set is looked over"):
        sets = importers.read(source, data)
        if request.experiment is not None:
            chosen = [one for one in sets if one.experiment == request.experiment]
            if not chosen:
                raise UserError(f"--experiment {request.experiment}: {source.path} holds {len(sets)}, from 0")
            sets = chosen
        for one in sets:
            yield _case(one, source, data, request)


def _case(one: Imported, source: Source, data: Dataset, request: Request) -> Case:
    from harness import lint

    images, labels = _channels_first(one.images, data.shape), _labels(one.labels, request.labels)
    findings = lint.structure(images, labels, data, request.ipc)
    lint.refuse_fatal(findings)
    findings += [lint.Finding("warning", "format", note, "") for note in one.notes]
    findings += lint.class_names(one.class_names, data.class_names)
    lint.refuse_fatal(findings)
    transform = _stated_transform(one, data, request)
    reading, oddities = lint.read_pixels(images, data, transform, _stated_space(one, request))
    findings += oddities
    distilled = _distilled(_converted(images, reading.space, transform, data), labels, one, data, request)
    like = lint.likeness(*distilled.decoded(), data, distilled.factor)
    findings += lint.classes(like, data.class_names)
    claimed = request.claimed / 100 if request.claimed is not None else one.claimed
    seed = request.seed + (0 if request.experiment is not None else one.experiment)
    return Case(distilled, reading, like, findings, claimed, seed, source, one.importer)


def _channels_first(images: Any, shape: tuple[int, int, int]) -> Any:
    """Images as (n, C, H, W) where they are so or in a layout that can only mean it, else as they are."""
    channels, height, width = shape
    if tuple(images.shape[1:]) == (height, width) and channels == 1:
        return images.unsqueeze(1)
    if tuple(images.shape[1:]) == (height, width, channels):
        return images.movedim(3, 1).contiguous()
    return images


def _labels(labels: Any, how: str) -> Any:
    """Class numbers (n,) int64 or rows (n, classes) float32, read as was asked."""
    import torch

    from harness.data.dataset import class_numbers

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        return class_numbers(labels)
    if labels.ndim != 2:
        raise UserError(
            f"labels of shape {tuple(labels.shape)} are neither class numbers nor rows, one for each image"
        )
    if how == "hard":
        return labels.argmax(dim=1)
    return torch.softmax(labels.float(), dim=1) if how == "logits" else labels.float()


def _stated_space(one: Imported, request: Request) -> Space | None:
    """The reading of the pixels that was stated, by the user or the file itself."""
    if request.normalised is not None or one.transform is not None:
        return "normalised"
    if not request.raw:
        return None
    return "bytes" if float(one.images.max()) > 1.5 else "unit"


def _stated_transform(one: Imported, data: Dataset, request: Request) -> Transform:
    """What normalised pixels of the file were made by."""
    from harness.data import Normalization

    if one.transform is not None:
        return one.transform
    if not request.normalised:
        return data.transform
    known = KNOWN[request.normalised]
    if len(known.mean) != data.shape[0]:
        raise UserError(
            f"--normalised {request.normalised}: its statistics are of {len(known.mean)} channels, "
            f"{data.name} has {data.shape[0]}"
        )
    return Normalization.of(known.mean, known.std)


def _converted(images: Any, space: Space, transform: Transform, data: Dataset) -> Any:
    """float32 images in the space of the dataset's transform; those that are in it stay bit for bit."""
    import torch

    from harness.lint import as_unit

    ours, theirs = data.transform.state(), transform.state()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if space == "normalised" and same:
        return images.float().contiguous()
    return data.transform(as_unit(images, space, transform)).contiguous()


def _distilled(images: Any, labels: Any, one: Imported, data: Dataset, request: Request) -> Distilled:
    """The set in this harness's form, class after class."""
    from harness.lint import hard
    from methods.api import Distilled
    from methods.augment import operations, usual_strategy

    order = hard(labels).argsort(stable=True)
    asked = request.augmentation if request.augmentation is not None else one.augmentation
    augmentation = usual_strategy(data.name) if asked is None else "" if asked == "none" else asked
    if not augmentation.startswith("dc:"):
        operations(augmentation)
    factor = request.factor or one.factor or 1
    return Distilled(
        images=images[order],
        labels=labels[order],
        ipc=request.ipc or max(1, len(images) // data.num_classes),
        dataset=data.name,
        class_names=data.class_names,
        transform=data.transform,
        method=request.full_name,
        config={"factor": factor, "augmentation": augmentation, "lr": request.lr},
        factor=factor,
        augmentation=augmentation,
        learned_lr=request.lr if request.lr is not None else one.learned_lr,
    )
