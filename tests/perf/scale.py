"""Planning, `status` and `report` on many records: made-up records of a real plan, and how long each takes.

    python tests/perf/scale.py [--records 10000] [--repeats 3]

makes the records in a temporary folder, runs each command in processes of its own and prints the median
seconds. Nothing is trained.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from trials import made_up_set

import methods
from harness.core.clock import Cost
from harness.core.text import table
from harness.engine.options import Options
from harness.engine.plan import Plan, make_plan
from harness.engine.provenance import Code
from harness.engine.record_files import record_bytes
from harness.engine.records import DistillationRecord, EvaluationRecord, Provenance, Record, Status, Trial
from harness.engine.scales import SCALES

ROOT = Path(__file__).resolve().parents[2]
IPC = (1, 2, 5, 10, 20, 30, 50, 100)
OTHERS = ("fashionmnist", "cifar10")  # datasets of records that the plan does not ask for
PLANNED = 0.8  # share of the records that are of the plan's own trials
HARDWARE = (("cpu", "AMD EPYC"), ("cpu", "Intel(R) Xeon(R) Processor"), ("NVIDIA H100", None))
# Status -> share of the records.
STATUSES: dict[Status, float] = {"done": 0.96, "failed": 0.02, "timeout": 0.01, "oom": 0.01}


def generate(folder: Path, records: int) -> tuple[Options, Plan]:
    """Write that many records to `folder`/results; options with which about as many trials are planned.

    Most records are of trials of this plan, which is of all methods on the embedded digits; the others are of
    the same trials on other datasets.
    """
    names = (*(name for name in methods.discover() if "@" not in name), "dm+bacon")
    seeds = math.ceil(records / (len(names) * len(IPC)))
    options = Options(
        methods=names,
        ipc=IPC,
        dataset=("digits",),
        scale="cpu",
        protocol=(SCALES["cpu"].protocol,),
        seeds=tuple(range(seeds)),
        results=folder / "results",
    )
    plan = make_plan(options)
    here = Code.here()
    numbers = random.Random(0)
    for trial in itertools.islice(_trials(plan, round(PLANNED * records)), records):
        write(made_up(trial, here.digest(trial, "evaluate") or "", numbers), options.results)
    return options, plan


def made_up(trial: Trial, code_digest: str, numbers: random.Random) -> Record:
    """A record of the trial with plausible figures, most often done."""
    (status,) = numbers.choices(list(STATUSES), list(STATUSES.values()))
    provenance = _provenance(code_digest, numbers)
    if status != "done":
        reason = f"ended after {numbers.uniform(1, 900):.1f} s"
        return Record(id=trial.id, status=status, reason=reason, trial=trial, provenance=provenance)
    return Record(
        id=trial.id,
        status=status,
        trial=trial,
        set_place=trial.distillation.place,
        accuracies=[numbers.uniform(0.2, 0.9) for _ in range(trial.evals)],
        train_losses=[numbers.uniform(0.01, 0.5) for _ in range(trial.evals)],
        test_looks=1,
        distill=_cost(trial.config.get("iterations", 100), numbers),
        evaluate=_cost(453, numbers),
        stored_images=10 * trial.ipc,
        stored_bytes=2640 * trial.ipc,
        decoded_images=10 * trial.ipc,
        images_digest=f"{numbers.getrandbits(256):064x}",
        dataset_fingerprint="bf76ec0be0393266",
        test_fingerprint="114c5b584083d83b",
        provenance=provenance,
    )


def write(record: Record, results: Path) -> None:
    """Like `write_record`, without waiting for the disk, and with an empty file for the distilled set."""
    made = record.trial.distillation
    files: dict[Path, EvaluationRecord | DistillationRecord] = {
        record.trial.record_path(results): EvaluationRecord.of(record)
    }
    if record.status == "done":
        files[made.record_path(results)] = made_up_set(record)
        made.set_path(results).parent.mkdir(parents=True, exist_ok=True)
        made.set_path(results).touch()
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record_bytes(content))


def commands(options: Options) -> dict[str, list[str]]:
    """What is typed after `python -m harness`, by the name of the command."""
    results = ["--results", str(options.results)]
    wishes = {
        "--methods": ",".join(options.methods),
        "--ipc": ",".join(map(str, options.ipc)),
        "--dataset": ",".join(options.dataset),
        "--seeds": str(len(options.seeds or ())),
        "--scale": options.scale,
        "--protocol": ",".join(options.protocol),
    }
    page = options.results.parent / "BENCHMARKS.md"
    return {
        "plan": ["plan", *itertools.chain(*wishes.items()), *results, "--no-estimate", "--json"],
        "status": ["status", *results],
        "report": ["report", *results, "--benchmarks", str(page)],
    }


def seconds_of(command: list[str]) -> float:
    """Wall time of `python -m harness` with these arguments, from the start of its process to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description="Seconds of plan, status and report on many records.")
    parser.add_argument("--records", type=int, default=10_000, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="processes for each command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options, plan = generate(Path(folder), arguments.records)
        print(f"{arguments.records:,} records, a plan of {len(plan.trials):,} trials", file=sys.stderr)
        rows = []
        for name, command in commands(options).items():
            seconds = [seconds_of(command) for _ in range(arguments.repeats)]
            each = ", ".join(f"{one:.2f}" for one in seconds)
            rows.append([name, f"{statistics.median(seconds):.2f}", each])
    print(table(["command", "median, s", "each, s"], rows))


def _trials(plan: Plan, planned: int) -> Iterator[Trial]:
    """Trials of the plan, seed after seed, then the same on other datasets."""
    trials = sorted(plan.trials, key=lambda trial: trial.seed)
    yield from trials[:planned]
    for trial in trials:
        for name in OTHERS:
            yield msgspec.structs.replace(trial, dataset=name, dataset_source=name)


def _cost(steps: int, numbers: random.Random) -> Cost:
    return Cost(
        seconds=numbers.uniform(1, 900),
        warmup_seconds=numbers.uniform(0.05, 1),
        steps=steps,
        flops=steps * numbers.uniform(1e8, 1e10),
        images_forwarded=steps * numbers.randrange(100, 1000),
        peak_host_bytes=numbers.randrange(2**29, 2**31),
        peak_device_bytes=None,
    )


def _provenance(code_digest: str, numbers: random.Random) -> Provenance:
    device, cpu = numbers.choice(HARDWARE)
    return Provenance(
        started_at="2026-11-22T22:36:14+00:00",
        finished_at=f"2026-11-22T22:{numbers.randrange(40, 60)}:30+00:00",
        resumed=numbers.randrange(2),
        device=device,
        cpu=cpu,
        threads=1,
        python="3.11.7",
        torch="2.9.1",
        torchvision="0.24.1",
        harness="0.1.0",
        git_commit="4acaf831d4eeebb3c9e8bac7ca5521ace7a84297",
        git_dirty=False,
        code_digest=code_digest,
    )


if __name__ == "__main__":
    main()
