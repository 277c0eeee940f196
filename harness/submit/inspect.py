"""What is odd about a distilled set that somebody else made, said before it is trained on and after.

Everything here knows the train split only. The classes are judged by a ridge regression on the features of a
random, untrained ConvNet, fitted to real train images: a set whose labels are numbered otherwise than the
dataset's is told from the true order by it, without any look at the test split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from harness.core.errors import UserError
from harness.core.seeds import seed_for
from harness.engine.records import RecordedFinding

if TYPE_CHECKING:
    from harness.core.data import Dataset, Transform

Level = Literal["error", "warning"]
Space = Literal["normalised", "unit", "bytes", "signed"]

SPACES: tuple[Space, ...] = ("normalised", "unit", "bytes", "signed")
SPACE_WORDS: Mapping[Space, str] = {
    "normalised": "normalised",
    "unit": "pixels in [0, 1]",
    "bytes": "pixels in [0, 255]",
    "signed": "pixels in [-1, 1], normalised by mean 0.5 and standard deviation 0.5",
}
STATE_IT = "--raw, --normalised or --mean and --std state it"

CLEAR_MARGIN = 0.5  # by which another reading of the pixels must fit better to contradict what is stated
PLAUSIBLE = 1.5  # worst fit of real or distilled images in the right reading that raises no eyebrow
EDGE = 0.02  # beyond -1 and 1 that rounding or an optimiser leaves
REACH = 0.1  # short of -1 and 1 that pixels may end
FAR_OUTSIDE = 1.0  # units of [0, 1] beyond black or white
FAR_SHARE = 0.01
TEACHERS = 5000  # real train images that the classes are learned from, over all classes
MOST_JUDGED = 2000
RIDGE = 1e-2
LEAST_SPREAD = 0.1
FEATURE_ARCH = "ConvNetW64"
FEW_PIXELS = 1024
PIECE = 256
COLOURS = 3
COLOUR_GRID = 4  # cells a side in which colours are compared
COLOUR_TEACHERS = 2000  # real train images that the order of channels is learned from
LEAST_RELIABLE = 0.6
SURE, SUSPICIOUS = 1e-3, 0.05  # probabilities below which hits are too few for labels that are right
CONFIDENCE = 0.95
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Finding:
    """One oddity: what was seen and what was expected.

    An error stops before the evaluation unless forced; one that is `fatal` cannot be forced.
    """

    level: Level
    check: str
    seen: str
    expected: str
    fatal: bool = False

    def __str__(self) -> str:
        """`error: counts: saw 95 images; expected 100, 10 classes x ipc 10`."""
        return str(self.recorded)

    @property
    def recorded(self) -> RecordedFinding:
        """As it stands in a record, where nothing is fatal any more."""
        return RecordedFinding(self.level, self.check, self.seen, self.expected)


def structure(
    images: Tensor, labels: Tensor, data: Dataset, ipc: int | None, classes: Tensor | None = None
) -> list[Finding]:
    """Findings on shapes, numbers and labels of a set; `ipc` is the one stated, None if none is.

    `classes` (n,) says what the images are where soft labels do not.
    """
    shape = tuple(images.shape[1:])
    if images.ndim != 4 or shape != data.shape:
        expected = f"(n, {', '.join(map(str, data.shape))}) as {data.name} has, or channels last"
        return [Finding("error", "shape", f"images of shape {tuple(images.shape)}", expected, fatal=True)]
    if len(images) != len(labels) or len(images) == 0:
        seen = f"{len(images)} images and {len(labels)} labels"
        return [Finding("error", "counts", seen, "one label for each image, one image at least", fatal=True)]
    bad = int((~torch.isfinite(images)).sum()) + int((~torch.isfinite(labels)).sum())
    if bad:
        return [Finding("error", "numbers", f"{bad} values that are NaN or infinite", "none", fatal=True)]
    found = _labels(labels, data.num_classes)
    found += [] if classes is None else _labels(classes, data.num_classes)
    if any(finding.fatal for finding in found):
        return found
    return [*found, *_counts(labels if classes is None else classes, data, ipc)]


def hard(labels: Tensor) -> Tensor:
    """The class (n,) of each label, the highest of a row of numbers."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels


