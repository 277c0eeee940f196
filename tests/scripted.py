"""A dataset and a context whose draws and networks come from golden files, for the authors' traces."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from support import tensor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.core.context import Context
from harness.core.data import ClassBatch, Normalization


class ScriptedData:
    """The golden images as a dataset whose draws are given in advance."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        images = tensor(arrays["images"])
        self.labels = tensor(arrays["labels"]).long()
        self.num_classes = int(self.labels.max()) + 1
        self.class_names = tuple(f"class{c}" for c in range(self.num_classes))
        self.shape = tuple(images.shape[1:])
        plain = [0.0] * self.shape[0], [1.0] * self.shape[0]
        self.transform = Normalization.of(arrays.get("mean", plain[0]), arrays.get("std", plain[1]))
        self._images = self.transform(images) if "mean" in arrays else images
        self.device, self.name = torch.device("cpu"), "golden"
        initial = deque(tensor(tile).flatten() for tile in _tiles(arrays))
        real = deque(tensor(rows) for rows in arrays["real_idx"])

        def draw(per_class: int, generator: object) -> ClassBatch:
            rows = real.popleft()
            return ClassBatch(rows.flatten(), (rows.shape[1],) * len(rows))

        self.index = SimpleNamespace(balanced=lambda ipc, generator: initial.popleft(), draw=draw)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        return self._images[indices]

    def to(self, device: object) -> ScriptedData:
        return self


def _tiles(arrays: dict[str, Any]) -> list[Any]:
    """Real images (C, ipc) of each tile of the initial images, in our order of tiles: column by column."""
    init = arrays["init_idx"]
    if init.ndim == 3:
        return [init[:, k] for k in range(init.shape[1])]
    if "factor" not in arrays:
        return [init]
    ipc, factor = int(arrays["ipc"]), int(arrays["factor"])
    row_by_row = [init[:, k * ipc : (k + 1) * ipc] for k in range(factor**2)]
    return [row_by_row[row * factor + column] for column in range(factor) for row in range(factor)]


class GivenExperts:
    """Pretrained networks, given by number and epoch, in place of trained ones."""

    def __init__(self, networks: Mapping[tuple[int, int], nn.Module]) -> None:
        self._networks = networks

    def __len__(self) -> int:
        return len({k for k, _ in self._networks})

    def load_into(self, net: nn.Module, expert: int, epoch: int) -> None:
        net.load_state_dict(self._networks[expert, epoch].state_dict())


class ScriptedGenerator(torch.Generator):
    """A generator that gives, within `ScriptedDraws`, what it is told to."""

    draws: Iterator[Tensor]

    def __new__(cls, draws: Iterable[Tensor]) -> ScriptedGenerator:
        made = super().__new__(cls)
        made.draws = iter(draws)
        return made


class ScriptedDraws(TorchFunctionMode):
    """Whatever torch is to draw by a scripted generator is the next of its draws."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        generator = (named or {}).get("generator")
        if isinstance(generator, ScriptedGenerator):
            return next(generator.draws)
        return function(*arguments, **(named or {}))


class ScriptedContext(Context):
    """A context whose fresh networks are the golden ones, in order, and draws by role those of the script.

    redrawn: what a network is whose weights are drawn anew, in order; without them it stays as it is.
    """

    def __init__(
        self,
        networks: list[Any],
        draws: Mapping[str, Iterable[Tensor]] | None = None,
        redrawn: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.waiting = deque(networks)
        self.redrawn = deque(net.state_dict() for net in redrawn)
        self.scripts = {role: ScriptedGenerator(given) for role, given in (draws or {}).items()}
        self.states: list[dict[str, Tensor]] = []

    def network(self, data: object, role: str = "net") -> Any:
        return self.waiting.popleft()

    def redraw(self, net: nn.Module, role: str = "net") -> None:
        if self.redrawn:
            net.load_state_dict(self.redrawn.popleft())

    def generator(self, role: str, *, on_cpu: bool = False) -> torch.Generator:
        return self.scripts.get(role) or super().generator(role, on_cpu=on_cpu)

    def steps(self, total: int, state: Any, **named: Any) -> Iterator[int]:
        """The steps, with copies of the state's tensors before each in `states`."""
        for step in super().steps(total, state, **named):
            tensors = {name: part for name, part in state.items() if isinstance(part, Tensor)}
            self.states.append({name: part.detach().clone() for name, part in tensors.items()})
            yield step
