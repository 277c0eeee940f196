"""What tests of several packages need: golden vectors and networks that carry their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.core.nets import Network, build
from harness.engine.record_files import existing_record
from harness.engine.records import Record, Trial

GOLDEN = Path(__file__).parent / "golden"


def golden(item: str) -> dict[str, np.ndarray]:
    """All arrays of one golden file."""
    with np.load(GOLDEN / f"{item}.npz") as file:
        return {name: file[name] for name in file.files}


def tensor(array: np.ndarray) -> Tensor:
    """A golden array as a tensor."""
    return torch.from_numpy(np.array(array))


def assert_close(got: Tensor, reference: np.ndarray, relative: float = 2e-5) -> None:
    """Largest deviation within `relative` of the reference's largest element."""
    want = tensor(reference)
    assert got.shape == want.shape
    deviation = float((got.detach() - want).abs().max())
    assert deviation <= relative * float(want.abs().max()), f"off by {deviation}"


def uniforms(length: int, k: int, salt: int) -> np.ndarray:
    """The golden README's integer hash of 0..length-1, as float64 in [0, 1)."""
    h = np.arange(length, dtype=np.uint32) * np.uint32(2654435761)
    h += np.uint32((k * 40503 + salt * 977 + 12345) % 2**32)
    for shift, factor in ((16, 2246822507), (13, 3266489909)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return h / 2.0**32


def hashed(name: str, shape: tuple[int, ...], k: int, salt: int) -> Tensor:
    """Parameter number k of that name and shape by the golden README's hash."""
    u = uniforms(int(np.prod(shape)), k, salt).reshape(shape)
    if len(shape) > 1:
        values = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
    else:
        values = 0.75 + 0.5 * u if name.endswith("weight") else 0.2 * (u - 0.5)
    return torch.from_numpy(values.astype(np.float32))


@torch.no_grad()
def load_hashed(net: nn.Module, salt: int, *left_out: str) -> None:
    """Give a network the hashed weights of that salt, by registration order, but for parameters left out."""
    named = [(name, value) for name, value in net.named_parameters() if name not in left_out]
    for k, (name, value) in enumerate(named):
        value.copy_(hashed(name, tuple(value.shape), k, salt))


@dataclass(frozen=True)
class GoldenConvNet:
    """A ConvNet with golden weights, whatever the authors' names and order of them.

    parameters, buffers: in the file's order. conv_biases: whether each parameter is a convolution's bias.
    """

    net: Network
    parameters: list[Tensor]
    buffers: list[Tensor]
    conv_biases: list[bool]


def golden_convnet(arrays: Mapping[str, np.ndarray], prefix: str = "") -> GoldenConvNet:
    """The ConvNet of the arrays `<prefix>w00`, ... `<prefix>b00`, ...; with buffers it has batch norm.

    Layers are told by the number of dimensions of their weights, and matched with ours in order.
    """
    names = [str(name) for name in arrays[f"{prefix}wnames"]]
    weights = {name: tensor(arrays[f"{prefix}w{k:02d}"]) for k, name in enumerate(names)}
    buffers = [str(name) for name in arrays.get(f"{prefix}bnames", ())]
    weights |= {name: tensor(arrays[f"{prefix}b{k:02d}"]) for k, name in enumerate(buffers)}
    stems = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    of_kind = {ndim: [stem for stem in stems if weights[f"{stem}.weight"].ndim == ndim] for ndim in (4, 1, 2)}
    first, last = weights[f"{of_kind[4][0]}.weight"], weights[f"{of_kind[2][0]}.weight"]
    images = next(arrays[name] for name in ("x", "images", "x_syn") if name in arrays)
    net = build(
        f"ConvNetW{len(first)}D{len(of_kind[4])}{'BN' if buffers else ''}",
        channels=first.shape[1],
        image_size=(images.shape[2], images.shape[3]),
        classes=len(last),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    ours = [module for module in net.modules() if getattr(module, "weight", None) is not None]
    of_stem = {
        stem: module
        for ndim, stems in of_kind.items()
        for stem, module in zip(stems, (m for m in ours if m.weight.ndim == ndim), strict=True)
    }
    found = {name: getattr(of_stem[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in weights}
    with torch.no_grad():
        for name, value in weights.items():
            found[name].copy_(value)
    return GoldenConvNet(
        net,
        [found[name] for name in names],
        [found[name] for name in buffers],
        [name.endswith(".bias") and name.rpartition(".")[0] in of_kind[4] for name in names],
    )


def golden_network(arrays: Mapping[str, np.ndarray], prefix: str, names: str, arch: str) -> Network:
    """A network whose weights are the golden arrays `<prefix>00`, `<prefix>01`, ... named by `names`."""
    state = {str(name): tensor(arrays[f"{prefix}{k:02d}"]) for k, name in enumerate(arrays[names])}
    width, channels = arrays[f"{prefix}00"].shape[:2]
    classes, features = list(state.values())[-2].shape
    depth = sum(value.ndim == 4 for value in state.values())
    side = round((features / width) ** 0.5) * 2**depth - (4 if channels == 1 else 0)
    net = build(
        f"{arch}W{width}D{depth}",
        channels=channels,
        image_size=(side, side),
        classes=classes,
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    net.load_state_dict(state, strict=False)
    return net


def recorded(trial: Trial, results: Path) -> Record:
    """The record of a trial, which must be there."""
    record = existing_record(trial, results)
    assert record is not None, trial.label
    return record
