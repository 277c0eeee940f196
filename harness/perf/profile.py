"""Where the time of one step goes: its operators; shares of arithmetic, memory traffic and the host.

Convolutions and products of matrices are arithmetic; other operators (norms, activations, pooling, copies)
wait for memory; what is left of the step's time, Python and the autograd engine included, is the host's. Of a
GPU the operators are its kernels, and the host's is the time in which none runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
from tabulate import tabulate

Kind = Literal["arithmetic", "memory", "host"]

# In the names of operators of torch, and of kernels of cuDNN, cuBLAS and CUTLASS; other names have some of
# their letters as well: bilinear, convert, GammaBeta, ncclComm.
ARITHMETIC = re.compile(
    r"conv(?!ert)|(?<![a-z])(?:add|b|baddb)?mm(?![a-z])|(?<![a-z])linear|matmul|gemm|xmma|cutlass|nvjet"
    r"|wgrad|dgrad|fprop|winograd",
    re.IGNORECASE,
)
# Loops that the compiler made of the operators around a product, whose names they bear; its templates are
# products themselves.
FUSED = re.compile(r"cpp_fused|triton_(?!tem_)")
# Begin names that are no operators: wrappers of compiled code, and nodes of the autograd engine.
WRAPPERS = ("autograd::", "Torch-Compiled", "CompiledF", "TorchDynamo", "ProfilerStep", "AOTDispatcher")
SHOWN = 12
LONGEST = 60


class Operator(msgspec.Struct, frozen=True):
    """An operator or kernel of one step: its calls, and the seconds in it but not in those that it calls."""

    name: str
    calls: int
    seconds: float

    @property
    def kind(self) -> Kind:
        """What it waits for."""
        if self.name.startswith(WRAPPERS):
            return "host"
        arithmetic = ARITHMETIC.search(self.name) and not FUSED.search(self.name)
        return "arithmetic" if arithmetic else "memory"


class StepProfile(msgspec.Struct, frozen=True):
    """One step of a method under the profiler, which makes it slower: its seconds and its operators."""

    method: str
    variant: str
    seconds: float
    operators: tuple[Operator, ...]

    def shares(self) -> dict[Kind, float]:
        """Shares of the step's time, which add up to one."""
        total = max(self.seconds, sum(one.seconds for one in self.operators))
        if total == 0:
            return {"arithmetic": 0.0, "memory": 0.0, "host": 1.0}
        arithmetic, memory = (self._spent(kind) / total for kind in ("arithmetic", "memory"))
        return {"arithmetic": arithmetic, "memory": memory, "host": 1 - arithmetic - memory}

    def _spent(self, kind: str) -> float:
        return sum(one.seconds for one in self.operators if one.kind == kind)


def as_text(found: Sequence[StepProfile]) -> str:
    """A paragraph and a table of the longest operators for each step."""
    return "\n\n".join(map(_one, found))


def _one(found: StepProfile) -> str:
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in found.shares().items())
    longest = sorted(found.operators, key=lambda one: -one.seconds)[:SHOWN]
    rows = [
        (_shortened(one.name), one.kind, one.calls, 1000 * one.seconds, f"{one.seconds / found.seconds:.0%}")
        for one in longest
    ]
    title = f"{found.method}, {found.variant}: a step of {1000 * found.seconds:.3g} ms under the profiler"
    columns = ("operator", "waits for", "calls", "ms", "share")
    return f"{title}: {shares}\n{tabulate(rows, columns, floatfmt='.3g')}"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
