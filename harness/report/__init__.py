"""From records to what people read: a pandas frame, Markdown tables, BENCHMARKS.md and pictures.

Nothing here imports torch, and pandas, numpy and PIL are imported only by the functions that need them, so
that `python -m harness report` answers at once.
"""
