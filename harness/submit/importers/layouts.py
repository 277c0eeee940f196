"""What stands where in a file: the layouts in which the field's repositories keep images, labels and rates.

    {"data": [[images, labels], ...], "accs_all_exps": {arch: [accuracy, ...]}}   DC, DSA, DM and many more
    [images, labels], [images, labels, rate]                                     IDM, BACON and others
    {"images": ..., "labels": ...}, x and y, data and label, images and targets   KIP, FRePo, CIM and others
    [(data, label, rate), ...]                                                   DD: steps of gradient descent
    images alone, class after class                                              with --ipc

A file of DC holds one pair for each repetition of the distillation, and the accuracies, in [0, 1], of all
networks of all repetitions in a row. DM, IDM and BACON take one more step between the evaluation and the
file, so that these accuracies are those of the set one step before.

What this harness exports has its normalisation, class names, augmentation, rate and, where soft labels do not
tell them, classes beside the set, under the names that they have in its own files; other readers pass over
them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.core.errors import UserError
from harness.submit.importers.common import Imported, SetFacts, as_tensor, is_array, kind_of

if TYPE_CHECKING:
    from harness.core.data import Transform

IMAGE_NAMES = (
    *("images", "image", "imgs", "img", "data", "x", "x_syn", "syn_images", "images_syn"),
    *("syn_image", "image_syn", "syn_data", "data_syn", "arr_0"),
)
LABEL_NAMES = (
    *("labels", "label", "targets", "target", "y", "y_syn", "syn_labels", "labels_syn"),
    *("syn_label", "label_syn", "arr_1"),
)
RATE_NAMES = ("learned_lr", "lr", "syn_lr", "lr_syn")
PAIRS, ACCURACIES = "data", "accs_all_exps"
TRANSFORM = "transform."
LEAST_IMAGE_DIMENSIONS = 3
EXPECTED = (
    "expected images and labels: a pair, a list of pairs, a dict or archive with images and labels, or "
    "images class after class with --ipc"
)


def from_content(content: Any, path: Path, importer: str, wanted: SetFacts) -> list[Imported]:
    """The sets in what a file holds, one for each repetition; UserError that says what was found instead."""
    if is_array(content):
        return [_alone(content, path, importer, wanted)]
    if isinstance(content, Mapping):
        return _from_names(content, path, importer, wanted)
    if isinstance(content, (list, tuple)) and content:
        return _from_list(content, path, importer, {})
    raise UserError(f"{path}: {EXPECTED}; found {kind_of(content)}")


def in_order(count: int, path: Path, wanted: SetFacts, helps: str) -> Tensor:
    """Labels of images without any that are class after class, as the stated ipc says."""
    if wanted.ipc is None:
        raise UserError(
            f"{path}: {count} images without labels; {helps}--ipc N if they are class after class, in the "
            "order of the dataset's classes"
        )
    if count != wanted.ipc * wanted.classes:
        raise UserError(
            f"{path}: {count} images without labels, which --ipc {wanted.ipc} x {wanted.classes} classes = "
            f"{wanted.ipc * wanted.classes} does not fit; give the --ipc that does"
        )
    return torch.arange(wanted.classes).repeat_interleave(wanted.ipc)


def without_labels(ipc: int | None) -> str:
    """The note on such labels."""
    return f"the file has no labels: taken class after class, {ipc} images each, as --ipc says"


def _alone(content: Any, path: Path, importer: str, wanted: SetFacts) -> Imported:
    images = as_tensor(content, "images", path)
    if images.ndim < LEAST_IMAGE_DIMENSIONS:
        raise UserError(f"{path}: {EXPECTED}; found {kind_of(content)}")
    labels = in_order(len(images), path, wanted, "expected labels in the file or beside it, or ")
    return Imported(importer, images, labels, notes=(without_labels(wanted.ipc),))


def _from_names(content: Mapping[Any, Any], path: Path, importer: str, wanted: SetFacts) -> list[Imported]:
    """The sets of a dict or an archive; of a dict of dicts, those of the only one that holds any."""
    names = {str(name).lower(): name for name in content}
    if PAIRS in names and isinstance(content[names[PAIRS]], (list, tuple)) and not _has(LABEL_NAMES, names):
        return _from_list(content[names[PAIRS]], path, importer, content)
    image, label = _the_one(IMAGE_NAMES, names, path), _the_one(LABEL_NAMES, names, path)
    if image is not None and label is not None:
        return [_named(content, image, label, path, importer)]
    inner = [value for value in content.values() if isinstance(value, Mapping) and _is_set(value)]
    if len(inner) == 1:
        return _from_names(inner[0], path, importer, wanted)
    if image is not None and is_array(content[image]):
        return [_alone(content[image], path, importer, wanted)]
    raise UserError(f"{path}: {EXPECTED}; found {kind_of(dict(content))}")


def _is_set(content: Mapping[Any, Any]) -> bool:
    names = {str(name).lower() for name in content}
    return _has(IMAGE_NAMES, names) and _has(LABEL_NAMES, names)


def _has(aliases: Sequence[str], names: Any) -> bool:
    return any(alias in names for alias in aliases)


def _the_one(aliases: Sequence[str], names: Mapping[str, Any], path: Path) -> Any:
    """The key that one of the aliases is, None if none; UserError for two."""
    found = [names[alias] for alias in aliases if alias in names]
    if len(found) > 1:
        raise UserError(
            f"{path} has {' and '.join(map(str, found))}, any of which may be the {aliases[0]}; "
            "save it with one of them"
        )
    return found[0] if found else None


def _named(content: Mapping[Any, Any], image: Any, label: Any, path: Path, importer: str) -> Imported:
    names = {str(name).lower(): name for name in content}
    rate = next((content[names[name]] for name in RATE_NAMES if name in names), None)
    images = as_tensor(content[image], "images", path)
    return Imported(
        importer,
        images,
        as_tensor(content[label], "labels", path),
        classes=_classes(content, content.get("classes"), len(images), path),
        learned_lr=rate_of(rate, path),
        claims=_claims(content.get(ACCURACIES), 0, 1),
        **_stated(content, path),
    )


def _from_list(
    content: Sequence[Any], path: Path, importer: str, around: Mapping[Any, Any]
) -> list[Imported]:
    """The sets of a list; `around` is the dict that it stood in."""
    if _is_set_in_a_row(content):
        content = [content]
    elif all(_is_step(item) for item in content):
        return [_steps(content, path)]
    if not all(isinstance(item, (list, tuple)) and _is_set_in_a_row(item) for item in content):
        raise UserError(f"{path}: {EXPECTED}; found {kind_of(content)}")
    rates, classes = (_of_each(around.get(name), len(content)) for name in ("learned_lr", "classes"))
    return [
        Imported(
            importer,
            as_tensor(item[0], "images", path),
            as_tensor(item[1], "labels", path),
            k,
            classes=_classes(around, classes[k], len(item[0]), path),
            claims=_claims(around.get(ACCURACIES), k, len(content)),
            learned_lr=rate_of(item[2] if len(item) > 2 else rates[k], path),
            **_stated(around, path),
        )
        for k, item in enumerate(content)
    ]


def _of_each(value: Any, count: int) -> Sequence[Any]:
    """What is said of each set: one item of a list of so many, else the same."""
    return value if isinstance(value, (list, tuple)) and len(value) == count else [value] * count


def _is_set_in_a_row(content: Sequence[Any]) -> bool:
    """Whether this is images, labels and perhaps a rate, not a list of such."""
    return (
        len(content) in (2, 3)
        and _dimensions(content[0]) >= LEAST_IMAGE_DIMENSIONS
        and _dimensions(content[1]) in (1, 2)
        and (len(content) == 2 or _size(content[2]) == 1)
    )


def _is_step(item: Any) -> bool:
    """Whether this is data, labels and the rate of one step of DD."""
    return (
        isinstance(item, (list, tuple))
        and len(item) == 3
        and _dimensions(item[0]) >= LEAST_IMAGE_DIMENSIONS
        and _dimensions(item[1]) in (1, 2)
        and _size(item[2]) == 1
    )


def _dimensions(value: Any) -> int:
    """Number of dimensions of an array or of a list of numbers or arrays; 0 for anything else."""
    if is_array(value):
        return int(value.ndim)
    if isinstance(value, (list, tuple)) and value:
        return 1 + _dimensions(value[0])
    return 0


def _size(value: Any) -> int:
    if is_array(value):
        return int(value.numel() if isinstance(value, Tensor) else value.size)
    return int(isinstance(value, (int, float)) or hasattr(value, "dtype"))


def _steps(steps: Sequence[Any], path: Path) -> Imported:
    """The set that the steps of DD train on: each image once, although every epoch goes over all of them."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for data, label, _ in steps:
        seen = as_tensor(data, "images", path), as_tensor(label, "labels", path)
        if not any(torch.equal(seen[0], old) for old in images):
            images.append(seen[0])
            labels.append(seen[1])
    rates = [rate_of(step[2], path) for step in steps]
    known = [rate for rate in rates if rate is not None]
    note = (
        f"{len(steps)} steps of gradient descent for one network, with rates from {min(known):.3g} to "
        f"{max(known):.3g}: their images are taken as one set and trained on at the protocol's rate; "
        "--lr gives another"
    )
    return Imported("dd", torch.cat(images), torch.cat(labels), notes=(note,))


