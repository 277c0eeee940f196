"""`.pt` of DC, DSA and DM (VICO-UoE/DatasetCondensation), and of the many repositories that grew out of it.

`torch.save({"data": [[images, labels], ...], "accs_all_exps": {arch: [accuracy, ...]}})`: one pair for each
repetition of the distillation, and the accuracies, in [0, 1], of all networks of all repetitions in a row.
DM, IDM and BACON take one more step between the evaluation and the file, so that these accuracies are those
of the set one step before.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.importers.common import Imported, kind_of, pair
from harness.importers.restricted import load_torch

FIELD_ARCH = "ConvNet"


def read(path: Path, limit: int) -> list[Imported]:
    """The sets in the file, one for each repetition."""
    return from_content(load_torch(path, limit), path, "dc")


def from_content(content: Any, path: Path, importer: str) -> list[Imported]:
    """The sets in what such a file holds: the dict, one bare pair, or a list of pairs."""
    accuracies: Any = None
    if isinstance(content, dict):
        if "data" not in content and not {"images", "labels"} <= content.keys():
            raise UserError(
                f"{path}: expected a dict with 'data' (pairs of images and labels), found {kind_of(content)}"
            )
        accuracies = content.get("accs_all_exps")
        content = content["data"] if "data" in content else [(content["images"], content["labels"])]
    if _is_pair(content):
        content = [content]
    if not isinstance(content, (list, tuple)) or not content:
        raise UserError(f"{path}: expected pairs of images and labels, found {kind_of(content)}")
    pairs = [pair(item, path) for item in content]
    return [
        Imported(importer, images, labels, k, claimed=_claim(accuracies, k, len(pairs)))
        for k, (images, labels) in enumerate(pairs)
    ]


def _is_pair(content: Any) -> bool:
    """Whether this is images and labels, not a list of two such pairs."""
    return (
        isinstance(content, (list, tuple))
        and len(content) == 2
        and all(hasattr(part, "shape") for part in content)
    )


def _claim(accuracies: Any, experiment: int, experiments: int) -> float | None:
    """Mean accuracy in [0, 1] that the file gives for one repetition with the field's network, if it does."""
    values = accuracies.get(FIELD_ARCH) if isinstance(accuracies, dict) else None
    if not isinstance(values, (list, tuple)) or not values or len(values) % experiments:
        return None
    share = len(values) // experiments
    own = [float(value) for value in values[experiment * share : (experiment + 1) * share]]
    mean = statistics.fmean(own)
    return mean if 0 <= mean <= 1 else None
