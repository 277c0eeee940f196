"""Speed: the gate, which compares with earlier code, and whole steps beside plain loops.

Both measure ratios within one run on one machine; seconds of different machines are never compared. The
benchmarks and the plain loops live in `tests/perf` of a checkout.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.core.errors import UnknownNameError, UserError
from harness.engine import devices
from harness.engine.surroundings import for_training
from harness.perf import profile, steps

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "perf"
STEP_METHODS = ("dm", "bacon")  # of a `perf step` that names none
COMMANDS = ("check", "step")


def command(
    what: str,
    *,
    device: str = devices.AUTO,
    methods: Sequence[str] = (),
    precisions: Sequence[str] = (),
    keep: bool = False,
    profiled: bool = False,
    against: str | None = None,
    cases: Sequence[str] = (),
) -> int:
    """Run `perf check` or `perf step` of some methods; returns the exit status.

    `keep` writes what `perf step` measured among the sheets that come along; `profiled` says instead where
    the time of each step goes. `perf check` compares with the revision `against`, by default the committed
    one, in the cases that match one of the patterns, by default in all.
    """
    if what not in COMMANDS:
        raise UnknownNameError("perf command", what, COMMANDS)
    if not FOLDER.is_dir():
        raise UserError(f"no benchmarks at {FOLDER}; run this in a checkout of the repository")
    _refuse_options(
        {
            "step": {
                "device": device != devices.AUTO,
                "methods": methods,
                "precision": precisions,
                "keep": keep,
                "profile": profiled,
            },
            "check": {"against": against, "cases": cases},
        },
        what,
    )
    if what == "check":
        from harness.perf.gate import check

        return check(ROOT, against, cases)
    if keep and profiled:
        raise UserError("--keep keeps what steps take, --profile shows where it goes; type one of them")
    methods, precisions = methods or STEP_METHODS, precisions or steps.PRECISIONS
    _check_names(methods, precisions)
    chosen = devices.choose(device).name
    if profiled:
        asked = itertools.product(methods, precisions)
        print(profile.as_text([_profile_step(method, precision, chosen) for method, precision in asked]))
    else:
        _measure_steps(methods, precisions, chosen, keep=keep)
    return 0


def _measure_steps(methods: Sequence[str], precisions: Sequence[str], device: str, *, keep: bool) -> None:
    """Print what steps take, and keep it among the sheets that come along."""
    sheet = steps.measure_steps(methods, device, _measure_step, precisions)
    print(steps.as_text(sheet))
    if keep:
        print(f"kept in {steps.keep(sheet, steps.SHEETS)}")


def _refuse_options(given: Mapping[str, Mapping[str, object]], what: str) -> None:
    """Refuse options of the other commands; `given` has each command's, by name, empty if not typed."""
    for other, options in given.items():
        for name, value in options.items():
            if value and other != what:
                raise UserError(f"--{name} goes with `perf {other}`, not with `perf {what}`")


def _check_names(methods: Sequence[str], precisions: Sequence[str]) -> None:
    loops = _loops()
    for method in methods:
        if method not in loops:
            raise UnknownNameError("plain loop", method, loops)
    for precision in precisions:
        if precision not in steps.PRECISIONS:
            raise UnknownNameError("precision", precision, steps.PRECISIONS)


def _loops() -> list[str]:
    """Methods that have a plain loop."""
    return _python(["-c", "from loops import all_loops; print(*all_loops())"]).split()


def _measure_step(method: str, variant: str, device: str, *more: str) -> dict[str, Any]:
    arguments = [method, variant, str(steps.REPEATS), str(steps.THREADS), device, *more]
    # A plain loop has what a process has by itself, ours what a worker gives it.
    environment = os.environ if variant == "plain" else for_training(os.environ)
    output = _python([str(FOLDER / "measure_step.py"), *arguments], environment)
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def _profile_step(method: str, variant: str, device: str) -> profile.StepProfile:
    found = _measure_step(method, variant, device, "profile")
    return msgspec.convert({"method": method, "variant": variant, **found}, profile.StepProfile)


def _python(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    paths = [str(ROOT), str(FOLDER), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=dict(environment) | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"a benchmark failed: {lines[-1] if lines else 'it printed nothing'}")
    return done.stdout
