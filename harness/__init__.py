"""A benchmark harness and leaderboard for dataset distillation."""

__version__ = "0.1.0"
