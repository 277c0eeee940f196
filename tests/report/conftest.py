"""Records made up for the tests; nothing is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
from trials import put_record

from harness.core.clock import Cost
from harness.engine.records import Provenance, Record, Trial

CPU = "Some CPU @ 2.0 GHz"


class MakeRecord(Protocol):
    """Type of the `make_record` fixture."""

    def __call__(self, method: str = ..., ipc: int = ..., seed: int = ..., **changes: Any) -> Record:
        """A record whose trial or own fields are changed by name."""


def _cost(seconds: float) -> Cost:
    return Cost(
        seconds=seconds,
        warmup_seconds=0.5,
        steps=100,
        flops=1.234e12,
        images_forwarded=256_000,
        peak_host_bytes=512 * 2**20,
        peak_device_bytes=None,
    )


def _provenance() -> Provenance:
    """Provenance of a CPU run with one thread."""
    facts: dict[str, Any] = {
        "started_at": "2025-01-01T00:00:00+00:00",
        "finished_at": "2025-01-01T00:01:00+00:00",
        "resumed": 0,
        "device": "cpu",
        "cpu": CPU,
        "threads": 1,
        "python": "3.11.2",
        "torch": "2.9.0",
        "torchvision": "0.24.0",
        "harness": "0.1.0",
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "code_digest": "abcdef012345",
    }
    return Provenance(**facts)


def _record(method: str = "dm", ipc: int = 1, seed: int = 0, **changes: Any) -> Record:
    trial: dict[str, Any] = {
        "method": method,
        "dataset": "mnist",
        "dataset_source": "mnist",
        "ipc": ipc,
        "seed": seed,
        "scale": "cpu",
        "arch": "ConvNetW32",
        "protocol": "dc-cpu",
        "protocol_version": "1.0",
        "evals": 3,
        "config": {"lr_img": 1.0},
        "settings_source": "published: mnist ipc 1; cpu scale",
    }
    outcome: dict[str, Any] = {
        "status": "done",
        "accuracies": [0.80, 0.82, 0.81],
        "distill": _cost(12.0),
        "evaluate": _cost(3.5),
        "stored_images": 10 * ipc,
        "stored_bytes": 31_360 * ipc,
        "decoded_images": 10 * ipc,
        "provenance": _provenance(),
    }
    trial |= {name: changes[name] for name in changes if name in Trial.__struct_fields__}
    outcome |= {name: changes[name] for name in changes if name not in Trial.__struct_fields__}
    if outcome["status"] != "done":
        outcome = {name: outcome[name] for name in ("status", "reason") if name in outcome}
    made = Trial(**trial)
    return Record(id=made.id, trial=made, **outcome)


@pytest.fixture
def make_record() -> MakeRecord:
    """Make a record of a trial on mnist at the cpu scale, changed by name."""
    return _record


@pytest.fixture
def write_records(tmp_path: Path) -> Any:
    """Write records under a fresh results folder and return that."""

    def write(*records: Record) -> Path:
        results = tmp_path / "results"
        results.mkdir(exist_ok=True)
        for record in records:
            put_record(record, results)
        return results

    return write
