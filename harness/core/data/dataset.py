"""A dataset as methods and evaluation see it: train pixels on the device, test split behind a firewall."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness.core.data import firewall
from harness.core.data.catalog import DatasetSpec
from harness.core.data.sampling import ClassIndex
from harness.core.data.transforms import Transform
from harness.core.errors import DataError


def class_numbers(labels: Tensor) -> Tensor:
    """Labels (N,) of any type of number as int64; DataError for one that is no whole number.

    Rounding them would hide that a file holds something else, such as labels that were smoothed or scaled.
    """
    numbers = labels.long()
    odd = (numbers != labels).nonzero()
    if len(odd):
        at = int(odd[0, 0])
        raise DataError(
            f"label {labels[at].item():g} of image {at} is no class number, and {len(odd)} of {len(labels)} "
            "labels are not whole; expected 0, 1, ... for the classes, or one row of probabilities an image"
        )
    return numbers


@dataclass(frozen=True, eq=False)
class Samples:
    """Images uint8 (N, C, H, W) with labels int64 (N,) into `class_names`.

    Raises ValueError if these do not fit together.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Catch files whose parts do not belong together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.labels.dtype != torch.int64:
            raise ValueError("images must be uint8 (N, C, H, W) and labels int64")
        if self.labels.shape != (len(self.images),) or len(self.images) == 0:
            raise ValueError(f"{len(self.images)} images do not match {len(self.labels)} labels")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(f"labels {low}..{high} do not fit {len(self.class_names)} classes")

    def to(self, device: torch.device | str) -> Samples:
        """The same on `device`."""
        return Samples(self.images.to(device), self.labels.to(device), self.class_names)

    def fingerprint(self) -> str:
        """16 hex characters of a SHA-256 over shape, class names, pixels and labels."""
        digest = hashlib.sha256(json.dumps([list(self.images.shape), self.class_names]).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


class Split:
    """The opened test split; what shows pixels or labels raises FirewallError while the process is sealed."""

    def __init__(self, name: str, samples: Samples, transform: Transform) -> None:
        self._name = name
        self._sealable = samples
        self._transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self._sealable.labels)

    @property
    def images(self) -> Tensor:
        """uint8 (N, C, H, W)."""
        return self._samples.images

    @property
    def labels(self) -> Tensor:
        """int64 (N,)."""
        return self._samples.labels

    @property
    def fingerprint(self) -> str:
        """Identity of the content, see Samples.fingerprint."""
        return self._samples.fingerprint()

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Transformed float32 images (n, C, H, W)."""
        return self._transform(self._samples.images[indices])

    @property
    def _samples(self) -> Samples:
        firewall.check(self._name)
        return self._sealable


class HeldOut:
    """Train images that nothing was distilled from, to choose and to watch by; a test split of a kind."""

    def __init__(self, samples: Samples, transform: Transform) -> None:
        self.num_classes = len(samples.class_names)
        self.images = samples.images
        self.labels = samples.labels
        self._transform = transform

    def seen_through(self, transform: Transform) -> HeldOut:
        """The same images with another transform."""
        other = copy.copy(self)
        other._transform = transform.to(self.images.device)
        return other

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Transformed float32 images (n, C, H, W)."""
        return self._transform(self.images[indices])


class _TestDoor:
    """The one way to the test files, shared by a dataset's copies on other devices; reads once and counts."""

    def __init__(self, name: str, read: Callable[[], Samples]) -> None:
        self._name = name
        self._read = read
        self._samples: Samples | None = None
        self.looks = 0

    def open(self) -> Samples:
        firewall.check(self._name)
        if self._samples is None:
            self._samples = self._read()
        self.looks += 1
        return self._samples


class Dataset:
    """Train images as uint8 tensors on a device, transformed batch by batch, and a test split read on demand.

    `images` uint8 (N, C, H, W), `labels` int64 (N,), `class_names`, and the `transform` that `batch` applies.
    """

    def __init__(
        self, spec: DatasetSpec, train: Samples, transform: Transform, open_test: Callable[[], Samples]
    ) -> None:
        """Wrap train samples; `open_test` reads the test samples and is not called before `test()`."""
        self.spec = spec
        self.transform = transform
        self._train = train
        self._test_door = _TestDoor(spec.name, open_test)

    def __len__(self) -> int:
        """Number of train images."""
        return len(self.labels)

    @property
    def name(self) -> str:
        """Name shown in results."""
        return self.spec.name

    @property
    def images(self) -> Tensor:
        """Train images, uint8 (N, C, H, W)."""
        return self._train.images

    @property
    def labels(self) -> Tensor:
        """Train labels, int64 (N,)."""
        return self._train.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self._train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the train tensors lie."""
        return self.images.device

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the train split's content, see Samples.fingerprint."""
        return self._train.fingerprint()

    @cached_property
    def index(self) -> ClassIndex:
        """Where each class's train images are, for draws by class."""
        return ClassIndex(self.labels, self.num_classes)

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Transformed float32 train images (n, C, H, W)."""
        return self.transform(self.images[indices])

    def hold_out(self, share: float = 0.1) -> tuple[Dataset, HeldOut]:
        """The dataset without that share of each class's train images, at least one, and these.

        The benchmark leaves out a tenth wherever it chooses, watches or judges before the test.

        The same images are left out in every run. The transform stays that of the whole train split.
        """
        counts = self.index.counts
        generator = torch.Generator().manual_seed(0)
        out = torch.zeros(len(self), dtype=torch.bool)
        for c, count in enumerate(counts):
            order = torch.randperm(count, generator=generator)[: max(1, int(share * count))]
            members = (self.labels.cpu() == c).nonzero().flatten()
            out[members[order]] = True
        out = out.to(self.device)
        kept = copy.copy(self)
        kept.__dict__.pop("index", None)
        kept.__dict__.pop("fingerprint", None)
        kept._train = Samples(self.images[~out], self.labels[~out], self.class_names)
        left = Samples(self.images[out], self.labels[out], self.class_names)
        return kept, HeldOut(left, self.transform)

    def seen_through(self, transform: Transform) -> Dataset:
        """The same dataset with another transform, on its device; looks at the test split count together."""
        other = copy.copy(self)
        other.transform = transform.to(self.device)
        return other

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on `device`; looks at the test split are counted together."""
        moved = copy.copy(self)
        moved._train, moved.transform = self._train.to(device), self.transform.to(device)
        return moved

    def test(self) -> Split:
        """Open the test split on the dataset's device.

        Raises FirewallError while the process is sealed, DataError if the files cannot be read or hold images
        of another shape than the train split's.
        """
        samples = self._test_door.open()
        shape = tuple(samples.images.shape[1:])
        if shape != self.shape:
            raise DataError(
                f"{self.name}: test images are {'x'.join(map(str, shape))} (channels, height, width), train "
                f"images {'x'.join(map(str, self.shape))}; bring both to one size, those of a folder by "
                "--image-size S"
            )
        return Split(self.name, samples.to(self.device), self.transform)

    @property
    def test_looks(self) -> int:
        """How often the test split was opened."""
        return self._test_door.looks
