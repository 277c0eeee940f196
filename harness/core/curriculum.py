"""Which real images a network is shown in each pass, by their difficulty: the data order of PAD's experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.data import Dataset


@dataclass(frozen=True)
class Curriculum:
    """Shares of each class, sorted from easy to hard.

    Passes are counted from 0. From `init_ratio` of a class, the easiest, the share grows evenly until pass
    `add_end`, which sees everything; after pass `remove_first` the share `remove_ratio_first` of the easiest
    is left out, after pass `remove_second` the share `remove_ratio_second`.
    """

    init_ratio: float
    add_end: int
    remove_first: int
    remove_second: int
    remove_ratio_first: float
    remove_ratio_second: float

    def shown(self, epoch: int, count: int) -> range:
        """Positions, 0 for the easiest, of the images of a class of `count` that pass `epoch` sees."""
        if epoch <= self.add_end and self.add_end > 0:
            share = self.init_ratio + (1 - self.init_ratio) * epoch / self.add_end
            return range(int(min(1.0, share) * count))
        if epoch <= max(self.add_end, self.remove_first):
            return range(count)
        late = epoch > self.remove_second
        ratio = self.remove_ratio_second if late else self.remove_ratio_first
        return range(int(ratio * count), count)


class Syllabus:
    """A curriculum for the images of a dataset: what each pass sees of it.

    difficulty: (N,) of each image; equal ones come in the order of the dataset.
    """

    def __init__(self, curriculum: Curriculum, difficulty: Tensor, data: Dataset) -> None:
        self._curriculum = curriculum
        self._size = len(data)
        easy_first = difficulty.argsort(stable=True)
        classes = data.labels[easy_first]
        self.sorted_classes = [easy_first[classes == c] for c in range(data.num_classes)]

    def shown(self, epoch: int) -> Tensor:
        """Whether pass `epoch` sees each image: (N,) booleans."""
        seen = torch.zeros(self._size, dtype=torch.bool, device=self.sorted_classes[0].device)
        for rows in self.sorted_classes:
            part = self._curriculum.shown(epoch, len(rows))
            seen[rows[part.start : part.stop]] = True
        return seen

    def count(self, epoch: int) -> int:
        """How many images pass `epoch` sees."""
        return sum(len(self._curriculum.shown(epoch, len(rows))) for rows in self.sorted_classes)
