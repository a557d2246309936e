"""Batches taken apart: a feed of B samples becomes B feeds, where the model treats them as independent.

Whether it does, shapes alone cannot tell: a leading free axis may be time. So a predicate that knows the model is asked
once, for the first feed whose inputs share a leading axis longer than 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quantcli.data.inputs import Feed, InputSpec


class Batches:
    """Takes feeds apart, if asked and possible."""

    def __init__(self, inputs: Sequence[InputSpec], independent: Callable[[Feed], bool] | None = None) -> None:
        self._independent = independent if _has_free_batch(inputs) else None
        self._answer: bool | None = None

    def samples(self, feed: Feed) -> Iterator[Feed]:
        """Yield the samples of a feed, each with a leading axis of 1; the feed itself where it is no batch."""
        size = batch_size(feed)
        if size < 2 or not self._splits(feed):
            yield feed
            return
        yield from rows(feed, size)

    def _splits(self, feed: Feed) -> bool:
        if self._answer is None:
            self._answer = self._independent is not None and self._independent(feed)
        return self._answer


def batch_size(feed: Feed) -> int:
    """Return the length of the leading axis that all arrays share; 1 where they do not."""
    sizes = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    return sizes.pop() if len(sizes) == 1 else 1


def rows(feed: Feed, size: int) -> Iterator[Feed]:
    """Yield the feeds of one sample each, in which a batch of ``size`` can be taken apart."""
    for i in range(size):
        yield {name: array[i : i + 1] for name, array in feed.items()}


def _has_free_batch(inputs: Sequence[InputSpec]) -> bool:
    """Tell whether the leading axis of every input is free, and by name the same."""
    leading = [spec.shape[0] if spec.shape else None for spec in inputs if spec.shape is not None]
    symbols = {size for size in leading if isinstance(size, str)}
    return not any(isinstance(size, int) for size in leading) and len(symbols) <= 1
