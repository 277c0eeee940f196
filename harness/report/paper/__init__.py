"""The BACON paper's tables: what is printed, what is measured here, and the commands for what is missing."""
