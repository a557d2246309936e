"""Samples that come from Python: a function that yields them, as TFLite takes, or arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from quantcli.data.dataset import RepresentativeDataset, require_positive
from quantcli.data.inputs import Feed, InputSpec, conform, is_text, require_names, shape_text
from quantcli.errors import DatasetError, QuantError

SampleFunction = Callable[[], Iterable[Feed | Sequence[np.ndarray]]]


def from_callable(
    function: SampleFunction, inputs: Sequence[InputSpec], *, samples: int | None = None
) -> RepresentativeDataset:
    """Return the samples that a function yields; it is called anew for each iteration.

    It is called once here for its first sample, and once more when the number of samples is first needed:
    one that never ends needs ``samples``.

    Args:
        function: Yields mappings by input name, or lists in the order of the inputs.
        inputs: The graph inputs.
        samples: At most this many, the first ones.

    Raises:
        DatasetError: It yields nothing, or its first sample is of a wrong kind.
    """
    name = f"{getattr(function, '__name__', type(function).__name__)}()"
    return _dataset(FunctionSource(function, tuple(inputs), name, _limit(samples)))


def from_arrays(
    feeds: Sequence[Feed | Sequence[np.ndarray]],
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    description: str = "arrays",
) -> RepresentativeDataset:
    """Return samples that are in memory already.

    Args:
        feeds: Mappings by input name, or lists in the order of the inputs.
        inputs: The graph inputs.
        samples: At most this many, the first ones.
        description: What they are, for the report.

    Raises:
        DatasetError: There is none, or the first is of a wrong kind.
    """
    return _dataset(FunctionSource(lambda: feeds, tuple(inputs), description, _limit(samples)))


@dataclass(frozen=True)  # no slots: the count is cached
class FunctionSource:
    """What a function yields, as a source of samples."""

    function: SampleFunction
    inputs: tuple[InputSpec, ...]
    name: str
    limit: int | None

    def count(self) -> int:
        """Return the number of samples; the first call runs through the function."""
        return self._count

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Yield the samples of these numbers out of a new run of the function."""
        wanted = iter(indices)
        following = next(wanted, None)
        for index, sample in enumerate(self.samples()):
            if index == following:
                yield self.feed(sample, f"sample {index} ({self.name})")
                following = next(wanted, None)
            if following is None:
                return
        if following is not None:
            raise DatasetError(
                f"{self.name}: sample {following} is gone, expected {self.count()} samples as in the first run",
                hint="The function is called for each pass: return a new generator every time.",
            )

    def check(self, indices: Sequence[int]) -> None:
        """Run through the samples."""
        for _ in self.read(indices):
            pass

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield names, dtypes, shapes and values of the arrays."""
        for feed in self.read(indices):
            for name, array in feed.items():
                yield f"{name}\0{array.dtype.name}\0{shape_text(array.shape)}".encode()
                yield json.dumps(array.tolist()).encode() if is_text(array.dtype) else array.tobytes()

    def samples(self) -> Iterator[Feed | Sequence[np.ndarray]]:
        """Yield what the function yields, and say whose error it is when it fails."""
        try:
            yield from islice(self.function(), self.limit)
        except QuantError:
            raise
        except Exception as error:
            raise DatasetError(
                f"{self.name}: raised {type(error).__name__}: {error}; expected an iterable of samples",
                hint="Correct the function that yields the samples.",
            ) from error

    def empty(self) -> DatasetError:
        """Return the error for a function that yields nothing."""
        return DatasetError(f"{self.name}: 0 samples, expected at least 1", hint="Yield one sample or more each time.")

    def feed(self, sample: object, where: str) -> Feed:
        """Return a sample by name, validated."""
        named = self._named(sample, where)
        require_names(dict.fromkeys(named, where), self.inputs, where)
        return {spec.name: conform(_as_array(named[spec.name], spec, where), spec, where) for spec in self.inputs}

    @cached_property
    def _count(self) -> int:
        count = sum(1 for _ in self.samples())
        if not count:
            raise self.empty()
        return count

    def _named(self, sample: object, where: str) -> Mapping[str, object]:
        if isinstance(sample, Mapping):
            return sample
        names = [spec.name for spec in self.inputs]
        expected = f"a mapping of {names} or a list of {len(names)} arrays"
        if not isinstance(sample, (list, tuple)):
            raise DatasetError(
                f"{where}: a sample is a {type(sample).__name__}, expected {expected}", hint="Yield [array]."
            )
        if len(sample) != len(names):
            raise DatasetError(
                f"{where}: {len(sample)} arrays, expected {expected}", hint="Yield one array per graph input."
            )
        return dict(zip(names, sample, strict=True))


def _limit(samples: int | None) -> int | None:
    return None if samples is None else require_positive(samples, "samples")


def _dataset(source: FunctionSource) -> RepresentativeDataset:
    """Return the dataset after a look at the first sample."""
    first = next(source.samples(), None)
    if first is None:
        raise source.empty()
    source.feed(first, f"sample 0 ({source.name})")
    warnings = () if isinstance(first, Mapping) else (_order_warning(source),)
    return RepresentativeDataset(source.name, source, warnings=warnings)


def _order_warning(source: FunctionSource) -> str:
    names = ", ".join(repr(spec.name) for spec in source.inputs)
    return f"{source.name}: samples are lists; they are matched with the inputs by order: {names}"


def _as_array(value: object, spec: InputSpec, where: str) -> np.ndarray:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    raise DatasetError(
        f"input {spec.name!r}, {where}: a {type(value).__name__}, expected a numpy array",
        hint=f"Yield np.asarray(x, dtype=np.{spec.dtype.name}).",
    )
