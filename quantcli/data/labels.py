"""The classes of the samples: one index for each, from an array of an npz file, checked as strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli.data import npz
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from quantcli.data.spec import Labels


def read_labels(labels: Labels, folder: Path, count: int) -> tuple[int, ...]:
    """Return the class index of each of ``count`` samples, before any is selected.

    Raises:
        DatasetError: The array is missing, holds no class indices, or not one for each sample.
    """
    path = folder / labels.file
    with npz.opened(path) as archive:
        array = archive.whole(labels.array)
    place = f"{labels.where}: labels ({path}, array {labels.array!r})"
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DatasetError(
            f"{place}: {array.dtype.name} of rank {array.ndim}, expected one integer for each sample",
            hint="Save class indices: np.asarray(labels, dtype=np.int64).",
        )
    if len(array) != count:
        raise DatasetError(
            f"{place}: {len(array)} labels, expected {count}, one for each sample",
            hint="Labels are aligned with all the samples, before `samples` and `seed` select some.",
        )
    if count and int(array.min()) < 0:
        at = int(np.argmin(array))
        raise DatasetError(f"{place}: label {at} is {int(array[at])}, expected 0 or more", hint="Correct the label.")
    return tuple(int(label) for label in array)
