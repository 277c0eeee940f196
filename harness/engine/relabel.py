"""Labels that a teacher gives to whole batches, stored for each of them, and students that learn from these.

SRe2L++, CV-DD and FADRM label every batch of every epoch beforehand (Jiacheng8/CV-DD `relabel/` and
`validate/`). Their teachers are in train mode: a label depends on the statistics of the half batch that its
image is in, and the running statistics of the teacher move on. Students see the same batches, mixed alike, in
small batches whose gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces
from harness.engine.losses import Targets, summed
from harness.engine.mixing import Mix, mixed
from harness.engine.optimisers import ScheduledOptimizer
from harness.engine.protocol import Course, Recipe

TEMPERATURE = 10.0  # of the teachers' weights


@dataclass(frozen=True)
class LabelledBatch:
    """A batch as it was labelled: rows (n,) of the images, how they were mixed, and logits (n, classes)."""

    rows: Tensor
    mix: Mix | None
    logits: Tensor

    def images(self, images: Tensor) -> Tensor:
        """The mixed images (n, C, H, W) of the batch."""
        own = images[self.rows.to(images.device)]
        return own if self.mix is None else mixed(own, self.rows, self.mix, labels_too=False)[0]


def teacher_weights(trust: Sequence[float]) -> Tensor:
    """Weights (teachers,) of teachers that are trusted so much, such as their accuracies in percent."""
    return (torch.tensor(trust, dtype=torch.float64) / TEMPERATURE).softmax(dim=0).float()


def labelled(
    teachers: Sequence[Network], weights: Tensor, images: Tensor, rows: Tensor, mix: Mix | None
) -> LabelledBatch:
    """One batch of `images` with labels by teachers of these weights (teachers,), whose statistics move on.

    Of batches mixed by CutMix, which replaces images, the mixed images are labelled; of those mixed by Mixup
    the images before mixing, as the authors' code does.
    """
    pasted = mix is not None and mix.window is not None
    shown = LabelledBatch(rows, mix if pasted else None, rows).images(images)
    return LabelledBatch(rows, mix, batch_logits(teachers, weights, shown))


@torch.no_grad()
def batch_logits(teachers: Sequence[Network], weights: Tensor, images: Tensor) -> Tensor:
    """Weighted logits (n, classes), float16, by teachers in train mode that see one half after the other.

    UserError for a single image, which has no halves.
    """
    if len(images) < 2:
        raise UserError(
            "a batch of one image cannot be labelled by its own statistics; choose a batch that leaves none"
        )
    halves = (images[: len(images) // 2], images[len(images) // 2 :])
    answers = [torch.cat([teacher.train()(half) for half in halves]) for teacher in teachers]
    weighted = [weight * answer for weight, answer in zip(weights.to(images.device), answers, strict=True)]
    return torch.stack(weighted).sum(dim=0).half()


def learn(
    net: Network,
    images: Tensor,
    passes: Iterable[Iterable[LabelledBatch]],
    recipe: Recipe,
    course: Course,
    context: Context,
    seen: Callable[[Tensor], None] = lambda loss: None,
) -> None:
    """Train `net` in place on labelled batches of `images`; `seen` is told the loss of each small batch.

    The course counts small batches; an optimiser step follows as many as it accumulates, which are the pieces
    of one labelled batch. Each loss is divided by that number, also where a batch has fewer pieces.
    """
    forward, loss_of = logits_forward(context), summed(recipe.loss)
    optimizer = ScheduledOptimizer(net, recipe.optimiser, course)
    net.train()
    for batches in passes:
        for batch in batches:
            shown, logits = batch.images(images), batch.logits.to(images.device, torch.float32)
            for piece in pieces(len(shown), course.batch):
                optimizer.before_batch()
                rows = logits[piece]
                loss = loss_of(forward(net, shown[piece]), Targets(rows, rows.argmax(dim=1))) / len(rows)
                loss.backward()
                optimizer.after_batch()
                seen(loss.detach())
        optimizer.end_pass()
