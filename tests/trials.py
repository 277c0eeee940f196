"""Trials on the embedded digits that take a second or so."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.engine.protocol import PROTOCOL_VERSION
from harness.engine.records import Provenance, Trial

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


def made_by(code: str, commit: str | None = None, dirty: bool | None = None) -> Provenance:
    """Provenance of a record made by code of that digest, in that checkout."""
    return Provenance(
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
        resumed=0,
        device="cpu",
        cpu=None,
        threads=1,
        python="3.11",
        torch="2.9",
        torchvision="0.24",
        harness="0.1",
        git_commit=commit,
        git_dirty=dirty,
        code_digest=code,
    )
