"""The distilled set that a method returns: what is stored, and all that is needed to train on it."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from harness.core.data import Dataset, HeldOut, RegularisedZCA, Transform, transform_from_state
from harness.core.errors import DivergedError, UserError
from harness.core.files import replacing
from harness.core.formation import decode
from harness.core.learned_steps import LearnedSteps
from harness.core.passes import hard
from harness.core.settings import values_of
from harness.core.tangent import KernelRidge

FORMAT = "distilled-set-1"

Seen = TypeVar("Seen", Dataset, HeldOut)


@dataclass(frozen=True)
class Distilled:
    """A distilled set: what is stored, and all that is needed to train on it.

    images: (n, C, H, W) float32 in the space of `transform`, class after class.
    labels: (n,) int64, or float32 rows of soft labels: (n, classes), or (n * f * f, classes), one for each
        training image in the order of `decoded`.
    factor: multi-formation factor f; each stored image decodes to f * f training images.
    augmentation: the DSA strategy that training on the set calls for; "" for none.
    learned_lr: a learning rate that was distilled along; None if there is none.
    classes: (n,) int64, what each image is, where soft labels do not tell; None: the largest entry tells.
    steps: steps of training that were learned along, in their order; None if training is free.
    ridge: the regression in a kernel that the set was distilled for, whose support it is; None: none.
    method: the name that it was asked for by; the harness sets it, a direct call need not.
    """

    images: Tensor
    labels: Tensor
    ipc: int
    dataset: str
    class_names: tuple[str, ...]
    transform: Transform
    method: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    factor: int = 1
    augmentation: str = ""
    learned_lr: float | None = None
    classes: Tensor | None = None
    steps: LearnedSteps | None = None
    ridge: KernelRidge | None = None

    def __post_init__(self) -> None:
        """Refuse images and labels that are not finite numbers, and counts that do not match."""
        if not bool(torch.isfinite(self.images).all()):
            raise DivergedError(
                f"{self.method or 'it'} ended with images that are not finite; lower the learning rate"
            )
        if not bool(torch.isfinite(self.labels).all()):
            raise DivergedError(
                f"{self.method or 'it'} ended with labels that are not finite; lower the labels' learning "
                "rate"
            )
        stored, decoded = len(self.images), len(self.images) * self.factor**2
        if len(self.labels) != stored and (self.labels.ndim == 1 or len(self.labels) != decoded):
            raise UserError(f"{stored} distilled images but {len(self.labels)} labels")
        if self.classes is not None and self.classes.shape != (stored,):
            raise UserError(f"{stored} distilled images but {len(self.classes)} classes of them")

    @classmethod
    def of(
        cls,
        data: Dataset,
        images: Tensor,
        *,
        config: Any,
        method: str = "",
        labels: Tensor | None = None,
        **rest: Any,
    ) -> Distilled:
        """The set of class-major `images` (C * ipc, ...) distilled from `data`; hard labels unless given.

        `config` is the method's Config, `method` its name where no harness gives one; `rest` are other
        fields, such as `factor` and `augmentation`.
        """
        ipc = len(images) // data.num_classes
        classes = class_labels(data.num_classes, ipc, data.device)
        return cls(
            images=images.detach(),
            labels=classes if labels is None else labels.detach(),
            classes=None if labels is None or labels.ndim == 1 else classes,
            ipc=ipc,
            dataset=data.name,
            class_names=data.class_names,
            transform=data.transform,
            method=method,
            config=values_of(config),
            **rest,
        )

    @property
    def stored_bytes(self) -> int:
        """Bytes of the tensors that have to be kept."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Training images (n * f^2, C, H, W) and their labels."""
        images = decode(self.images, self.factor)
        times = len(images) // len(self.labels)
        return images, self.labels.repeat((times,) + (1,) * (self.labels.ndim - 1))

    def hard_labels(self) -> Tensor:
        """The class (n * f^2,) of each training image."""
        if self.classes is None:
            return hard(self.decoded()[1])
        return self.classes.repeat(self.factor**2)

    def view_of(self, data: Seen) -> Seen:
        """The dataset as networks see it that learn from the set: through the set's own whitening, if any.

        Whitening that is the dataset's own, as `--zca` asks for it, is left to the dataset.
        """
        return data.seen_through(self.transform) if self.whitened_by_method else data

    @property
    def whitened_by_method(self) -> bool:
        """Whether the method that made it whitened the images in a way of its own."""
        return isinstance(self.transform, RegularisedZCA)

    def to_dataset(self) -> TensorDataset:
        """An ordinary torch Dataset of (image, label) pairs, decoded, in the space of `transform`.

        Warns of what the set holds that such pairs cannot.
        """
        for loss in self.beyond_pairs():
            warnings.warn(f"an ordinary dataset drops {loss}", stacklevel=2)
        return TensorDataset(*self.decoded())

    def beyond_pairs(self) -> list[str]:
        """What is lost of the set where only images and labels are kept, in words."""
        lost = []
        if self.steps is not None:
            lost.append(f"{self.steps.words()}, which are half of what was learned")
        if self.ridge is not None:
            kernel = f"{self.ridge.kernel.kind}, regulariser {self.ridge.reg:g}"
            lost.append(f"the kernel that the set is for ({kernel}), of whose regression it is the support")
        return lost

    def pixels(self) -> Tensor:
        """Stored images (n, C, H, W) as pixels, clamped to [0, 1]."""
        return self.transform.inverse(self.images).clamp(0, 1)

    def digest(self) -> str:
        """SHA-256 of images, labels, classes and steps, in hex."""
        content = hashlib.sha256()
        for tensor in self._tensors().values():
            content.update(tensor.contiguous().cpu().numpy().tobytes())
        return content.hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        """What the set itself consists of, by name."""
        tensors = {"images": self.images, "labels": self.labels}
        tensors |= {} if self.classes is None else {"classes": self.classes}
        return tensors | ({} if self.steps is None else self.steps.tensors())

    def save(self, path: Path | str) -> None:
        """Write as safetensors, aside and then moved; the same set gives the same bytes."""
        tensors = self._tensors()
        tensors |= {f"transform.{name}": tensor for name, tensor in self.transform.state().items()}
        about = {
            "format": FORMAT,
            "dataset": self.dataset,
            "class_names": self.class_names,
            "ipc": self.ipc,
            "factor": self.factor,
            "augmentation": self.augmentation,
            "learned_lr": self.learned_lr,
            "method": self.method,
            "config": self.config,
        }
        if self.steps is not None:
            about["steps"] = self.steps.facts()
        if self.ridge is not None:
            about["ridge"] = asdict(self.ridge)
        # One key only: safetensors writes several in random order, and the bytes would differ.
        metadata = {"distilled": msgspec.json.encode(about, order="sorted").decode()}
        with replacing(Path(path)) as aside:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, aside, metadata)

    @classmethod
    def load(cls, path: Path | str) -> Distilled:
        """Read a saved set bit for bit; UserError if the file is damaged or not one of ours."""
        try:
            with safe_open(str(path), framework="pt") as file:
                about = msgspec.json.decode((file.metadata() or {})["distilled"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.pop("format") != FORMAT:
                raise KeyError("format")
            state = {
                name.partition(".")[2]: tensors[name] for name in tensors if name.startswith("transform.")
            }
            transform = transform_from_state(state)
            about["class_names"] = tuple(about["class_names"])
            if "steps" in about:
                about["steps"] = LearnedSteps.restored(tensors, about["steps"])
            if "ridge" in about:
                about["ridge"] = msgspec.convert(about["ridge"], KernelRidge)
            parts = {name: tensors[name] for name in ("images", "labels")}
            return cls(**parts, classes=tensors.get("classes"), transform=transform, **about)
        except FileNotFoundError:
            raise UserError(f"no distilled set at {path}") from None
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or no safetensors file ({error})") from None
        except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise UserError(f"{path} is not a distilled set of this harness ({error})") from None


def class_labels(classes: int, ipc: int, device: torch.device) -> Tensor:
    """Hard labels (C * ipc,) of class-major images."""
    return torch.arange(classes, device=device).repeat_interleave(ipc)
