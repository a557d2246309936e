"""Whether a model treats the samples of a batch as independent of each other: found by running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data import batch_size, rows
from quantcli.errors import ModelError

if TYPE_CHECKING:
    from quantcli.data import Feed
    from quantcli.runtime import Array, Session

TOLERANCE: Final = 1e-3  # of the largest value: kernels add in another order when there are more rows


def are_independent(session: Session, feed: Feed) -> bool:
    """Tell whether a model gives for a batch what it gives for its samples, each run alone.

    Where the leading axis is time or anything else that the model mixes, it does not; nor where it refuses a single
    sample, or an output has no such axis.

    Args:
        session: The float model.
        feed: A batch: every array has the same leading axis, longer than 1.
    """
    size = batch_size(feed)
    try:
        together = session.run(feed)
        if any(not array.ndim or len(array) != size for array in together.values()):
            return False
        alone = [session.run(row) for row in rows(feed, size)]
    except ModelError:
        return False
    return all(_agree(array, [one[name] for one in alone]) for name, array in together.items())


def _agree(together: Array, alone: list[Array]) -> bool:
    if any(one.shape != (1, *together.shape[1:]) for one in alone):
        return False
    joined = np.concatenate(alone)
    if together.dtype.kind != "f" or not together.size:
        return bool(np.array_equal(joined, together))
    largest = float(np.nanmax(np.abs(together), initial=0, where=np.isfinite(together)))
    return bool(np.allclose(joined, together, rtol=0, atol=TOLERANCE * largest, equal_nan=True))