def _labels(labels: Tensor, classes: int) -> list[Finding]:
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            seen, expected = f"rows of {labels.shape[1]} numbers", f"rows of {classes}, one for each class"
            return [Finding("error", "labels", seen, expected, fatal=True)]
        sums = labels.double().sum(dim=1)
        off = int(((sums - 1).abs() > SUM_TOLERANCE).sum())
        negative = int((labels < 0).any(dim=1).sum())
        if off or negative:
            seen = (
                f"{off} of {len(labels)} soft labels that sum to {sums.min():.3g} ... {sums.max():.3g}, "
                f"{negative} with negative numbers"
            )
            expected = "rows of probabilities; --labels logits takes the softmax, --labels hard the highest"
            return [Finding("error", "soft labels", seen, expected)]
        return []
    if labels.is_floating_point():
        fractional = labels[labels != labels.round()]
        if len(fractional):
            shown = ", ".join(f"{number:.4g}" for number in fractional[:4].tolist())
            more = ", ..." if len(fractional) > 4 else ""
            seen = f"{len(fractional)} of {len(labels)} labels that are fractions: {shown}{more}"
            return [Finding("error", "labels", seen, f"whole numbers, 0 to {classes - 1}", fatal=True)]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        seen, expected = f"class numbers {low} to {high}", f"0 to {classes - 1}"
        return [Finding("error", "labels", seen, expected, fatal=True)]
    return []


def _counts(labels: Tensor, data: Dataset, ipc: int | None) -> list[Finding]:
    classes, total = data.num_classes, len(labels)
    found = []
    if ipc is not None and total != classes * ipc:
        expected = f"{classes * ipc}, {classes} classes x ipc {ipc}"
        found.append(Finding("error", "counts", f"{total} images", expected))
    elif total % classes:
        expected = f"a multiple of the {classes} classes of {data.name}"
        found.append(Finding("error", "counts", f"{total} images", expected))
    counts = _class_counts(labels, classes)
    each = images_per_class(labels, classes) if ipc is None else ipc
    lacking = [data.class_names[c] for c in range(classes) if counts[c] == 0]
    if lacking:
        expected = f"{each} of each of the {classes} classes"
        found.append(Finding("error", "missing classes", f"no image of {_some(lacking)}", expected))
    off = [f"{data.class_names[c]}: {counts[c]}" for c in range(classes) if counts[c] not in (0, each)]
    if off:
        found.append(Finding("error", "images per class", _some(off), f"{each} of each class"))
    return found


def images_per_class(labels: Tensor, classes: int) -> int:
    """The number of images that most of the classes that have any have; the largest such number in a tie."""
    present = [count for count in _class_counts(hard(labels), classes) if count]
    return max(present, key=lambda count: (present.count(count), count))


