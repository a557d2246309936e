"""Whether a classifier does better with red and blue exchanged: labelled samples tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import accuracy
from quantcli.feed_statistics import channel_axis, layout_of

if TYPE_CHECKING:
    from quantcli.data import Feed, RepresentativeDataset
    from quantcli.runtime import Array, Session

SAMPLES: Final = 200  # enough to see it
_SURE: Final = 2.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Orders:
    """How many samples are classified rightly.

    Attributes:
        samples: Number of samples.
        fed: As they are fed.
        swapped: With the first and the last channel exchanged.
        better: Samples that only the exchange gets right.
        worse: Samples that only the exchange gets wrong.
    """

    samples: int
    fed: int
    swapped: int
    better: int
    worse: int

    @property
    def is_swapped(self) -> bool:
        """Tell whether the exchange is better by more than chance (McNemar's test)."""
        changed = self.better + self.worse
        return self.better - self.worse > _SURE * float(np.sqrt(changed)) and self.better > self.worse


def orders(session: Session, data: RepresentativeDataset, name: str) -> Orders | None:
    """Classify labelled images as they are, and with exchanged channels.

    Args:
        session: The float model.
        data: Labelled samples.
        name: The input that takes images of 3 channels.

    Returns:
        None where there are no labels, or the model tells no classes.
    """
    some = data.take(SAMPLES)
    labels = some.classes()
    if not labels:
        return None
    right = np.zeros((2, len(labels)), np.bool_)
    for index, feed in enumerate(some):
        for row, variant in enumerate((feed, {**feed, name: _exchanged(feed[name])})):
            found = _class(session, variant)
            if found is None:
                return None
            right[row, index] = found == labels[index]
    better, worse = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    return Orders(len(labels), int(right[0].sum()), int(right[1].sum()), better, worse)


def _class(session: Session, feed: Feed) -> int | None:
    results = session.run(feed)
    output = accuracy.class_output(results)
    return accuracy.class_of(results[output]) if output is not None else None


def _exchanged(array: Array) -> Array:
    return np.ascontiguousarray(np.flip(array, channel_axis(layout_of(array.shape))))
