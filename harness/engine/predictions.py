"""What each network of an evaluation said about every test image: kept beside the record, read strictly.

Accuracies alone do not tell whether two methods fail on the same images; predictions do, and they make paired
tests of two methods possible (`harness.report.paired`). One file is a compressed `.npz` of four arrays:
`predicted` and `labels` as uint8 or uint16, `probability` as float16, `test_fingerprint` as text. The same
predictions give the same bytes.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.core.files import replacing
from harness.engine.records import Record

ARRAYS = ("predicted", "probability", "labels", "test_fingerprint")
# All that numpy and zipfile were seen to raise on files that are no such archive.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the networks of one evaluation predicted for the test images, in the order of the test split.

    predicted: (networks, tests) classes, uint8 or uint16. probability: (networks, tests) in [0, 1], float16,
    of the predicted class. labels: (tests,) true classes, uint8 or uint16. test_fingerprint: that of the test
    split, as in records. ValueError where the arrays are anything else.
    """

    predicted: Array
    probability: Array
    labels: Array
    test_fingerprint: str

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise ValueError(fault)

    @classmethod
    def of(
        cls,
        predicted: npt.ArrayLike,
        probability: npt.ArrayLike,
        labels: npt.ArrayLike,
        test_fingerprint: str,
    ) -> Predictions:
        """From arrays or lists of any kind, in the smallest types; ValueError where they do not fit."""
        chances = np.asarray(probability, dtype=np.float64).astype(np.float16)
        return cls(_classes(predicted), chances, _classes(labels), test_fingerprint)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(networks, tests): whether the predicted class is the true one."""
        found: npt.NDArray[np.bool_] = self.predicted == self.labels
        return found


def predictions_path(record: Record, results: Path) -> Path:
    """Where the predictions of this record's networks lie under `results`, whether they are there or not."""
    return record.trial.predictions_path(results)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write them compressed, aside and then moved: readers see all of it or none."""
    arrays = {name: np.asarray(getattr(predictions, name)) for name in ARRAYS}
    with replacing(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its only keyword is named otherwise


def read_predictions(path: Path) -> Predictions:
    """Read them strictly; a UserError says in one line why a file does not hold predictions."""
    try:
        with path.open("rb") as file:
            arrays = _arrays(np.load(file, allow_pickle=False))
        text = _text(arrays.pop("test_fingerprint"))
        return Predictions(test_fingerprint=text, **arrays)
    except FileNotFoundError:
        raise UserError(
            f"there are no predictions at {path}; evaluations write them beside records"
        ) from None
    except UNREADABLE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} does not hold predictions of this harness ({said}); move it away or delete it"
        ) from None


def _classes(values: npt.ArrayLike) -> Array:
    """Whole numbers in the smallest unsigned type; as they are, to be refused, if they are something else."""
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or not found.size or found.min() < 0:
        return found
    return found.astype(np.min_scalar_type(found.max()))


def _arrays(archive: Any) -> dict[str, Array]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("a single array instead of an archive of several")
    if sorted(archive.files) != sorted(ARRAYS):
        held = ", ".join(sorted(archive.files)) or "nothing"
        raise ValueError(f"holds {held} instead of {', '.join(sorted(ARRAYS))}")
    return {name: archive[name] for name in ARRAYS}


def _text(array: Array) -> str:
    if array.dtype.kind != "U" or array.ndim:
        raise ValueError(f"test_fingerprint is {_described(array)} instead of a text")
    return str(array)


def _fault(found: Predictions) -> str:
    """What keeps these from being predictions; empty if nothing does."""
    for name, dimensions in (("predicted", 2), ("labels", 1)):
        array = getattr(found, name)
        if array.dtype not in (np.uint8, np.uint16) or array.ndim != dimensions or not array.size:
            return (
                f"{name} is {_described(array)} instead of classes from 0 to 65535 in uint8 or uint16"
                f" with {dimensions} dimension{'s' * (dimensions > 1)}"
            )
    if found.predicted.shape[1:] != found.labels.shape:
        return f"predicted is {_described(found.predicted)}, labels are {_described(found.labels)}"
    if found.probability.dtype != np.float16 or found.probability.shape != found.predicted.shape:
        return f"probability is {_described(found.probability)} instead of float16 of predicted's shape"
    if not bool(np.all((found.probability >= 0) & (found.probability <= 1))):
        return "probability holds numbers outside of [0, 1]"
    return "" if found.test_fingerprint else "test_fingerprint is empty"


def _described(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
