"""Trials on the embedded digits that take a second or so."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.protocol import PROTOCOL_VERSION
from harness.records import Trial

SMALL_TRIAL = Trial(
    method="random",
    dataset="digits",
    dataset_source="digits",
    ipc=1,
    seed=0,
    scale="smoke",
    arch="ConvNetW16",
    protocol="dc-smoke",
    protocol_version=PROTOCOL_VERSION,
    evals=1,
    config={},
)


def digits_trial(**changes: Any) -> Trial:
    """The small trial with some fields changed."""
    return msgspec.structs.replace(SMALL_TRIAL, **changes)


def dm_trial(iterations: int, **changes: Any) -> Trial:
    """A trial of DM whose length is `iterations`."""
    config = {"iterations": iterations, "batch_real": 8, **changes.pop("config", {})}
    return digits_trial(method="dm", config=config, **changes)
