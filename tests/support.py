"""What tests of several packages need: golden vectors and networks that carry their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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


def golden_network(arrays: Mapping[str, np.ndarray], prefix: str, names: str, arch: str) -> Network:
    """A network whose weights are the golden arrays `<prefix>00`, `<prefix>01`, ... named by `names`."""
    state = {str(name): tensor(arrays[f"{prefix}{k:02d}"]) for k, name in enumerate(arrays[names])}
    width, channels = arrays[f"{prefix}00"].shape[:2]
    classes, features = list(state.values())[-2].shape
    depth = sum(value.ndim == 4 for value in state.values())
    side = round((features / width) ** 0.5) * 2**depth
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
