"""What passes learn of the samples: asked by content, looked up where it was seen before, or seen by running a model.

A pass that decides by what the float model does on the samples asks here. So its decision can be had again without the
samples, from saved statistics, and without running the model again, from a cache. Knows neither files nor formats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from quantcli.errors import InternalError
from quantcli.fingerprints import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset

Value = object  # None, a number, text, an array, a value of quant or report, or a list or mapping of those
Subject = tuple[str, str]  # what kind of look, with everything that decides it beside model and data; which tensor
Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was seen.

    Attributes:
        model: Fingerprint of the model that was run.
        data: Digest of the samples, and which part of them was fed.
    """

    model: str
    data: tuple[str, ...]


_NOWHERE: Final = Place("", ())
_NOTHING_ELSE: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})


class Store(Protocol):
    """Remembers what was seen."""

    def find(self, place: Place, subjects: Collection[Subject]) -> Mapping[Subject, Value]:
        """Return those of the subjects that are known."""
        ...

    def absent(self, place: Place, subjects: Sequence[Subject]) -> None:
        """Be told that these are not known, before the model is run for them; raise where it shall not be."""
        ...

    def keep(self, place: Place, seen: Mapping[Subject, Value]) -> None:
        """Remember what was seen just now."""
        ...


@dataclass(frozen=True, slots=True)
class Observations:
    """The samples of a conversion, as far as they are known.

    Attributes:
        samples: They themselves; None where only what was seen of them is known.
        count: How many they are.
        description: What they are, for the report.
        synthetic: Whether they are made up.
        origin: Their digest, and which part of them these are; empty without a store.
        store: Remembers what was seen; None for nothing.
        for_every_method: Whether all is to be seen that any method of calibration needs.
    """

    samples: RepresentativeDataset | None
    count: int
    description: str = ""
    synthetic: bool = False
    origin: tuple[str, ...] = ()
    store: Store | None = None
    for_every_method: bool = False

    def of(
        self,
        model: ir.Model,
        subjects: Sequence[Subject],
        look: Callable[[list[Subject], RepresentativeDataset], Mapping[Subject, Seen | None]],
        *,
        expected: type[Seen],
        instead: Mapping[str, Sequence[str]] = _NOTHING_ELSE,
    ) -> dict[Subject, Seen | None]:
        """Return what is seen of each subject when the model is fed with the samples.

        Args:
            model: The model that ``look`` runs.
            subjects: What is asked for. The kind of each must name all that decides the answer beside model and
                samples: the options of the pass, and what it reads of the recipe.
            look: Sees what is not known: given those subjects and the samples, returns a value for each of them.
            expected: Type of the values; None stands for one that cannot be had.
            instead: By kind, other kinds whose values hold all that one of this kind does.

        Raises:
            StatisticsError: It is to come from saved statistics, and they do not have it.
        """
        asked = list(dict.fromkeys(subjects))
        if not asked:
            return {}
        place = Place(fingerprint(model), self.origin) if self.store is not None else _NOWHERE
        known = self._known(place, asked, expected, instead)
        missing = [s for s in asked if s not in known]
        if missing:
            known |= self._seen(place, missing, look)
        return {s: known[s] for s in asked}

    def name_of(self, model: ir.Model) -> str:
        """Return what tells a model from others, for a kind of look that depends on another model, too."""
        return fingerprint(model) if self.store is not None else ""

    def part(self, most: int) -> Observations:
        """Return those of at most so many samples, evenly spread."""
        if most >= self.count:
            return self
        some = self.samples.take(most) if self.samples is not None else None
        return replace(self, samples=some, count=most, origin=self._within(f"{most} of them"))

    def inside(self, body: str, model: ir.Model, samples: RepresentativeDataset | None, count: int) -> Observations:
        """Return those of a body of control flow.

        Args:
            body: Its place.
            model: The model that it is part of.
            samples: What reaches it, where the samples of the model are there.
            count: How many they are.
        """
        origin = self._within(f"in {body} of {fingerprint(model)}") if self.store is not None else ()
        return replace(self, samples=samples, count=count, description=f"{body} on {self.description}", origin=origin)

    def digest(self) -> str:
        """Return the sha256 of what is fed."""
        return self.origin[0] if self.origin or self.samples is None else self.samples.digest()

    def in_float32(self) -> Observations:
        """Return the same with arrays of other float types as float32."""
        return self if self.samples is None else replace(self, samples=replace(self.samples, in_float32=True))

    def _known(
        self, place: Place, asked: Sequence[Subject], expected: type[Seen], instead: Mapping[str, Sequence[str]]
    ) -> dict[Subject, Seen | None]:
        if self.store is None:
            return {}
        serving = {(kind, tensor): [kind, *instead.get(kind, ())] for kind, tensor in asked}
        found = self.store.find(place, [(kind, s[1]) for s, kinds in serving.items() for kind in kinds])
        known: dict[Subject, Seen | None] = {}
        for subject, kinds in serving.items():
            values = (found[kind, subject[1]] for kind in kinds if (kind, subject[1]) in found)
            for value in values:
                if value is None or isinstance(value, expected):
                    known.setdefault(subject, value)
        return known

    def _seen(
        self,
        place: Place,
        missing: list[Subject],
        look: Callable[[list[Subject], RepresentativeDataset], Mapping[Subject, Seen | None]],
    ) -> Mapping[Subject, Seen | None]:
        if self.store is not None:
            self.store.absent(place, missing)
        if self.samples is None:
            raise InternalError(f"{self.description}: {missing[0]} is asked for, and there are no samples to see it on")
        made = look(missing, self.samples)
        if self.store is not None:
            self.store.keep(place, made)
        return made

    def _within(self, part: str) -> tuple[str, ...]:
        return (*self.origin, part) if self.store is not None else ()
