"""Earlier code: the commit that the speed gate compares with, laid out in a temporary git worktree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.core.errors import UserError

REFERENCE = Path("tests") / "perf" / "REFERENCE"


class NoHistoryError(UserError):
    """The checkout has no such commit, or no history at all."""


@dataclass(frozen=True)
class Reference:
    """The commit whose speed counts, and why it is this one."""

    commit: str
    reason: str


def read_reference(root: Path) -> Reference:
    """What the committed file says: a line `COMMIT REASON` below comments; UserError for anything else."""
    path = root / REFERENCE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    said = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    commit, _, reason = said[0].partition(" ") if len(said) == 1 else ("", "", "")
    if not reason.strip():
        raise UserError(f"{path} must hold one line, a commit and the reason why speed is compared with it")
    return Reference(commit, reason.strip())


def find_commit(root: Path, revision: str) -> str:
    """The full hash of a revision of the checkout `root`; NoHistoryError says why there is none."""
    if not (root / ".git").exists():
        raise NoHistoryError(f"{root} is no git checkout")
    try:
        found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except OSError as error:
        raise NoHistoryError(f"git cannot be started ({error.strerror})") from None
    if found.returncode != 0:
        shallow = _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
        unknown = f"this {'shallow ' if shallow else ''}checkout has no commit {revision!r}"
        raise NoHistoryError(found.stderr.strip() or unknown)
    return found.stdout.strip()


@contextmanager
def laid_out(root: Path, commit: str) -> Iterator[Path]:
    """A folder with the files of that commit, gone afterwards, also after Ctrl-C or SIGTERM."""
    with _ending_on_sigterm(), tempfile.TemporaryDirectory(prefix="harness-perf-") as folder:
        tree = Path(folder).resolve() / "tree"
        try:
            added = _git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            if added.returncode != 0:
                raise UserError(f"git could not lay out {commit}: {added.stderr.strip()}")
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", "--force", str(tree))


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Within a hook, git's variables name a repository and an index that need not be those of `root`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with _uninterrupted():  # half a worktree could not be removed again
        return subprocess.run(
            ["git", "-C", str(root), "-c", f"core.hooksPath={os.devnull}", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
        )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put signals to end off, for this process and those that it starts, until the block is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