def _class_counts(labels: Tensor, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(hard(labels).long(), minlength=classes).tolist()
    return counts


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def class_names(theirs: tuple[str, ...] | None, ours: tuple[str, ...]) -> list[Finding]:
    """An error if the file names other classes than the dataset, or the same ones in another order."""
    if theirs is None or theirs == ours:
        return []
    check = "class order" if sorted(theirs) == sorted(ours) else "class names"
    return [Finding("error", check, f"classes {_order(theirs)}", _order(ours), fatal=True)]


def whitening(theirs: Transform | None, ours: Transform) -> list[Finding]:
    """A warning if a set that states its transform was made for images of another kind than networks see.

    Whitening of a method's own is not taken over: a matrix of this size, chosen by whoever hands in the set,
    could do the work of a network on the test images.
    """
    from harness.core.data import ZCA, RegularisedZCA

    if theirs is None or type(theirs) is type(ours):
        return []
    if isinstance(theirs, RegularisedZCA):
        shown = "ZCA-whitened" if isinstance(ours, ZCA) else "plain"
        seen = f"whitened as only its method does; networks see {shown} images"
    elif isinstance(theirs, ZCA):
        seen = "made for ZCA-whitened images, and networks see plain ones; --zca trains on these"
    else:
        seen = "made for plain images, and networks see ZCA-whitened ones, as --zca says"
    return [Finding("warning", "whitening", seen, "")]


@dataclass(frozen=True)
class PixelReading:
    """How the pixels of a set are read, and how far they then are from the train images.

    fits: for each possible reading, a distance of its mean and standard deviation from those of the train
    images, in their standard deviations and natural logarithms; 0 is the train split itself.
    """

    space: Space
    fits: Mapping[Space, float]


def as_unit(images: Tensor, space: Space, transform: Transform) -> Tensor:
    """float32 pixels in which 0 is black and 1 white, not clamped; `transform` is that of normalised ones."""
    if space == "normalised":
        return transform.inverse(images.float())
    if space == "signed":
        return (images.float() + 1) / 2
    return images.float() / 255 if space == "bytes" else images.float()


def read_pixels(
    images: Tensor, data: Dataset, transform: Transform, stated: Space | None
) -> tuple[PixelReading, list[Finding]]:
    """In which numbers the pixels are: as stated, else the reading that fits the train split best."""
    possible = [
        space for space in SPACES if space in (stated, "normalised", "unit", "bytes") or _signed(images)
    ]
    fits = {space: _misfit(as_unit(images, space, transform), data) for space in possible}
    best = min(possible, key=fits.__getitem__)
    space = stated or best
    findings = _on_pixels(images, data, fits, space, stated)
    return PixelReading(space, fits), findings + _far_outside(as_unit(images, space, transform))


def _signed(images: Tensor) -> bool:
    """Whether values reach from about -1 to about 1 and no further, which normalised ones hardly do."""
    low, high = float(images.min()), float(images.max())
    return -1 - EDGE <= low <= -1 + REACH and 1 - REACH <= high <= 1 + EDGE


def _on_pixels(
    images: Tensor, data: Dataset, fits: Mapping[Space, float], space: Space, stated: Space | None
) -> list[Finding]:
    """What is odd about reading the pixels so."""
    best = min(fits, key=fits.__getitem__)
    values = f"values of {_summary(images)}"
    if fits[space] - fits[best] > CLEAR_MARGIN:
        seen = f"{values}, as of {SPACE_WORDS[best]}"
        return [Finding("error", "pixels", seen, f"{SPACE_WORDS[space]}, as stated, {_real(data)}")]
    found = []
    if fits[space] > PLAUSIBLE:
        seen = f"{values}, unlike {data.name} in any reading"
        if stated is not None:
            found.append(Finding("warning", "pixels", seen, f"{SPACE_WORDS[space]}, {_real(data)}"))
        else:
            seen += f"; {SPACE_WORDS[space]} is the least unlike"
            found.append(Finding("error", "pixels", seen, f"a reading that fits, {_real(data)}; {STATE_IT}"))
    rival = min((other for other in fits if other != space), key=fits.__getitem__)
    if stated is None and fits[rival] - fits[space] < CLEAR_MARGIN / 2:
        seen = f"{values}, which may be {SPACE_WORDS[space]} or {SPACE_WORDS[rival]}"
        found.append(Finding("warning", "pixels", seen, f"it stated; {STATE_IT}"))
    return found


def _misfit(unit: Tensor, data: Dataset) -> float:
    """Distance of mean and contrast of the channels from those of the train images, see Reading."""
    mean, std = _moments(data)
    own_mean, own_std = unit.mean(dim=(0, 2, 3)), unit.std(dim=(0, 2, 3)).clamp_min(1e-6)
    return float(((own_mean - mean).abs() / std).mean() + (own_std / std).log().abs().mean())


def _moments(data: Dataset) -> tuple[Tensor, Tensor]:
    """True mean and standard deviation of the channels of the train images, as pixels in [0, 1]."""
    from harness.core.data import Normalization

    fitted = Normalization.fit(data.images)
    return fitted.mean.cpu(), fitted.std.cpu()


def _summary(images: Tensor) -> str:
    numbers = images.float()
    return (
        f"mean {numbers.mean():.3g}, standard deviation {numbers.std():.3g}, "
        f"from {numbers.min():.3g} to {numbers.max():.3g}"
    )


def _real(data: Dataset) -> str:
    mean, std = _moments(data)
    return f"where {data.name} has mean {mean.mean():.3g} and standard deviation {std.mean():.3g} in [0, 1]"


def _far_outside(unit: Tensor) -> list[Finding]:
    share = float(((unit < -FAR_OUTSIDE) | (unit > 1 + FAR_OUTSIDE)).float().mean())
    if share <= FAR_SHARE:
        return []
    seen = f"{100 * share:.1f} % of the values further than the whole range beyond black or white"
    return [Finding("warning", "pixel range", seen, "nearly all within or near it")]


@dataclass(frozen=True)
class ClassifierScores:
    """What the classifier sees in a set: scores (n, classes) and the true labels (n,) of its images.

    reliability: share of real train images, kept out of its fit, that the classifier puts into their class.
    """

    scores: Tensor
    labels: Tensor
    reliability: float


def likeness(images: Tensor, labels: Tensor, data: Dataset, factor: int = 1) -> ClassifierScores:
    """How images (n, C, H, W), in the space of the dataset's transform, look to a classifier of real ones.

    Images that were decoded from tiles are compared with real ones as coarse as tiles of that `factor` are.
    """
    generator = torch.Generator().manual_seed(seed_for(0, "lint"))
    classes = data.num_classes
    per_class = max(20, TEACHERS // classes)
    chosen = data.index.draw(per_class, generator).indices.to(data.device)
    chosen = chosen[torch.randperm(len(chosen), generator=generator).to(data.device)]
    kept_out = max(1, len(chosen) // 5)
    features = _feature_maker(data, generator)
    real, real_labels = features(_as_from_tiles(data.batch(chosen), factor)), data.labels[chosen]
    ridge = _fit(real[kept_out:], real_labels[kept_out:], classes)
    right = (ridge.scores(real[:kept_out]).argmax(dim=1) == real_labels[:kept_out]).float().mean()
    judged = torch.randperm(len(images), generator=generator)[:MOST_JUDGED]
    seen = ridge.scores(features(images[judged].to(data.device)))
    return ClassifierScores(seen.float().cpu(), hard(labels)[judged].cpu(), float(right))


def classes(like: ClassifierScores, names: tuple[str, ...]) -> list[Finding]:
    """Findings on whether the labels are those of the dataset's classes, or another numbering of them."""
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    count = len(names)
    guessed = like.scores.argmax(dim=1)
    votes = torch.zeros(count, count).index_put_((like.labels, guessed), torch.ones(()), accumulate=True)
    # Scores break ties where there are few images.
    means = torch.zeros(count, count).index_add_(0, like.labels, like.scores)
    _, assigned = linear_sum_assignment(-(votes + 0.1 * means.clamp(-1, 1)).numpy())
    moved = [c for c in range(count) if assigned[c] != c]
    total = int(votes[moved].sum()) if moved else 0
    hits = sum(int(votes[c, c]) for c in moved)
    hits_moved = sum(int(votes[c, assigned[c]]) for c in moved)
    doubt = float(binom.cdf(hits, total, like.reliability)) if total else 1.0
    chance = float(binom.sf(hits_moved - 1, total, 1 / count)) if total else 1.0
    # Images that look like nothing much, decoded by a wrong factor for one, fit some order by accident.
    clear = hits_moved > 2 * hits and hits_moved >= total * like.reliability / 2
    if doubt < SUSPICIOUS and chance < SURE and clear:
        pairs = ", ".join(f"{names[c]} like {names[assigned[c]]}" for c in moved[:4])
        more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
        seen = f"images labelled {pairs}{more} ({hits_moved} of {total}; {hits} like their own label)"
        expected = f"the order of classes {_order(names)}"
        return [Finding("error" if doubt < SURE else "warning", "class order", seen, expected)]
    right = int((guessed == like.labels).sum())
    unlikely = float(binom.cdf(right, len(guessed), like.reliability)) < SURE
    if unlikely and right < like.reliability * len(guessed) / 2:
        seen = f"{right} of {len(guessed)} images that look like their class"
        expected = (
            f"about {100 * like.reliability:.0f} % as of real train images; sets made with ZCA whitening "
            "need --zca, grids of tiles need --factor"
        )
        return [Finding("warning", "classes", seen, expected)]
    return []


def channel_order(images: Tensor, data: Dataset, factor: int = 1) -> list[Finding]:
    """A finding if images (n, 3, H, W), in the space of the dataset's transform, have red and blue exchanged.

    Judged by a linear rule that tells real train images from the same ones with exchanged channels.
    """
    from scipy.stats import binom

    if data.shape[0] != COLOURS:
        return []
    rule = _colour_rule(data, factor)
    right = rule.looks_right(data.transform.inverse(images.to(data.device)))
    total, exchanged = len(right), int((~right).sum())
    doubt = float(binom.sf(exchanged - 1, total, 0.5))
    if rule.reliability < LEAST_RELIABLE or doubt >= SUSPICIOUS:
        return []
    seen = f"{exchanged} of {total} images whose red and blue look exchanged (BGR, as OpenCV keeps them)"
    share = f"{100 * rule.reliability:.0f} % of real train images look right"
    level: Level = "error" if doubt < SURE else "warning"
    return [Finding(level, "channel order", seen, f"channels in the order RGB, in which {share}")]


@dataclass(frozen=True)
class _ColourRule:
    """Weights of features that change their sign where red and blue are exchanged.

    reliability: share of real train images, kept out of the fit, that look right to it.
    """

    scale: Tensor
    weights: Tensor
    reliability: float = 0.0

    def looks_right(self, unit: Tensor) -> Tensor:
        """For each image (n, 3, H, W) of pixels in [0, 1] whether it looks righter than exchanged."""
        return (_red_against_blue(unit) / self.scale).double() @ self.weights > 0


def _colour_rule(data: Dataset, factor: int) -> _ColourRule:
    generator = torch.Generator().manual_seed(seed_for(0, "channel order"))
    chosen = data.index.draw(max(2, COLOUR_TEACHERS // data.num_classes), generator).indices
    chosen = chosen[torch.randperm(len(chosen), generator=generator)].to(data.device)
    real = data.transform.inverse(_as_from_tiles(data.batch(chosen), factor))
    kept_out = max(1, len(real) // 5)
    features = _red_against_blue(real[kept_out:])
    scale = features.square().mean(dim=0).sqrt().clamp_min(1e-6)
    rows = (features / scale).double()
    penalty = RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    rule = _ColourRule(scale, torch.linalg.solve(rows.T @ rows + penalty, rows.sum(dim=0)))
    return replace(rule, reliability=float(rule.looks_right(real[:kept_out]).float().mean()))


def _red_against_blue(unit: Tensor) -> Tensor:
    """Features (n, d) of pixels in [0, 1] that change their sign where red and blue are exchanged."""
    pixels = torch.nn.functional.adaptive_avg_pool2d(unit, 2 * COLOUR_GRID) - 0.5
    red, green, blue = pixels.unbind(dim=1)
    odd, light, tint = red - blue, (red + blue) / 2, green - (red + blue) / 2
    products = (odd, odd * light, odd * tint, odd * odd.abs(), odd * light**2, odd * tint**2, odd**3)
    maps = torch.nn.functional.adaptive_avg_pool2d(torch.stack(products, dim=1), COLOUR_GRID)
    contrast = red.flatten(1).var(dim=1) - blue.flatten(1).var(dim=1)
    return torch.cat([maps.flatten(1), contrast[:, None]], dim=1)


def outcome(accuracy: float, test_counts: Sequence[int]) -> list[Finding]:
    """An error if a measured accuracy in [0, 1] is what guessing the largest test class reaches with luck.

    `test_counts` are the test images of each class.
    """
    from scipy.stats import binom

    tested = sum(test_counts)
    share = max(test_counts) / tested
    highest = float(binom.ppf((1 + CONFIDENCE) / 2, tested, share)) / tested
    if accuracy > highest:
        return []
    seen = f"a measured accuracy of {100 * accuracy:.1f} %"
    expected = (
        f"more than the {100 * highest:.1f} % that guessing may reach, "
        f"whose chance is the largest class's share of {100 * share:.1f} %"
    )
    return [Finding("error", "chance", seen, expected)]


def claim(claimed: float, interval: tuple[float, float], origin: str, conditions: str = "") -> list[Finding]:
    """A warning if the claimed accuracy in [0, 1] lies outside the interval of the measured one.

    `origin` says what the interval is; `conditions` is added, if there is a reason to expect a difference.
    """
    low, high = interval
    if low <= claimed <= high:
        return []
    seen = f"a claim of {100 * claimed:.1f} %"
    expected = f"one within the measured {100 * low:.1f} ... {100 * high:.1f} % ({origin}){conditions}"
    return [Finding("warning", "claim", seen, expected)]


def refuse_fatal(findings: list[Finding]) -> None:
    """UserError for the first finding that makes an evaluation impossible."""
    for finding in findings:
        if finding.fatal:
            raise UserError(f"{finding.check}: saw {finding.seen}; expected {finding.expected}")


def _feature_maker(data: Dataset, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Features (n, d) of images (n, C, H, W) in a random network, and their pixels where these are few."""
    from harness.core.nets import build

    channels, height, width = data.shape
    net = build(
        FEATURE_ARCH,
        channels=channels,
        image_size=(height, width),
        classes=data.num_classes,
        generator=generator,
        device=data.device,
    ).eval()
    few = math.prod(data.shape) <= FEW_PIXELS

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        rows = [net.embed(piece).flatten(1) for piece in images.split(PIECE)]
        embedded = torch.cat(rows)
        return torch.cat([embedded, images.flatten(1)], dim=1) if few else embedded

    return features


def _as_from_tiles(images: Tensor, factor: int) -> Tensor:
    """The images after they were put into tiles and decoded again."""
    from harness.core.formation import compose, decode

    return decode(compose([images] * factor**2, factor), factor)[: len(images)]


@dataclass(frozen=True)
class _Ridge:
    """A linear classifier: standardise features, multiply, add."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Scores (n, classes), about 1 for the class and 0 for others."""
        return ((features - self.mean) / self.std).double() @ self.weights


def _fit(features: Tensor, labels: Tensor, classes: int) -> _Ridge:
    """Ridge regression on one-hot rows, solved in whichever of both dimensions is the smaller."""
    mean, std = features.mean(dim=0), features.std(dim=0)
    # Pixels of a border that is always black must not decide what distilled images look like.
    std = std.clamp_min(LEAST_SPREAD * float(std.mean()))
    rows = ((features - mean) / std).double()
    wanted = torch.nn.functional.one_hot(labels, classes).double()
    penalty = RIDGE * len(rows)
    if rows.shape[1] <= len(rows):
        square = rows.T @ rows + penalty * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        return _Ridge(mean, std, torch.linalg.solve(square, rows.T @ wanted))
    square = rows @ rows.T + penalty * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    return _Ridge(mean, std, rows.T @ torch.linalg.solve(square, wanted))


def _order(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
