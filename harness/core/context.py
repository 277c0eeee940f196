"""All that a method may lean on: the Context it runs in and the Distilled set it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.core.data import Dataset, HeldOut, default_data_dir, load, parse
from harness.core.loop import Runtime
from harness.core.nets import Network, build, reinitialise


class Context(Runtime):
    """What a method runs in: a Runtime (seed, device, precision, loops) with the dataset and the network.

    The defaults are good enough for a notebook: `bacon.distill("digits", ipc=1)`.

    Args:
        arch: name of the network that distils, see `python -m harness list archs`.
        data_dir: folder of the datasets that are asked for by name.
        cache: folder of trained networks that runs share; None shares nothing.
        runtime: arguments of Runtime (seed, device, precision, budget_flops, work, ...).
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        arch: str = "ConvNet",
        data_dir: Path | None = None,
        cache: Path | None = None,
        **runtime: Any,
    ) -> None:
        super().__init__(seed, **runtime)
        self.arch = arch
        self.data_dir = data_dir or default_data_dir()
        self.cache = cache
        self._runtime = runtime

    def apart(self, seed: int, work: Path | None) -> Context:
        """A context of the same kind with its own seed, generators, loops, checkpoint and cost.

        For work that other runs share: it must not depend on this run's seed nor on its checkpoint. It spends
        no budget of its own; `charge` its cost to this context.
        """
        runtime = self._runtime | {"work": work, "budget_flops": None}
        if not self.rehearsing:
            runtime["stop_after"] = None
        return Context(seed, arch=self.arch, data_dir=self.data_dir, **runtime)

    def dataset(self, dataset: str | Dataset, *, zca: bool = False) -> Dataset:
        """The dataset of that name, `zca` whitened or not, or the given one as it is, on this device."""
        if isinstance(dataset, str):
            dataset = load(parse(dataset, self.data_dir, None, zca), self.data_dir)
        return dataset.to(self.device)

    def network(self, data: Dataset | HeldOut, role: str = "net", *, arch: str | None = None) -> Network:
        """A fresh random network for the data, drawn from the generator of `role`; `arch` if given."""
        channels, height, width = data.shape
        net = build(
            arch or self.arch,
            channels=channels,
            image_size=(height, width),
            classes=data.num_classes,
            generator=self.generator(role),
            device=self.device,
        )
        # Convolutions take the layout of their weights. In plain code a CPU's group norm is ten times as slow
        # channels last; compiled code chooses for itself.
        return net if self.device.type == "cpu" else net.to(memory_format=torch.channels_last)

    def redraw(self, net: nn.Module, role: str = "net") -> None:
        """Draw the weights of a network anew, from the generator of `role`."""
        reinitialise(net, self.generator(role))
