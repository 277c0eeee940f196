"""`python -m harness export`: our distilled sets in the forms that other benchmarks' evaluators read.

The other way round of `submit`, which reads each of them back: the same images, labels and normalisation, to
within what the form can hold. It is said what a form cannot hold and which options of `submit` restate it.

    dc            torch.save({"data": [[images, labels], ...], ...}): several sets, soft labels
    npz           arrays `images` (channels last) and `labels`: one set, soft labels
    imagefolder   a folder of PNGs for each class, named by its number: one set, 8 bits, hard labels
    safetensors   `images` and `labels` beside all that this harness keeps with a set: one set, everything
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.core.data.catalog import FOLDER_PREFIX, KNOWN
from harness.core.errors import UnknownNameError, UserError
from harness.core.files import replacing
from harness.engine.records import DistillationRecord

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.distilled import Distilled

FORMATS = ("dc", "npz", "imagefolder", "safetensors")
LABELS = ("stored", "hard")
TILES = ("decode", "keep")
PICTURE_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ExportRequest:
    """What `export` is asked to do.

    labels: "stored", or "hard" for the class of each image. tiles: what becomes of sets whose images are
    grids of several: "decode" writes what networks train on, "keep" the grids; None refuses such sets.
    """

    sets: tuple[Path, ...]
    format: str
    output: Path
    labels: str = "stored"
    tiles: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "sets", nargs="+", type=Path, metavar="SET", help="distilled sets of this harness (.safetensors)"
    )
    parser.add_argument(
        "--format",
        required=True,
        metavar="NAME",
        help="dc, npz, imagefolder or safetensors; dc holds several",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTPUT", help="the file or folder to write"
    )
    parser.add_argument(
        "--labels", default="stored", metavar="HOW", help="stored, or hard: the class of each image (stored)"
    )
    parser.add_argument(
        "--tiles", metavar="HOW", help="of images that are grids of several: decode them, or keep the grids"
    )


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(
        ExportRequest(
            tuple(arguments.sets), arguments.format, arguments.output, arguments.labels, arguments.tiles
        )
    )


def command(request: ExportRequest) -> int:
    """Write the sets and say what was written, what was lost and how it is read back; returns 0."""
    _check(request)
    from harness.core.distilled import Distilled

    found = [_prepared(Distilled.load(path), path, request) for path in request.sets]
    _refuse_unequal(found, request.sets)
    _write(found, request)
    for line in _described(found, request):
        print(line)
    return 0


def _check(request: ExportRequest) -> None:
    """UserError for what cannot be, before anything is read."""
    if request.format not in FORMATS:
        raise UnknownNameError("format", request.format, FORMATS)
    if request.labels not in LABELS:
        raise UnknownNameError("way to write labels", request.labels, LABELS)
    if request.tiles is not None and request.tiles not in TILES:
        raise UnknownNameError("way to write tiles", request.tiles, TILES)
    if request.output.exists():
        raise UserError(f"{request.output} exists and is not overwritten; give another -o or move it away")
    if len(request.sets) > 1 and request.format != "dc":
        raise UserError(
            f"{request.format} holds one set, {len(request.sets)} were given; export one at a time, or all "
            "of them with --format dc"
        )


def _prepared(found: Distilled, path: Path, request: ExportRequest) -> Distilled:
    """The set as it is to be written; UserError if the form would lose what was not asked to be lost."""
    if found.labels.ndim == 2 and request.labels == "hard":
        found = replace(found, labels=found.hard_labels()[: len(found.images)], classes=None)
    if found.labels.ndim == 2 and request.format == "imagefolder":
        raise UserError(
            f"{path} has soft labels, which a folder of images cannot hold; --labels hard writes classes, "
            "--format npz or dc the rows"
        )
    if found.factor == 1 or request.tiles == "keep":
        return found
    if request.tiles == "decode":
        return _decoded(found)
    if request.format == "safetensors":
        return found
    raise UserError(
        f"{path}: each image is a grid of {found.factor} x {found.factor}, which other evaluators would "
        "train on as it is; --tiles decode writes the single images, --tiles keep the grids for evaluators "
        "that decode them"
    )


def _decoded(found: Distilled) -> Distilled:
    """The set of the single images, class after class."""
    images, labels = found.decoded()
    classes = found.hard_labels()
    order = classes.argsort(stable=True)
    return replace(
        found,
        images=images[order],
        labels=labels[order],
        ipc=found.ipc * found.factor**2,
        factor=1,
        classes=None if found.classes is None else classes[order],
        steps=None if found.steps is None else found.steps.reordered(order),
    )


def _refuse_unequal(found: Sequence[Distilled], paths: Sequence[Path]) -> None:
    """UserError unless the sets are of one dataset, size and normalisation."""
    first = found[0]
    for one, path in zip(found, paths, strict=True):
        for name in ("dataset", "class_names", "ipc", "factor", "augmentation"):
            if getattr(one, name) != getattr(first, name):
                raise UserError(
                    f"{path} and {paths[0]} differ in {name}; one file holds sets that agree in it"
                )
        ours, theirs = first.transform.state(), one.transform.state()
        if ours.keys() != theirs.keys() or any(not ours[key].equal(theirs[key]) for key in ours):
            raise UserError(f"{path} and {paths[0]} differ in normalisation; export them apart")


def _write(found: Sequence[Distilled], request: ExportRequest) -> None:
    writers: dict[str, Callable[[Sequence[Distilled], Path], None]] = {
        "dc": _write_dc,
        "npz": _write_npz,
        "imagefolder": _write_folder,
        "safetensors": _write_own,
    }
    with replacing(request.output, durable=False) as aside:
        writers[request.format](found, aside)


def _write_dc(found: Sequence[Distilled], path: Path) -> None:
    import torch

    content = {
        "data": [[one.images.cpu(), one.labels.cpu()] for one in found],
        "accs_all_exps": {},
        **_beside(found[0]),
        "learned_lr": [one.learned_lr for one in found],
        "classes": [None if one.classes is None else one.classes.cpu() for one in found],
    }
    torch.save(content, path)


def _write_npz(found: Sequence[Distilled], path: Path) -> None:
    import numpy as np

    (one,) = found
    beside: dict[str, Any] = {
        name: np.asarray(list(value) if isinstance(value, tuple) else value)
        for name, value in _beside(one).items()
    }
    if one.learned_lr is not None:
        beside["learned_lr"] = np.float64(one.learned_lr)
    if one.classes is not None:
        beside["classes"] = one.classes.cpu().numpy()
    with path.open("wb") as file:  # a name would be given another suffix
        np.savez(
            file, images=one.images.movedim(1, 3).cpu().numpy(), labels=one.labels.cpu().numpy(), **beside
        )


def _write_own(found: Sequence[Distilled], path: Path) -> None:
    found[0].save(path)


def _write_folder(found: Sequence[Distilled], path: Path) -> None:
    """One PNG for each image; torchvision sorts folders by name, so that names are numbers of equal width."""
    from PIL import Image

    (one,) = found
    channels = one.images.shape[1]
    if channels not in PICTURE_MODES:
        raise UserError(f"PNG holds 1 or 3 channels, the set has {channels}; export it as npz or dc")
    width = len(str(len(one.class_names) - 1))
    for k, (pixels, label) in enumerate(zip(_bytes(one), one.labels.tolist(), strict=True)):
        folder = path / f"{label:0{width}d}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = pixels.movedim(0, 2).squeeze(2).numpy()
        Image.fromarray(rows, PICTURE_MODES[channels]).save(folder / f"{k:06d}.png", format="PNG")


def _bytes(one: Distilled) -> Tensor:
    return (one.pixels().cpu() * 255).round().byte()


def _beside(one: Distilled) -> dict[str, Any]:
    """What belongs to a set beside its tensors and rate, under the names that the importers know."""
    state = {f"transform.{name}": tensor.cpu() for name, tensor in one.transform.state().items()}
    return {
        "class_names": one.class_names,
        "augmentation": one.augmentation,
        "factor": one.factor,
        **state,
    }


def _described(found: Sequence[Distilled], request: ExportRequest) -> Iterator[str]:
    first = found[0]
    several = f"{len(found)} sets of " if len(found) > 1 else ""
    kind = "soft" if first.labels.ndim == 2 else "hard"
    shape = "x".join(map(str, first.images.shape[1:]))
    held = f"{several}{len(first.images)} images of {shape}, {kind} labels"
    yield f"{request.output}: {held} ({request.format})"
    if request.format == "imagefolder":
        yield f"8 bits a channel: {_loss(first)}"
    else:
        yield (
            "images are as networks see them, normalised; normalisation, class names, augmentation and "
            "learning rate stand beside them for `submit`, other readers pass over them"
        )
    if request.format != "safetensors":
        yield from (f"dropped: {loss}; --format safetensors keeps it" for loss in first.beyond_pairs())
    if first.whitened_by_method:
        yield (
            "the images are whitened as only their method does; `submit` brings them back to pixels, and "
            "networks are then trained on these, normalised as the dataset is"
        )
    yield f"read back: {shlex.join(_reading_back(first, request))}"


def _loss(one: Distilled) -> str:
    """What 8 bits lost of the pixels."""
    unit = one.transform.inverse(one.images).cpu()
    outside = float(((unit < 0) | (unit > 1)).float().mean())
    off = float((unit.clamp(0, 1) - _bytes(one).float() / 255).abs().max())
    return (
        f"pixels in [0, 1] are off by up to {off:.4f}; {100 * outside:.1f} % of the values lay outside "
        "and were clamped"
    )


def _reading_back(one: Distilled, request: ExportRequest) -> list[str]:
    """The words of the command that reads the file again; PATH and NAME are left to the user."""
    from harness.core.data.transforms import ZCA

    known = one.dataset in KNOWN
    dataset = one.dataset if known else f"{FOLDER_PREFIX}PATH/{one.dataset}"
    words = ["python", "-m", "harness", "submit", str(request.output), "--dataset", dataset]
    words += ["--method", "NAME"]
    side = None if known else _side(one, request.sets[0])
    words += ["--image-size", str(side)] if side is not None else []
    words += ["--zca"] if isinstance(one.transform, ZCA) else []
    if request.format == "imagefolder":
        words += ["--raw", "--augmentation", one.augmentation or "none"]
        words += ["--factor", str(one.factor)] if one.factor > 1 else []
        words += ["--lr", repr(one.learned_lr)] if one.learned_lr is not None else []
    return words


def _side(one: Distilled, path: Path) -> int | None:
    """The side to which the images of the set's folder were resized; None for images as they are stored.

    A set does not say it, the record that lies beside it in a results folder does. Without one, all that are
    square are taken for resized: of images that are stored so, the option changes no pixel.
    """
    try:
        record = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=DistillationRecord)
    except (OSError, msgspec.MsgspecError):
        height, width = one.images.shape[2:]
        return height if height == width else None
    return record.distillation.image_size
