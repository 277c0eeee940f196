"""NAME: what it does, in a line (this line is shown by `python -m harness list methods`).

Authors, "Title", venue year (arXiv ...). The idea in two sentences, and the objective as a formula:

    minimise  sum_c || mean of real images of c - mean of S_c ||^2

over the synthetic images S. Reported on CIFAR-10 (ConvNet): ... % at ipc 1, 10, 50.

Departures from the authors' code (owner/repository `file.py`): each one, and why; or "none".

This template is a working method under test: it pulls synthetic images towards the mean image of their class.
Copy it to `methods/<name>.py` (a name without a leading underscore is found by itself) and fill it in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from methods import resolve
from methods.shared import kernels


@dataclass(frozen=True)
class Config:
    """Every setting with its default and one line on its meaning."""

    iterations: int = setting(1000, "image updates", length=True)
    lr_img: float = setting(0.1, "learning rate of the images")
    batch_real: int = setting(256, "real images per class and iteration")


# What the authors' own commands set for (dataset, ipc), where it differs from the defaults; "*" stands for
# datasets they do not name. The nearest ipc below the wanted one is taken, and the record says so.
PAPER = {("cifar10", 1): {}, ("cifar10", 50): {"lr_img": 0.05}, ("*", 1): {}}

# Shortened settings for the scales that need no GPU.
SCALED = {"cpu": {"iterations": 200, "batch_real": 32}, "smoke": {"iterations": 20, "batch_real": 16}}


def steps_of(config: Config) -> Steps:
    """What a step costs beside the synthetic images' own passes; delete this if nothing does."""
    return Steps(config.iterations, real=config.batch_real)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve(__name__.rpartition(".")[2], data.name, ipc).config  # by this file's name

    # Randomness comes from named generators only: the run is repeatable, and goes on after a kill.
    images = data.batch(data.index.balanced(ipc, context.generator("init"))).requires_grad_()
    optimizer = SGD([images], lr=config.lr_img)

    # `steps` keeps progress, checkpoints, budget and cost; name all that changes from step to step.
    for _ in context.steps(config.iterations, {"images": images, "optimizer": optimizer}):
        batch = data.index.draw(config.batch_real, context.generator("real"))
        real_mean = kernels.class_means(data.batch(batch.indices).flatten(1), batch.sizes)
        own_mean = kernels.class_means(images.flatten(1), (ipc,) * data.num_classes)
        loss = kernels.mean_distance(real_mean, own_mean).sum()
        (images.grad,) = torch.autograd.grad(loss, images)
        optimizer.step()
        context.log(loss)

    strategy = usual_strategy(data.name)
    # The harness writes the name that was asked for, NAME or a variant's, into the set.
    return Distilled.of(data, images, config=config, augmentation=strategy)
