"""What IID adds to distribution matching: how features go together, and how close a class's images lie.

Deng et al., "Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation", CVPR 2024 (arXiv
2404.00563); as in VincenDen/IID `main_DM_IID.py`, whose loss for the synthetic images S_c of a class is

    base + a || G(B_c) - G(S_c) ||_F^2 + b sum_s || psi(A(s)) - mean psi(A(S_c)) ||^2.

G is the inter-feature covariance: the last feature map of an image as a matrix L (channels x positions), less
its mean over the batch, L L^T averaged over the batch. psi is the embedding of a network drawn from many that
were trained on the real images; the sum pulls a class's images together (class centralisation). One image by
itself has neither a covariance nor a distance to its mean: without multi-formation, IID begins at ipc 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.experts import ExpertSettings, train_experts
from harness.core.nets import Network, build
from harness.core.settings import required, setting
from methods.shared.composition import Criterion
from methods.shared.matching import MeanDistance, Seen


@dataclass(frozen=True)
class Constraints:
    """Settings of both constraints and of the trained networks."""

    covariance_weight: float = required("a, weight of the gap between inter-feature covariances")
    centralisation_weight: float = required("b, weight of the scatter of a class's synthetic images")
    pretrained: int = setting(
        1000, "networks trained on real images, of which one is drawn for each iteration"
    )
    pretrained_arch: str | None = setting(
        "ResNet18", "architecture of the pretrained networks; None: that of the network that distils"
    )
    pretrained_epochs: int = setting(40, "passes of the pretraining over the real images")
    pretrained_steps: int | None = setting(None, "SGD steps of a pass of the pretraining; None: a whole pass")
    pretrained_batch: int = setting(256, "real images per SGD step of the pretraining", added=True)
    pretrained_lr: float = setting(0.01, "learning rate of the pretraining", added=True)
    pretrained_momentum: float = setting(0.9, "momentum of the pretraining's SGD", added=True)
    pretrained_weight_decay: float = setting(5e-4, "weight decay of the pretraining", added=True)


def constrained(constraints: Constraints, data: Dataset, context: Context) -> Criterion:
    """The distance of means with both constraints, for any loop of distribution matching."""
    experts = train_experts(
        context,
        data,
        ExpertSettings(
            count=constraints.pretrained,
            epochs=constraints.pretrained_epochs,
            batch=constraints.pretrained_batch,
            lr=constraints.pretrained_lr,
            momentum=constraints.pretrained_momentum,
            weight_decay=constraints.pretrained_weight_decay,
            steps_per_epoch=constraints.pretrained_steps,
            snapshots="last",
            arch=constraints.pretrained_arch,
        ),
    )
    trained = context.network(data, role="trained", arch=constraints.pretrained_arch)
    trained.requires_grad_(False).eval()

    def draw_trained() -> None:
        generator = context.generator("expert", on_cpu=True)
        expert = int(torch.randint(constraints.pretrained, (1,), generator=generator))
        experts.load_into(trained, expert, constraints.pretrained_epochs)

    def embed_by_trained(net: Network, images: Tensor) -> tuple[Tensor, ...]:
        return (trained.embed(images),)

    distance_to = partial(ConstrainedDistance.to, constraints, final_channels(context, data))
    return Criterion(distance_to, embed_by_trained, draw_trained)


@dataclass(frozen=True)
class ConstrainedDistance:
    """The distance of means with both constraints, to real embeddings whose covariances are (C, ch, ch)."""

    constraints: Constraints
    means: MeanDistance
    real_covariances: Tensor

    @classmethod
    def to(
        cls, constraints: Constraints, channels: int, real: Tensor, sizes: tuple[int, ...]
    ) -> ConstrainedDistance:
        """The distance to real embeddings (N, D) of so many channels, class after class."""
        return cls(constraints, MeanDistance.to(real, sizes), class_covariances(real, sizes, channels))

    def __call__(self, seen: Seen) -> Tensor:
        """Of each class seen, (k,); `seen.extra` holds embeddings by a trained network."""
        (trained,) = seen.extra
        real = self.real_covariances[seen.classes]
        gap = (real - covariances(seen.embeddings, real.shape[1])).square().sum(dim=(1, 2))
        return (
            self.means(seen)
            + self.constraints.covariance_weight * gap
            + self.constraints.centralisation_weight * scatter(trained)
        )


def covariances(features: Tensor, channels: int) -> Tensor:
    """Inter-feature covariance (k, channels, channels) of each class's embeddings (k, n, D).

    The mean over images of L L^T is one product of matrices (channels x n positions), none for each image.
    """
    k, n, _ = features.shape
    centred = features - features.mean(dim=1, keepdim=True)
    maps = centred.view(k, n, channels, -1).transpose(1, 2).flatten(2)
    return maps @ maps.transpose(1, 2) / n


def class_covariances(features: Tensor, sizes: tuple[int, ...], channels: int) -> Tensor:
    """The same of embeddings (N, D) that lie class after class, `sizes` rows each."""
    if len(set(sizes)) == 1:
        return covariances(features.view(len(sizes), sizes[0], -1), channels)
    return torch.cat([covariances(part[None], channels) for part in features.split(list(sizes))])


def scatter(features: Tensor) -> Tensor:
    """Sum of squared distances (k,) of each class's embeddings (k, n, D) to their mean."""
    return (features - features.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))


def final_channels(context: Context, data: Dataset) -> int:
    """Channels of the last feature map of the networks that distil; D if it has no positions."""
    channels, height, width = data.shape
    net = build(
        context.arch,
        channels=channels,
        image_size=(height, width),
        classes=data.num_classes,
        generator=torch.Generator(),
        device="cpu",
    )
    with torch.no_grad():
        return int(net.features(torch.zeros(1, *data.shape)).shape[1])
