"""Running many trials: inline in this process, or locally with a fresh process for each.

Launchers know nothing of distillation; they start trials, watch them and keep what they left behind.
"""

from __future__ import annotations

from harness.launch.base import LaunchOptions, Summary
from harness.launch.driver import launch

__all__ = ["LaunchOptions", "Summary", "launch"]
