"""Facts about this machine's processor, as Linux tells them; elsewhere most are unknown."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # of the first core


def model() -> str | None:
    """What the processor calls itself."""
    return _fact("model name") or platform.processor() or None


def multiplies_bf16() -> bool | None:
    """Whether there are instructions for products of bfloat16; None where that cannot be told."""
    flags = _fact("flags")
    return None if flags is None else not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.split())


def second_cache_bytes() -> int | None:
    """Size of the first core's second cache, the largest that it has to itself; None if that is unknown."""
    try:
        for cache in sorted(CACHES.glob("index*")):
            if (cache / "level").read_text(encoding="utf-8").strip() == "2":
                return int((cache / "size").read_text(encoding="utf-8").strip().removesuffix("K")) * 2**10
    except (OSError, ValueError):
        pass
    return None


def kind() -> str:
    """Digest of the name and the instructions: what is compiled for one processor runs on all of its kind."""
    named = ("model name", "flags", "CPU part", "Features")  # the latter two are those of ARM
    described = [platform.machine(), platform.processor(), *(_fact(name) or "" for name in named)]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]


def _fact(name: str) -> str | None:
    """What Linux says of the first core under `name`."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
