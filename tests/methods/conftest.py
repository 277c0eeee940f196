"""What several tests of methods watch."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from methods.shared.matching import ClassMatcher


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Losses (C,) and image gradients of every iteration of a loop of distribution matching."""
    seen: list[tuple[Tensor, Tensor]] = []
    descend = ClassMatcher.descend

    def spy(self: ClassMatcher, net: Any, images: Tensor, *rest: Any) -> Tensor:
        losses = descend(self, net, images, *rest)
        assert images.grad is not None
        seen.append((losses, images.grad.clone()))
        return losses

    monkeypatch.setattr(ClassMatcher, "descend", spy)
    return seen
