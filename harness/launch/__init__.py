"""Running many trials: inline in this process, locally with a fresh process for each, or as jobs of Slurm.

Launchers know nothing of distillation; they start trials, watch them and keep what they left behind.
`driver.py` is the course of a launch. Nothing is imported here, so that `status` need not load what draws a
live table.
"""
