"""Trials on the embedded digits that take a second or so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.core.clock import Cost
from harness.engine.protocol import PROTOCOL_VERSION
from harness.engine.record_files import (
    existing_record,
    find_set,
    record_bytes,
    write_atomically,
    write_distillation,
    write_record,
)
from harness.engine.records import DistillationRecord, FirstRecord, Provenance, Record, Trial

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


def cost_of(flops: float | None = 1.0, seconds: float = 1.0) -> Cost:
    """A made-up cost, of one step on a CPU."""
    return Cost(
        seconds=seconds,
        warmup_seconds=0.0,
        steps=1,
        flops=flops,
        images_forwarded=1,
        peak_host_bytes=None,
        peak_device_bytes=None,
    )


def in_seeds(make: Any, method: str, gains: Sequence[float], ipc: int = 10, **changes: Any) -> list[Record]:
    """Made-up records of a method in up to three seeds, which differ far more than methods do."""
    return [
        make(method, ipc, seed, accuracies=[mean + gain - 0.01, mean + gain + 0.01], **changes)
        for seed, (mean, gain) in enumerate(zip((0.30, 0.40, 0.50), gains, strict=False))
    ]


def put_record(record: Record, results: Path) -> Record:
    """Write a made-up record as a trial would, that of its set too if it is done; returns what is read."""
    trial = record.trial
    if record.status == "done":
        digest = record.images_digest or "0" * 64
        record = msgspec.structs.replace(record, images_digest=digest, set_place=trial.distillation.place)
        if find_set(trial.distillation, results) is None:
            write_distillation(made_up_set(record), results)
    write_record(record, results)
    written = existing_record(trial, results)
    assert written is not None
    return written


def put_first(record: Record, results: Path) -> Record:
    """Write a made-up record as schema 1 has it; returns what is read."""
    held = {name: getattr(record, name) for name in FirstRecord.__struct_fields__}
    path = results / f"{record.trial.first_place}.json"
    write_atomically(path, record_bytes(FirstRecord(**(held | {"schema": 1}))))
    written = existing_record(record.trial, results)
    assert written is not None
    return written


def made_up_set(record: Record) -> DistillationRecord:
    """The record of the set that a made-up record speaks of."""
    made = record.trial.distillation
    return DistillationRecord(
        id=made.id,
        distillation=made,
        cost=record.distill,
        stored_images=record.stored_images or 10,
        stored_bytes=record.stored_bytes or 0,
        decoded_images=record.decoded_images or 10,
        factor=record.factor or 1,
        label_kind=record.label_kind or "hard",
        augmentation="",
        images_digest=record.images_digest or "0" * 64,
        dataset_fingerprint=record.dataset_fingerprint or "",
        curve=record.curve,
        judged_for=record.trial.id if record.curve else "",
        provenance=record.distilled_in or record.provenance,
    )
