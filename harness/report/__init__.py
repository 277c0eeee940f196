"""From records to what people read: a pandas frame, Markdown tables, BENCHMARKS.md and pictures.

Nothing here imports torch, and pandas, numpy and PIL are imported only by the functions that need them, so
that `python -m harness report` answers at once.
"""

from __future__ import annotations

from harness.report.benchmarks import benchmarks_markdown
from harness.report.frames import frame
from harness.report.publish import command
from harness.report.tables import summary_markdown

__all__ = ["benchmarks_markdown", "command", "frame", "summary_markdown"]