def rate_of(value: Any, path: Path) -> float | None:
    """A learning rate from a number or from what holds one; None if there is none."""
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return None
    if isinstance(value, (int, float)):
        rate = float(value)
    else:
        rate = float(as_tensor(value, "rate", path).double().mean())
    return rate if rate == rate else None


def _claims(accuracies: Any, experiment: int, experiments: int) -> dict[str, float]:
    """Mean accuracy in [0, 1] of one repetition by the network that the file names for it."""
    claims = {}
    for name, values in accuracies.items() if isinstance(accuracies, Mapping) else ():
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            continue
        share = len(numbers) // experiments
        own = numbers[experiment * share : (experiment + 1) * share]
        if own and len(numbers) % experiments == 0 and 0 <= statistics.fmean(own) <= 1:
            claims[str(name)] = statistics.fmean(own)
    return claims


def _stated(content: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """What an export of this harness says beside images and labels, as fields of Imported."""
    found: dict[str, Any] = {"transform": _transform(content, path)}
    if (names := content.get("class_names")) is not None:
        found["class_names"] = tuple(map(str, names))
    if (augmentation := content.get("augmentation")) is not None:
        found["augmentation"] = str(augmentation)
    if (factor := content.get("factor")) is not None:
        found["factor"] = int(factor)
    return found


def _classes(content: Mapping[Any, Any], classes: Any, count: int, path: Path) -> Tensor | None:
    """The class of each of so many images, as an export of this harness says it.

    In a file of others, which has no transform, the name may stand for anything.
    """
    if classes is None or f"{TRANSFORM}mean" not in content:
        return None
    found = as_tensor(classes, "classes", path)
    if found.shape != (count,) or found.is_floating_point():
        raise UserError(
            f"{path}: classes of shape {tuple(found.shape)} and type {found.dtype}; expected a whole number "
            f"for each of the {count} images"
        )
    return found.long()


def _transform(content: Mapping[Any, Any], path: Path) -> Transform | None:
    from harness.core.data import transform_from_state

    state = {
        name[len(TRANSFORM) :]: as_tensor(value, name, path)
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(TRANSFORM)
    }
    try:
        return transform_from_state(state) if state else None
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its normalisation is not complete ({error})") from None
