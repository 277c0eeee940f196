"""Where the program begins, with its own code, whatever else is called `harness` where it is started.

python -m harness ...                        the command line
dd-harness ...                               the same, installed
python .../harness/__main__.py -m MODULE ... what workers and jobs begin with: `python -m MODULE ...` with the
                                             code that this file lies in, and without the current folder
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> int:
    """Run the command line."""
    claim()
    from harness.commands.cli import main

    return main()


def run_module(arguments: list[str]) -> None:
    """Run a module as `python -m` does; `arguments` are its name and what it gets."""
    claim()
    import runpy

    sys.argv[1:] = arguments[1:]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def claim() -> None:
    """Import `harness` from where this file lies and let it see to the rest."""
    sys.path.insert(0, ROOT)
    import harness  # noqa: F401 - now, so that it is this one whatever else the path leads to

    sys.path.remove(ROOT)
    if __name__ == "__main__":
        leave_start_folder()
    from harness.core import imports

    imports.claim()


def leave_start_folder() -> None:
    """Take off the path what `python -m` and `python FILE` put first: the current folder or the file's.

    Nothing of ours is found by way of it; a user's `random.py` or `torch/` there would be.
    """
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]


def start() -> int:
    """What this file does when it is run."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["-u"]:
        del arguments[0]  # submitit's word to Python, which has got it already
    if arguments[:1] == ["-m"]:
        run_module(arguments[1:])
        return 0
    return main()


if __name__ == "__main__":
    sys.exit(start())
