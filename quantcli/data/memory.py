"""Samples that come from Python: a function that yields them, as TFLite takes, or arrays."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np

from quantcli.data.batches import Batches
from quantcli.data.dataset import RepresentativeDataset
from quantcli.data.inputs import Feed, InputSpec, conform, require_names
from quantcli.data.selection import require_positive
from quantcli.data.staging import Staged
from quantcli.errors import DatasetError, QuantError

Sample = Feed | Sequence[np.ndarray] | tuple[str, Feed]
SampleFunction = Callable[[], Iterable[Sample]]
Independent = Callable[[Feed], bool]
MOST_SAMPLES: Final = 100_000  # what yields more has no end
_OURS: Final = str(Path(__file__).resolve().parents[1])


def from_callable(
    function: SampleFunction,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    signature: str = "",
    independent: Independent | None = None,
) -> RepresentativeDataset:
    """Return the samples that a function yields; it is called once.

    Its first sample is looked at here; the others are read when they are first needed. One that never ends needs
    ``samples``.

    Args:
        function: Yields mappings by input name, lists in the order of the inputs, or (signature, mapping).
        inputs: The graph inputs.
        samples: At most this many, the first ones.
        signature: Of samples that name one, only these are fed; without it, those that have the model's inputs.
        independent: Whether the model treats the samples of a batch as independent: then they are fed one by one.

    Raises:
        DatasetError: It yields nothing, or its first sample is of a wrong kind.
    """
    name = f"{getattr(function, '__name__', type(function).__name__)}()"
    return _dataset(FunctionSource(function, tuple(inputs), name, _limit(samples), signature), independent)


def from_arrays(
    feeds: Sequence[Feed | Sequence[np.ndarray]],
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    description: str = "arrays",
    independent: Independent | None = None,
) -> RepresentativeDataset:
    """Return samples that are in memory already.

    Args:
        feeds: Mappings by input name, or lists in the order of the inputs.
        inputs: The graph inputs.
        samples: At most this many, the first ones.
        description: What they are, for the report.
        independent: As in ``from_callable``.

    Raises:
        DatasetError: There is none, or the first is of a wrong kind.
    """
    return _dataset(FunctionSource(lambda: feeds, tuple(inputs), description, _limit(samples)), independent)


@dataclass(slots=True)
class FunctionSource:
    """What a function yields, as a stream.

    Attributes:
        function: Yields the samples.
        inputs: The graph inputs.
        name: For messages.
        limit: At most this many are read.
        signature: Whose samples are fed, where they say whose they are.
    """

    function: SampleFunction
    inputs: tuple[InputSpec, ...]
    name: str
    limit: int | None = None
    signature: str = ""
    _begun: Iterator[Sample] | None = field(default=None, init=False, repr=False)

    def first(self) -> Sample:
        """Return the first sample; it is yielded again.

        Raises:
            DatasetError: There is none.
        """
        begun = self._called()
        first = next(begun, None)
        if first is None:
            raise self._empty()
        self._begun = chain([first], begun)
        return first

    def items(self) -> Iterator[tuple[int, Feed]]:
        """Yield the samples, validated."""
        count, fitting, left_out = 0, "", ""
        begun, self._begun = self._begun, None
        for index, sample in enumerate(self._called() if begun is None else begun):
            if index >= MOST_SAMPLES:
                raise DatasetError(
                    f"{self.name}: more than {MOST_SAMPLES} samples, expected an end",
                    hint="Say how many are wanted: --samples N.",
                )
            where = f"sample {index} ({self.name})"
            named = signed(sample)
            if named is not None:
                if not self._is_ours(*named):
                    left_out = f" (of signature {named[0]!r} with {', '.join(map(repr, named[1]))} there are some)"
                    continue
                fitting = self._only(fitting, named[0], where)
            yield index, self.feed(sample if named is None else named[1], where)
            count += 1
        if not count:
            raise self._empty(left_out)

    def labels(self) -> Sequence[int]:
        """Return nothing: a function yields no classes."""
        return ()

    def feed(self, sample: object, where: str) -> Feed:
        """Return a sample by name, validated."""
        named = self._named(sample, where)
        require_names(dict.fromkeys(named, where), self.inputs, where)
        return {spec.name: conform(_as_array(named[spec.name], spec, where), spec, where) for spec in self.inputs}

    def _called(self) -> Iterator[Sample]:
        """Yield what the function yields, and say whose error it is when it fails."""
        try:
            yield from islice(self.function(), self.limit)
        except QuantError:
            raise
        except (Exception, SystemExit) as error:
            raise DatasetError(
                f"{self.name}: raised {type(error).__name__}: {error}; expected an iterable of samples"
                f"{_place(error, self.function)}",
                hint="Correct the function that yields the samples.",
            ) from error

    def _empty(self, left_out: str = "") -> DatasetError:
        names = ", ".join(repr(spec.name) for spec in self.inputs)
        of = f" of signature {self.signature!r}" if self.signature else f" with inputs {names}" if left_out else ""
        return DatasetError(
            f"{self.name}: 0 samples{of}, expected at least 1{left_out}",
            hint="Yield one sample or more, from a new generator each time the function is called.",
        )

    def _is_ours(self, signature: str, feed: Feed) -> bool:
        if self.signature:
            return signature == self.signature
        return set(feed) == {spec.name for spec in self.inputs}

    def _only(self, fitting: str, signature: str, where: str) -> str:
        if fitting not in {"", signature}:
            raise DatasetError(
                f"{where}: samples of signatures {fitting!r} and {signature!r} both have the inputs of the model, "
                "expected those of one",
                hint="Yield samples of one signature, or convert a spec with `signatures:`.",
            )
        return signature

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


def signed(sample: object) -> tuple[str, Feed] | None:
    """Return a sample that names its signature, as TFLite takes it; None for any other."""
    if isinstance(sample, tuple) and len(sample) == 2:
        signature, feed = sample
        if isinstance(signature, str) and isinstance(feed, Mapping):
            return signature, feed
    return None


def _place(error: BaseException, function: SampleFunction) -> str:
    """Return file and line where a function failed: in its own file, or else wherever outside this package."""
    own = getattr(getattr(function, "__code__", None), "co_filename", "")
    others = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OURS)]
    frames = [f for f in others if f.filename == own] or others
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _limit(samples: int | None) -> int | None:
    return None if samples is None else require_positive(samples, "samples")


def _dataset(source: FunctionSource, independent: Independent | None) -> RepresentativeDataset:
    """Return the dataset after a look at the first sample."""
    first = source.first()
    warnings: tuple[str, ...] = ()
    if signed(first) is not None:
        whose = f"signature {source.signature!r}" if source.signature else "the signature that has the model's inputs"
        warnings = (f"{source.name}: samples name their signature; only those of {whose} are fed",)
    else:
        source.feed(first, f"sample 0 ({source.name})")
        warnings = () if isinstance(first, Mapping) else (_order_warning(source),)
    return RepresentativeDataset(source.name, Staged(source, Batches(source.inputs, independent)), warnings=warnings)


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
