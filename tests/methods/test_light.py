"""A trial imports no more than it needs: it is a process of its own, so that all trials would pay."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import methods
from harness.core.imports import ROOT

# Torch's compiler and what that imports take as long as the whole rest of torch.
HEAVY = ("torch._dynamo", "torch._inductor", "networkx", "scipy", "pandas", "sklearn", "torchvision")
# Their own optimiser is one of torch's, and those import its compiler.
OTHERS_OPTIMIZERS = {"ncfm@sampler"}

TRIALS = """
import dataclasses, json, sys
from harness.commands.conformance import SMALL, CheckedMethod
from harness.core.context import Context
from harness.engine.evaluate import evaluate
from harness.engine.parts import Epochs
from harness.engine.protocol import protocol_named

short = dataclasses.replace(protocol_named("dc-smoke"), length=Epochs(0))
for name in json.loads(sys.argv[1]):
    method = CheckedMethod(name, dataclasses.replace(SMALL, limit_steps=2))
    made = method.run(count=True)
    context = Context(1, arch=SMALL.arch)
    evaluate(made.distilled, method.data, short, evals=1, context=context)
    imported = [module for module in json.loads(sys.argv[2]) if module in sys.modules]
    assert not imported, f"{name} imported {imported}"
"""


@pytest.mark.slow
def test_trials_leave_the_compiler_of_torch_alone() -> None:
    names = [*(name for name in methods.discover() if name not in OTHERS_OPTIMIZERS), "dm+bacon"]
    done = subprocess.run(
        [sys.executable, "-c", TRIALS, json.dumps(names), json.dumps(HEAVY)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
