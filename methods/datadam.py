"""DataDAM: matching of spatial attention, layer by layer, and of embeddings, with fresh random networks.

Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching", ICCV 2023. The attention of
a layer to an image is the sum over channels of |feature map|^p, flattened and scaled to length 1. With a
fresh random network at every iteration, its embedding phi, the attention a_l of its layers and one
augmentation A for each class,

    minimise  100 sum_c [ sum_l || mean a_l(A(B_c)) - mean a_l(A(S_c)) ||^2
                          + lambda || mean phi(A(B_c)) - mean phi(A(S_c)) ||^2 ]

over the synthetic images S by SGD with momentum; l runs over all activations but the last. Reported on
CIFAR-10 (ConvNet): 32.0, 54.2, 67.0 % at ipc 1, 10, 50.

Departures from the authors' code (DataDistillation/DataDAM `main_DataDAM.py`): the network is that of the
context, where the repository's "ConvNet" normalises by batch statistics (here `ConvNetBN`); images start from
random real ones, not from the supplied tensors of its `smart` option; seeds are named instead of taken from
the clock; layers without a spatial extent have no attention. The defaults are the code's: power p = 1, 20000
iterations, 64 real images per class. The variant `datadam@paper` has the published table's: p = 4 and 8000
iterations, with 256 real images; its lambda for images of high resolution, 0.02, is left to `task_balance`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.nets import Network
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from harness.core.siamese import Siamese
from methods import resolve
from methods.shared.layers import Layers, class_means, gap_of_means
from methods.shared.matching import ClassLoss, ClassMatcher, Seen, View
from methods.shared.starts import initial_images


@dataclass(frozen=True)
class Config:
    """Settings of DataDAM; the defaults are those of the authors' script."""

    iterations: int = setting(20_000, "image updates, one fresh network each", length=True)
    lr_img: float = setting(1.0, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images")
    batch_real: int = setting(64, "real images per class and iteration")
    power: float = setting(1.0, "p, the power of the activations in the attention")
    scale: float = setting(100.0, "weight of the whole loss")
    task_balance: float = setting(0.01, "lambda, weight of the embeddings beside the attention")
    strategy: str | None = setting(
        None, "DSA operations, also in evaluation; None: the usual ones of the dataset"
    )


VARIANTS = {"paper": {"power": 4.0, "iterations": 8000, "batch_real": 256}}

_ROWS = {1: {}, 10: {}, 50: {}, 100: {"lr_img": 10.0}}
PAPER = {
    (dataset, ipc): row
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "*")
    for ipc, row in _ROWS.items()
}

SCALED = {"cpu": {"iterations": 300, "batch_real": 32}, "smoke": {"iterations": 20, "batch_real": 16}}


def steps_of(config: Config) -> Steps:
    """Updates by real images of each class; no network is trained."""
    return Steps(config.iterations, real=config.batch_real, augmentation=config.strategy)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` images per class by attention matching."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("datadam", data.name, ipc).config
    strategy = usual_strategy(data.name) if config.strategy is None else config.strategy

    images = initial_images(data, ipc, 1, context).requires_grad_()
    optimizer = SGD([images], lr=config.lr_img, momentum=config.momentum)
    net = context.network(data).requires_grad_(False)
    view = attention_view(Layers(net), config.power)
    matcher = ClassMatcher(context, data, net, view=view, real_view=view)

    for _ in context.steps(config.iterations, {"images": images, "optimizer": optimizer}):
        context.redraw(net)
        siamese = Siamese.draw(strategy, data, context)
        batch = data.index.draw(config.batch_real, context.generator("real"))
        pieces = matcher.real_pieces(net, batch, siamese)
        real_means = class_means(((of, (*seen.extra, seen.embeddings)) for of, seen in pieces), batch.sizes)
        losses = matcher.descend(net, images, siamese, attention_distance_to(real_means, config))
        optimizer.step()
        context.log(losses.sum())

    return Distilled.of(data, images, method="datadam", config=config, augmentation=strategy)


def attention_view(layers: Layers, power: float) -> View:
    """The embedding (N, D), and as extra the attention (N, positions) of every activation but the last."""

    def view(net: Network, images: Tensor) -> Seen:
        *maps, _, final = layers(net, images)
        looks = tuple(attention(map_, power) for map_ in maps if map_.ndim == 4)
        return Seen(final.flatten(1), extra=looks)

    return view


def attention(maps: Tensor, power: float) -> Tensor:
    """Where a layer looks: the energy of its maps (N, channels, height, width), scaled to length 1."""
    return F.normalize(energy(maps.float(), power), dim=1)


def energy(maps: Tensor, power: float) -> Tensor:
    """Sum over channels of |map|^power at each position: (N, height * width)."""
    magnitude = maps.abs()
    return (magnitude if power == 1 else magnitude.pow(power)).sum(dim=1).flatten(1)


def attention_distance_to(real_means: tuple[Tensor, ...], config: Config) -> ClassLoss:
    """Loss of some classes, (k,), from class means (C, ...) of the real attention vectors and embeddings."""
    weights = [config.scale] * (len(real_means) - 1) + [config.scale * config.task_balance]

    def loss(seen: Seen) -> Tensor:
        real = [mean[seen.classes] for mean in real_means]
        return gap_of_means(real, [*seen.extra, seen.embeddings], weights)

    return loss
