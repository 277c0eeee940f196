"""Named seeds: every source of randomness has its own, so adding one moves no other."""

from __future__ import annotations

import hashlib


def seed_for(base: int, role: str, repeat: int = 0) -> int:
    """Seed in [0, 2**63) for one role ("net", "real", "eval-init", ...) of the run with seed `base`."""
    digest = hashlib.sha256(f"{base}/{role}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
