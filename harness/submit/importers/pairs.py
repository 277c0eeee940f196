"""Sets in several files beside each other: images, labels and rates of MTT's line and of DataDAM, and parts.

    images_best.pt       labels_best.pt      lr_best.pt        MTT, TESLA, DATM
    ema_images_best.pt   ema_labels_best.pt  ema_lr_best.pt    FTD
    images_500.pt        labels_500.pt       lr_500.pt         MTT, after so many iterations
    images_zca_500.pt    labels_500.pt                         MTT with --zca: whitening undone
    X_images.pt          X_labels.pt                           DataDAM
    images_0.pt ... images_4.pt, or folders 0 ... 4            one set in parts

Only names are looked at here, so that nothing imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError

SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".npy")
USUAL = ("images_best", "ema_images_best", "images")
WORD = re.compile(r"(?<![a-z])(images|image|imgs|img)(?![a-z])", re.IGNORECASE)
LABEL_WORD = re.compile(r"(?<![a-z])labels?(?![a-z])", re.IGNORECASE)
LABELS_FOR = {"images": "labels", "image": "label", "imgs": "labels", "img": "label"}
NUMBER = re.compile(r"(\d+)$")
UNWHITENED = "_zca"


@dataclass(frozen=True)
class Files:
    """The files of one set, or of one part of it.

    borrowed: the labels are those of another iteration or average, which fit only if they are class numbers.
    unwhitened: the images are pixels again, after a distillation in whitened ones.
    """

    images: Path
    labels: Path | None
    rate: Path | None
    borrowed: bool = False
    unwhitened: bool = False

    @property
    def learns_rate(self) -> bool:
        """Whether the name is one of MTT's line, which learns a rate with the images."""
        return self.images.stem.startswith(("images", "ema_images"))

    @property
    def all(self) -> list[Path]:
        """Those that there are, in a fixed order."""
        return [file for file in (self.images, self.labels, self.rate) if file is not None]


def files_of(path: Path) -> list[Files]:
    """What a path means: the files of the one set, or those of each part of it; empty if it is none such.

    Raises UserError if a folder holds several sets, or if the file is one of labels.
    """
    if path.is_dir():
        return _in_folder(path)
    _refuse_labels(path)
    found = _beside(path)
    return [found] if found.labels is not None else []


def label_names(images: Path) -> list[str]:
    """File names that the labels of these images have, the best first."""
    return _label_names(images)[0]


def _label_names(images: Path) -> tuple[list[str], list[str]]:
    """Names of the labels that belong to the images, and of those of another iteration or average."""
    match = _last(images.stem)
    if match is None:
        return [], []
    word = LABELS_FOR[match[1].lower()]
    named = images.stem[: match.start()] + word + images.stem[match.end() :]
    plain = named.replace(UNWHITENED, "")
    own = list(dict.fromkeys((named, plain)))
    others = [plain.removeprefix("ema_"), NUMBER.sub("best", plain), f"{word}_best", word]
    others = [stem for stem in dict.fromkeys(others) if stem not in own]
    return [f"{stem}{images.suffix}" for stem in own], [f"{stem}{images.suffix}" for stem in others]


def _last(stem: str) -> re.Match[str] | None:
    """Where the name says that the file holds images."""
    return next(reversed(list(WORD.finditer(stem))), None)


def _beside(images: Path) -> Files:
    own, others = _label_names(images)
    labels = next((name for name in (*own, *others) if images.with_name(name).is_file()), None)
    unwhitened = UNWHITENED in images.stem and bool(own)
    rate = _rate(images)
    return Files(
        images,
        images.with_name(labels) if labels is not None else None,
        rate if rate.is_file() else None,
        borrowed=labels in others,
        unwhitened=unwhitened,
    )


def _rate(images: Path) -> Path:
    """Where the learning rate of these images would lie."""
    match = _last(images.stem)
    if match is None:
        return images.with_name("lr_best.pt")
    stem = f"{images.stem[: match.start()]}lr{images.stem[match.end() :]}"
    return images.with_name(f"{stem.replace(UNWHITENED, '')}{images.suffix}")


def _refuse_labels(path: Path) -> None:
    """UserError for a file of labels beside its images."""
    found = list(LABEL_WORD.finditer(path.stem))
    if not found or _last(path.stem) is not None:
        return
    last = found[-1]
    word = "images" if last[0].lower() == "labels" else "image"
    stem = path.stem[: last.start()] + word + path.stem[last.end() :]
    images = path.with_name(f"{stem}{path.suffix}")
    if images.is_file():
        raise UserError(
            f"{path} holds the labels of {images.name}; submit {images}, they are found beside it"
        )


def _in_folder(path: Path) -> list[Files]:
    images = sorted(file for file in path.iterdir() if _is_images(file))
    for stem in USUAL:
        usual = [file for file in images if file.stem == stem]
        if usual:
            return [_beside(usual[0])]
    if not images:
        return _in_parts(path)
    if len(images) == 1:
        return [_beside(images[0])]
    numbered = _numbered({file.stem: file for file in images})
    if numbered:
        return [_beside(file) for file in numbered]
    names = ", ".join(file.name for file in images[:6]) + (", ..." if len(images) > 6 else "")
    raise UserError(f"{path} holds several sets: {names}; submit one of these files")


def _in_parts(path: Path) -> list[Files]:
    folders = _numbered({folder.name: folder for folder in path.iterdir() if folder.is_dir()})
    parts = [_in_folder(folder) for folder in folders]
    if not all(len(part) == 1 for part in parts):
        return []
    return [part[0] for part in parts]


def _numbered(named: dict[str, Path]) -> list[Path]:
    """The paths in the order of their numbers if they are called alike and count 0, 1, 2, ...; else none."""
    found = {name: NUMBER.search(name) for name in named}
    numbers = {int(match[1]): name for name, match in found.items() if match is not None}
    alike = {name[: match.start()] for name, match in found.items() if match is not None}
    if len(alike) != 1 or len(named) < 2 or sorted(numbers) != list(range(len(named))):
        return []
    return [named[numbers[k]] for k in range(len(named))]


def _is_images(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in SUFFIXES and _last(file.stem) is not None
