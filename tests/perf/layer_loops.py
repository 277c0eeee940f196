"""Reference loops for speed: CAFE and DataDAM written plainly, as their authors do.

Images are gathered class after class, layers are read by hooks into a list, float32, no compilation, the
default memory layout. They compute what `methods.cafe` and `methods.datadam` compute and exist to be timed
beside them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops import Loop
from plain_loop import PlainLoop
from torch import Tensor, nn

from harness.core.data import Dataset
from harness.core.nets import Network


class Hooked:
    """A network and the list that its activations' outputs go to."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.seen: list[Tensor] = []
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda module, inputs, output: self.seen.append(output))

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs of the activations, embedding and logits."""
        self.seen = []
        features, logits = self.net.embed_and_logits(images)
        return self.seen, features, logits


class PlainDataDAM(PlainLoop):
    """One iteration of DataDAM: all classes in one batch of real and one of synthetic images."""

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc, batch_real=64)
        self.optimizer = torch.optim.SGD([self.synthetic], lr=1.0, momentum=0.5)

    def step(self) -> None:
        """Match attention and embeddings with one fresh network."""
        hooked = Hooked(self.fresh().requires_grad_(False))
        pairs = [
            self.siamese(self.images[self.draw(c, self.batch_real)], self.own(c)) for c in range(self.classes)
        ]
        maps_real, real, _ = hooked(torch.cat([pair[0] for pair in pairs]))
        maps_own, own, _ = hooked(torch.cat([pair[1] for pair in pairs]))
        loss = self.gap(real, own)
        for of_real, of_own in zip(maps_real[:-1], maps_own[:-1], strict=True):
            loss = loss + 100 * self.gap(attention(of_real), attention(of_own))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def gap(self, real: Tensor, own: Tensor) -> Tensor:
        """Squared gap of the class means of (N, D) and (n, D)."""
        mean_real = real.view(self.classes, -1, real.shape[1]).mean(1)
        return (mean_real - own.view(self.classes, -1, own.shape[1]).mean(1)).square().sum()


class PlainCAFE(PlainLoop):
    """CAFE with one network: two image steps, an epoch of training in between, accuracies of all three.

    Real images pass class after class and without a graph: in one batch with one, as the authors have it,
    they would take the memory of a whole machine.
    """

    def __init__(self, data: Dataset, ipc: int) -> None:
        super().__init__(data, ipc)
        self.synthetic = torch.randn_like(self.synthetic).requires_grad_()
        self.optimizer = torch.optim.SGD([self.synthetic], lr=0.1, momentum=0.5)
        self.targets = torch.arange(self.classes, device=self.device).repeat_interleave(ipc)

    def step(self) -> None:
        """What one network is used for."""
        hooked = Hooked(self.fresh())
        optimizer = torch.optim.SGD(hooked.net.parameters(), lr=0.01)
        accuracies = []
        for image_step in range(2):
            if image_step > 0:
                self.train(hooked.net, optimizer)
                accuracies.append(self.query(hooked.net))
            self.align(hooked)
            accuracies.append(self.query(hooked.net))

    def align(self, hooked: Hooked) -> None:
        """One image step."""
        means: list[list[Tensor]] = []
        embeddings, entropy = [], torch.zeros((), device=self.device)
        for c in range(self.classes):
            with torch.no_grad():
                maps, embedding, logits = hooked(self.images[self.draw(c, self.batch_real)])
            means.append([view.mean(0) for view in (*maps, embedding)])
            embeddings.append(embedding)
            labels = torch.full((len(logits),), c, device=self.device)
            entropy += F.cross_entropy(logits, labels) / self.classes
        maps, embedding, _ = hooked(self.synthetic)
        loss = entropy
        for k, (view, weight) in enumerate(zip((*maps, embedding), (0.1, 0.1, 1.0, 2.0), strict=True)):
            own = view.view(self.classes, self.ipc, *view.shape[1:]).mean(1)
            loss = loss + weight * (torch.stack([mean[k] for mean in means]) - own).square().sum()
        centres = embedding.view(self.classes, self.ipc, -1).mean(1)
        labels = torch.arange(self.classes, device=self.device).repeat_interleave(self.batch_real)
        scores = torch.cat(embeddings) @ centres.T
        loss = loss + 0.01 * F.cross_entropy(scores, labels, reduction="sum")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def train(self, net: Network, optimizer: torch.optim.Optimizer) -> None:
        """One epoch on the synthetic images."""
        for rows in torch.randperm(len(self.synthetic), device=self.device).split(256):
            optimizer.zero_grad()
            F.cross_entropy(net(self.synthetic.detach()[rows]), self.targets[rows]).backward()
            optimizer.step()

    @torch.no_grad()
    def query(self, net: Network) -> float:
        """Mean accuracy over classes on fresh real images."""
        right = 0.0
        for c in range(self.classes):
            right += float((net(self.images[self.draw(c, 128)]).argmax(1) == c).float().mean())
        return right / self.classes


def attention(maps: Tensor) -> Tensor:
    """Normalised sum of absolute channels (N, positions)."""
    return F.normalize(maps.abs().sum(1).flatten(1), dim=1)


LOOPS = {
    "cafe": Loop(
        lambda data, ipc: PlainCAFE(data, ipc).step, settings={"max_image_steps": 2, "max_epochs": 1}
    ),
    "datadam": Loop(lambda data, ipc: PlainDataDAM(data, ipc).step),
}
