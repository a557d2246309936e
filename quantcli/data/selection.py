"""Which items of a source are fed: the first ones, drawn ones, as many of each class."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantcli.data.inputs import Feed


@dataclass(frozen=True, slots=True)
class Selection:
    """Which items of a source are fed.

    Attributes:
        samples: At most this many; None for all.
        seed: Drawn at random without replacement; None for the first ones.
        balanced: As many of each class as of each other, as far as there are.
    """

    samples: int | None = None
    seed: int | None = None
    balanced: bool = False

    def of(self, count: int, labels: Sequence[int] = ()) -> Sequence[int]:
        """Return the selected numbers out of ``range(count)``, ascending.

        Balanced, the classes take turns until enough are chosen: no class has more than one item more than another,
        unless the other has no more. Without ``samples``, each class gives as many as the rarest one has.

        Args:
            count: Number of items.
            labels: Class of each item; only for a balanced selection.
        """
        if self.balanced:
            return self._balanced(labels)
        if self.samples is None or self.samples >= count:
            return range(count)
        if self.seed is None:
            return range(self.samples)
        drawn = np.random.default_rng(self.seed).choice(count, self.samples, replace=False)
        return [int(i) for i in np.sort(drawn)]

    def _balanced(self, labels: Sequence[int]) -> Sequence[int]:
        members: dict[int, list[int]] = defaultdict(list)
        for item, label in enumerate(labels):
            members[label].append(item)
        rng = np.random.default_rng(self.seed)
        classes = [members[label] for label in sorted(members)]
        if self.seed is not None:
            classes = [[int(i) for i in rng.permutation(items)] for items in classes]
        rarest = min((len(items) for items in classes), default=0)
        wanted = self.samples if self.samples is not None else rarest * len(classes)
        turns = range(max((len(items) for items in classes), default=0))
        chosen = [items[turn] for turn in turns for items in classes if turn < len(items)]
        return sorted(chosen[:wanted])


class Items(Protocol):
    """Numbered items of a source, each a sample or a batch of them."""

    def count(self) -> int:
        """Return the number of items."""

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Yield the validated items of these ascending numbers, holding one at a time."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The items of a source that a selection chooses, as a stream."""

    source: Items
    selection: Selection = Selection()
    classes: tuple[int, ...] = ()

    def items(self) -> Iterator[tuple[int, Feed]]:
        """Yield the chosen items with their numbers."""
        indices = self.selection.of(self.source.count(), self.classes)
        return zip(indices, self.source.read(indices), strict=True)

    def labels(self) -> Sequence[int]:
        """Return the class index of every item of the source; empty where there are none."""
        return self.classes


def require_positive(number: int, name: str) -> int:
    """Return the number of samples asked for.

    Raises:
        DatasetError: It is not at least 1.
    """
    if number < 1:
        raise DatasetError(f"{name}: {number} samples asked for, expected at least 1", hint="Ask for 1 or more.")
    return number
