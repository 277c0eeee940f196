"""Sets in several files beside each other, see `pairs`: of MTT (GeorgeCazenavette/mtt-distillation), its
successors TESLA, FTD and DATM, and DataDAM.

MTT itself does not save the learning rate that it learns, and saves its images as they are in training:
whitened where it ran with `--zca`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from harness.core.errors import UserError
from harness.submit.importers.common import Imported, SetFacts, as_tensor, is_array, kind_of
from harness.submit.importers.contents import load
from harness.submit.importers.layouts import from_content, in_order, rate_of, without_labels
from harness.submit.importers.pairs import Files, label_names

WITHOUT_RATE = (
    "no learning rate lies beside it (MTT does not save the one it learns): trained at the protocol's; "
    "--lr gives it"
)
UNWHITENED = (
    "images_zca_* are pixels after whitening was undone; the authors train on whitened ones, as --zca does"
)


def read(path: Path, files: list[Files], wanted: SetFacts) -> list[Imported]:
    """The sets in the files: one, unless a file holds more by itself."""
    if not files:
        raise UserError(
            f"{path}: expected images_best.pt with labels_best.pt beside it, X_images.pt with X_labels.pt, "
            "or a folder of either"
        )
    if len(files) == 1:
        return _read(files[0], wanted)
    parts = [_read(part, wanted)[0] for part in files]
    return [_joined(parts, files, path, wanted)]


def _read(files: Files, wanted: SetFacts) -> list[Imported]:
    content = load(files.images, wanted.limit)
    if not is_array(content):
        return from_content(content, files.images, "mtt", wanted)
    images = as_tensor(content, "images", files.images)
    rate = None if files.rate is None else rate_of(load(files.rate, wanted.limit), files.rate)
    notes = [WITHOUT_RATE] if rate is None and files.learns_rate else []
    notes += [UNWHITENED] if files.unwhitened else []
    if files.labels is None:
        expected = " or ".join(label_names(files.images))
        labels = in_order(len(images), files.images, wanted, f"expected {expected} there, or ")
        notes.append(without_labels(wanted.ipc))
    else:
        labels = _labels(files.labels, wanted)
        notes += _note_on_borrowed(files, labels)
    return [Imported("mtt", images, labels, learned_lr=rate, notes=tuple(notes))]


def _labels(path: Path, wanted: SetFacts) -> Tensor:
    content = load(path, wanted.limit)
    if isinstance(content, dict):
        raise UserError(f"{path}: expected labels, found {kind_of(content)}")
    return as_tensor(content, "labels", path)


def _note_on_borrowed(files: Files, labels: Tensor) -> list[str]:
    """A note if the labels are not the images' own; UserError if they may have been learned with others."""
    if not files.borrowed or files.labels is None:
        return []
    if labels.ndim > 1 and labels.shape[1] > 1:
        raise UserError(
            f"{files.images} has no labels of its own beside it, and the rows of {files.labels.name} were "
            f"learned with other images; expected {' or '.join(label_names(files.images))} there"
        )
    return [f"labels are those of {files.labels.name}: none of the images' own lie beside them"]


def _joined(parts: list[Imported], files: list[Files], path: Path, wanted: SetFacts) -> Imported:
    """One set of several parts, whose labels either count on through the classes or begin anew in each."""
    notes = [f"one set in {len(parts)} parts: {', '.join(str(f.images.relative_to(path)) for f in files)}"]
    labels = [part.labels for part in parts]
    size = _classes_of_a_part(labels)
    if size is not None and size * len(parts) == wanted.classes:
        labels = [own + k * size for k, own in enumerate(labels)]
        notes.append(f"labels of each part count from 0: part k was taken for the classes from {size} k on")
    rates = [part.learned_lr for part in parts]
    notes += list(dict.fromkeys(note for part in parts for note in part.notes if note != WITHOUT_RATE))
    if len(set(rates)) > 1:
        notes.append(
            f"the parts' learning rates differ ({', '.join(map(str, rates))}): their mean is not used"
        )
    elif rates[0] is None:
        notes.append(WITHOUT_RATE)
    try:
        images, joined = torch.cat([part.images for part in parts]), torch.cat(labels)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: its parts do not fit together ({' '.join(str(error).split())[:120]})"
        ) from None
    rate = rates[0] if len(set(rates)) == 1 else None
    return replace(parts[0], images=images, labels=joined, learned_lr=rate, notes=tuple(notes))


def _classes_of_a_part(labels: list[Tensor]) -> int | None:
    """How many classes each part has if all of them number the same ones from 0; None for rows and others."""
    if any(own.ndim != 1 for own in labels):
        return None
    sizes = {tuple(own.unique().tolist()) for own in labels}
    if len(sizes) != 1:
        return None
    (classes,) = sizes
    return len(classes) if list(classes) == list(range(len(classes))) else None
