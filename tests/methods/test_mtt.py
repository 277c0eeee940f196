"""MTT and TESLA: the authors' own iterations, and what must hold beyond them."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from methods import mtt, tesla, trajectories
from methods.api import Distilled
from methods.trajectories import Match


class GoldenExperts:
    """The golden file's trajectory; notes which snapshots are asked for."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.asked: list[int] = []
        self._snapshots = [
            [tensor(arrays[f"t{epoch}_{k:02d}"]) for k in range(len(arrays["names"]))] for epoch in range(4)
        ]

    def __len__(self) -> int:
        return 1

    def parameters(self, expert: int, epoch: int) -> list[Tensor]:
        self.asked.append(epoch)
        return [value.clone() for value in self._snapshots[epoch]]


def replay(
    method: Any, arrays: dict[str, Any], iterations: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Distilled, list[Match]]:
    """Some iterations of `distill` with the golden trajectory, starts and permutations."""
    permutations = deque(tensor(rows) for rows in arrays["perm"].reshape(-1, arrays["perm"].shape[-1]))
    starts = deque(torch.tensor(value) for start in arrays["start"] for value in (0, int(start)))
    own = torch.randperm, torch.randint
    monkeypatch.setattr(torch, "randperm", lambda n, generator: permutations.popleft())
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: starts.popleft())
    experts = GoldenExperts(arrays)
    monkeypatch.setattr(trajectories, "train_experts", lambda context, data, settings: experts)
    matches: list[Match] = []
    original = mtt.unrolled if method is mtt else tesla.step_by_step

    def spy(*arguments: Any, **named: Any) -> Match:
        matches.append(original(*arguments, **named))
        return matches[-1]

    monkeypatch.setattr(method, original.__name__, spy)
    config = method.Config(
        iterations=iterations,
        lr_img=float(arrays["lr_img"]),
        lr_lr=float(arrays["lr_lr"]),
        alpha0=float(arrays["alpha0"]),
        student_steps=int(arrays["syn_steps"]),
        match_epochs=int(arrays["expert_epochs"]),
        batch_syn=int(arrays["batch_syn"]),
        strategy="",
    )
    context = ScriptedContext([golden_network(arrays, "t0_", "names", "ConvNet")])
    distilled = method.distill(ScriptedData(arrays | {"real_idx": []}), 2, config=config, context=context)
    monkeypatch.setattr(method, original.__name__, original)
    monkeypatch.setattr(torch, "randperm", own[0])
    monkeypatch.setattr(torch, "randint", own[1])
    target = int(arrays["expert_epochs"])
    assert experts.asked == [e for start in arrays["start"][:iterations] for e in (start, start + target)]
    return distilled, matches


@pytest.mark.parametrize(
    ("item", "method"),
    [
        pytest.param("trace_mtt", mtt, marks=pytest.mark.golden("trace_mtt", "mtt")),
        pytest.param("trace_tesla", tesla, marks=pytest.mark.golden("trace_tesla", "tesla")),
    ],
)
def test_the_authors_iterations(item: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden(item)
    for iterations in (1, 2):
        distilled, matches = replay(method, arrays, iterations, monkeypatch)
        assert_close(distilled.images, arrays[f"x{iterations}"])
        assert_close(torch.tensor(distilled.learned_lr), arrays["alpha"][iterations - 1])
    for k, match in enumerate(matches):
        assert_close(match.loss, arrays["loss"][k])
        assert_close(match.by_images, arrays[f"grad{k}"])
        assert_close(match.by_alpha, arrays["alpha_grad"][k])
