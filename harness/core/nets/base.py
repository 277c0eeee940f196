"""What every network of the benchmark has in common: features, then one linear classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn


class ImageTooSmallError(Exception):
    """An image that shrinks to nothing on its way through a network; ``build`` turns it into advice."""


@dataclass(frozen=True)
class Problem:
    """What a network is for: images (channels, height, width) to be put into ``classes`` classes."""

    channels: int
    image_size: tuple[int, int]
    classes: int


class Features(nn.Sequential):
    """Everything before the classifier, called exactly once for each batch that enters a network.

    A forward-pre-hook that looks for ``isinstance(module, Features)`` therefore sees every image once.
    The authors' parameter names keep some layers directly on the network (``layer1.0.conv1.weight``,
    ``fc_1.weight``): those are ``borrowed``, run after the module's own layers but registered elsewhere.
    """

    def __init__(self, *own: nn.Module, borrowed: Sequence[nn.Module] = ()) -> None:
        super().__init__(*own)
        self._borrowed = tuple(borrowed)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Its own and the borrowed ones, in the order in which they run."""
        return (*self, *self._borrowed)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to a map (N, ...) not yet flattened."""
        out = images
        for layer in self.layers:
            out = layer(out)
        return out


class Network(nn.Module):
    """Features followed by a linear classifier; logits are always ``classifier(embed(images))``.

    ``parts`` are the layers registered on the network itself, in the authors' order and under the
    authors' names, the classifier last. ``initialisation`` says how ``reinitialise`` draws weights: "uniform"
    as PyTorch, "lecun" as Flax.
    """

    initialisation: Literal["uniform", "lecun"] = "uniform"

    def __init__(self, features: Features, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.features = features
        *_, self._classifier_name = parts
        for name, part in parts.items():
            setattr(self, name, part)

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, whatever the authors' name of it (``classifier``, ``fc``, ``fc_3``)."""
        return cast(nn.Linear, self._modules[self._classifier_name])

    @property
    def feature_dim(self) -> int:
        """Length D of an embedding."""
        return self.classifier.in_features

    def embed(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to embeddings (N, D), flattened in (channel, row, column) order."""
        return cast(Tensor, self.features(images)).flatten(1)

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (N, D) and logits (N, classes) from one pass."""
        embeddings = self.embed(images)
        return embeddings, self.classifier(embeddings)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.embed_and_logits(images)[1]
