"""`python -m harness`."""

from __future__ import annotations

import sys

from harness.start import leave_start_folder

if __name__ == "__main__":
    leave_start_folder()
    from harness.cli import main

    sys.exit(main())
