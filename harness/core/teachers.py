"""Trained networks that say of an image how probable each class is, for students to learn from.

A teacher is an expert (`harness.core.experts`) of one dataset, network and recipe: it lies in the same cache,
is resumed, shared by all runs and charged to each. It is trained on nine tenths of the train split; the tenth
that is left tells how good it is, and the test split plays no part. (Papers train theirs on all of train.)

Recipes: SRe2L's and RDED's pretraining (VILA-Lab/SRe2L `squeeze`, LINs-lab/RDED) in common form: SGD with
momentum 0.9 and decay 5e-4, a cosine from epoch to epoch, shifts and mirror images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.core.augment import DIGIT_DATASETS
from harness.core.clock import Cost
from harness.core.context import Context
from harness.core.data import Dataset, HeldOut, sealed
from harness.core.errors import UserError
from harness.core.experts import ExpertSettings, train_experts
from harness.core.nets import Network, canonical
from harness.core.nets.names import base_and_width, convnet_spec
from harness.core.passes import logits_forward, pieces, rows_per_piece

CONVNET_RATE, OTHER_RATE = 0.05, 0.1
# Networks with batch norm, beside those without.
WITH_BATCH_NORM = {"AlexNet": "AlexNetBN", "VGG11": "VGG11BN", "ResNet18": "ResNet18BN"}
FALLBACK = "ConvNetBN"
ROWS = 256  # at a time through networks with batch norm, which know no pieces


@dataclass(frozen=True)
class TeacherRecipe:
    """How long a teacher is trained: `epochs` passes of at most `steps` batches of 128 images."""

    name: str
    epochs: int
    steps: int | None = None


RECIPES: Mapping[str, TeacherRecipe] = {
    "paper": TeacherRecipe("200 epochs", 200),
    "cpu": TeacherRecipe("6 epochs of 150 steps", 6, 150),
    "smoke": TeacherRecipe("2 epochs of 20 steps", 2, 20),
}


@dataclass(frozen=True)
class Teacher:
    """A trained network, which answers in evaluation mode and without gradients.

    accuracy: in [0, 1], on the tenth of the train split that it was not trained on; chance: what the largest
    class is of that. digest: of its weights. cost: of its training, whoever did it.
    """

    net: Network
    context: Context
    arch: str
    recipe: TeacherRecipe
    accuracy: float
    chance: float
    digest: str
    cost: Cost

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, C, H, W)."""
        self.net.eval()
        forward = logits_forward(self.context)
        parts = [forward(self.net, images[piece]) for piece in pieces(len(images), ROWS)]
        return torch.cat(parts)


def teacher_network(arch: str) -> str:
    """The teacher's network for one that distils or learns: of the same kind, with batch norm."""
    name = canonical(arch)
    spec = convnet_spec(name)
    if spec is not None:
        return canonical(f"{name}BN") if spec.norm == "instance" else name
    base, width = base_and_width(name)
    if base not in (*WITH_BATCH_NORM, *WITH_BATCH_NORM.values()):
        return FALLBACK
    return WITH_BATCH_NORM.get(base, base) + ("" if width is None else f"W{width}")


def train_teacher(context: Context, data: Dataset, arch: str, recipe: TeacherRecipe) -> Teacher:
    """The teacher of this dataset and network, from the context's cache or trained now; see `train_experts`.

    Its cost is charged to the context. It may be no better than chance, see `check_worth`.
    """
    learned, held_out = data.hold_out()
    spent = context.apart(0, None)
    settings = _settings(data, arch, recipe)
    with sealed("a teacher is trained"):
        experts = train_experts(context, learned, settings)
        net = spent.network(data, arch=settings.arch)
        experts.load_into(net, 0, recipe.epochs)
        chance = float(torch.bincount(held_out.labels).max()) / len(held_out)
        teacher = Teacher(net, spent, str(settings.arch), recipe, 0.0, chance, _digest(net), experts.costs[0])
        return replace(teacher, accuracy=_accuracy(teacher, held_out))


def check_worth(teacher: Teacher, dataset: str) -> None:
    """UserError for a teacher that is no better than chance."""
    if teacher.accuracy <= teacher.chance and not teacher.context.rehearsing:
        raise UserError(
            f"the teacher of {dataset} ({teacher.arch}, {teacher.recipe.name}) is right on "
            f"{100 * teacher.accuracy:.1f} % of the train images left out, no better than chance "
            f"({100 * teacher.chance:.1f} %): it has nothing to teach; choose a protocol for hard labels"
        )


def _settings(data: Dataset, arch: str, recipe: TeacherRecipe) -> ExpertSettings:
    return ExpertSettings(
        count=1,
        epochs=recipe.epochs,
        batch=128,
        lr=CONVNET_RATE if convnet_spec(arch) is not None else OTHER_RATE,
        momentum=0.9,
        weight_decay=5e-4,
        cosine=True,
        strategy="crop" if data.name in DIGIT_DATASETS else "crop>flip",
        steps_per_epoch=recipe.steps,
        snapshots="last",
        arch=canonical(arch),
    )


def _accuracy(teacher: Teacher, held_out: HeldOut) -> float:
    return right_answers(teacher, teacher.net, held_out) / len(held_out)


def right_answers(answer: Callable[[Tensor], Tensor], net: Network, held_out: HeldOut) -> int:
    """How many images a network is right about; `answer` gives its logits (n, classes) for images."""
    hits = 0
    for piece in pieces(len(held_out), rows_per_piece(net, held_out.shape) or ROWS):
        hits += int((answer(held_out.batch(piece)).argmax(dim=1) == held_out.labels[piece]).sum())
    return hits


def _digest(net: Network) -> str:
    content = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
