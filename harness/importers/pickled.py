"""`.pkl` of IDM (uitrbn/IDM) and BACON (zhouzhengqd/BACON): `pickle.dump` of images and labels.

Read through `restricted`, which runs nothing of it.
"""

from __future__ import annotations

from pathlib import Path

from harness.importers.common import Imported
from harness.importers.condensation import from_content
from harness.importers.restricted import load_pickle


def read(path: Path, limit: int) -> list[Imported]:
    """The sets in the file."""
    return from_content(load_pickle(path, limit), path, "idm")
