"""Label regimes: what networks that are trained on a set are told of an image's class, and by whom."""

from __future__ import annotations

from typing import Literal, get_args

Regime = Literal["hard", "stored", "teacher"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
