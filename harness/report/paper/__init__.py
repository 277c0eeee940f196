"""`python -m harness paper`: the BACON paper's tables, ours beside the printed figures, and what is missing.

The tables are made from records and `report/data/reported.csv` alone, without torch. What would fill the
empty cells (`commands`, `hours`) asks the methods for their settings, and so imports it, as `plan` does.
"""

from __future__ import annotations

from harness.report.paper.publish import Request, command

__all__ = ["Request", "command"]
