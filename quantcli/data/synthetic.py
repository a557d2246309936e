"""Random samples, for when there is no data: the ranges they give are worth little.

What a model takes is not all said by its inputs: free dimensions may have to be long enough, equal, or some number of
channels; integers may be indices, lengths, shapes. So there are guesses, to be tried in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data.batches import Batches
from quantcli.data.dataset import RepresentativeDataset
from quantcli.data.inputs import Feed, InputSpec, is_text
from quantcli.data.memory import FunctionSource
from quantcli.data.selection import require_positive
from quantcli.data.staging import Staged
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_GUESSES: Final = 40
LARGEST: Final = 1 << 22  # elements of one input; the first guess may be larger
# Values with what it costs to try them late; the guesses with the smallest sums come first.
SIZES: Final = {8: 0, 1: 1, 32: 2, 64: 3, 128: 4, 224: 5, 512: 6, 576: 7, 16000: 8}
FILLS: Final = {"random bits": 0, "zeros": 1, "ones": 2, "the size of free dimensions": 5}
_BATCHES: Final = frozenset({"n", "b", "bs"})
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Guess:
    """What random samples look like.

    Attributes:
        size: Of free dimensions other than the batch, which is 1.
        fill: What integers are, one of ``FILLS``.
        channels: Size of free second dimensions of inputs of rank 3 and more; None for ``size``.
        inner_batch: Whether a free dimension without a name that follows a fixed one is a batch: (layers, batch, n).
        vectors: Whether the only dimension of an input is as free as others, and no batch.
    """

    size: int = 8
    fill: str = "random bits"
    channels: int | None = None
    inner_batch: bool = False
    vectors: bool = False

    def __str__(self) -> str:
        """Say it in words."""
        channels = f", channels {self.channels}" if self.channels is not None else ""
        return f"free dimensions {self.size}{channels}, integers {self.fill}"


NATURAL: Final = Guess()


def guesses(inputs: Sequence[InputSpec]) -> list[Guess]:
    """Return at most 40 guesses at what a model takes, the natural one first; those that differ in nothing once."""
    free = any(not isinstance(size, int) for spec in inputs for size in spec.shape or ())
    integers = any(spec.dtype.kind in "biu" for spec in inputs)
    costs: list[tuple[int, int, Guess]] = []
    for (variant, late, means), size, fill in product(_VARIANTS, SIZES, FILLS):
        if any(means(s) for s in inputs) and (free or size == NATURAL.size) and (integers or fill == NATURAL.fill):
            guess = Guess(size, fill, variant.channels, variant.inner_batch, variant.vectors)
            costs.append((late + SIZES[size] + FILLS[fill], len(costs), guess))
    found: dict[object, Guess] = {}
    for _cost, _index, guess in sorted(costs, key=lambda c: c[:2]):
        shapes = tuple(_shapes(inputs, guess).values())
        if guess == NATURAL or max((math.prod(s) for s in shapes), default=0) <= LARGEST:
            found.setdefault((shapes, guess.fill), guess)
    return list(found.values())[:MOST_GUESSES]


def random_dataset(
    inputs: Sequence[InputSpec], count: int, *, seed: int = 0, guess: Guess = NATURAL
) -> RepresentativeDataset:
    """Return ``count`` random samples, the same ones for the same seed.

    Floats are standard normal, integers by default 0 or 1, which are valid indices nearly everywhere; strings have
    four letters.

    Raises:
        DatasetError: An input has no rank, or ``count`` is not at least 1.
    """
    require_positive(count, "random data")
    shapes = _shapes(inputs, guess)

    def samples() -> Iterator[Feed]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield {spec.name: _draw(rng, shapes[spec.name], spec.dtype, guess) for spec in inputs}

    source = FunctionSource(samples, tuple(inputs), "random data", count)
    staged = Staged(source, Batches(inputs))
    return RepresentativeDataset(f"random data ({count} samples)", staged, synthetic=True)


def _shapes(inputs: Sequence[InputSpec], guess: Guess) -> dict[str, tuple[int, ...]]:
    batches = {spec.shape[0] for spec in inputs if spec.shape}  # a symbol that is a batch somewhere is 1 everywhere
    symbols = {size for size in batches if isinstance(size, str) and size}
    return {spec.name: _shape(spec, symbols, guess) for spec in inputs}


def _shape(spec: InputSpec, batches: set[str], guess: Guess) -> tuple[int, ...]:
    if spec.shape is None:
        raise DatasetError(
            f"input {spec.name!r} has no rank, expected a shape to make random data for",
            hint="Give a dataset, or write the shape into the model.",
        )
    return tuple(
        size if isinstance(size, int) else _free(spec, axis, guess, batches) for axis, size in enumerate(spec.shape)
    )


def _free(spec: InputSpec, axis: int, guess: Guess, batches: set[str]) -> int:
    shape = spec.shape or ()
    symbol = shape[axis]
    if guess.vectors and len(shape) == 1:
        return guess.size
    if axis == 0 or symbol in batches or (isinstance(symbol, str) and _is_batch(symbol, shape)):
        return 1
    if guess.inner_batch and _follows_fixed(spec, axis):
        return 1
    return guess.channels if guess.channels is not None and axis == 1 and len(shape) > 2 else guess.size


def _is_batch(symbol: str, shape: tuple[int | str | None, ...]) -> bool:
    short = symbol.lower() in _BATCHES and isinstance(shape[0], int)  # else the first dimension is the batch
    return short or "batch" in symbol.lower()


def _follows_fixed(spec: InputSpec, axis: int) -> bool:
    shape = spec.shape or ()
    return axis > 0 and not isinstance(shape[axis], int) and not shape[axis] and isinstance(shape[axis - 1], int)


def _has_free_channels(spec: InputSpec) -> bool:
    return len(spec.shape or ()) > 2 and not isinstance((spec.shape or ())[1], int)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, guess: Guess) -> np.ndarray:
    if is_text(dtype):
        words = ["".join(rng.choice(list(_LETTERS), 4)) for _ in range(math.prod(shape))]
        return np.array(words, object).reshape(shape)
    if dtype.kind != "b" and not dtype.name.startswith(("int", "uint")):
        return rng.standard_normal(shape, np.float32).astype(dtype)
    if guess.fill == NATURAL.fill:
        return rng.integers(0, 2, shape).astype(dtype)
    value = {"zeros": 0, "ones": 1}.get(guess.fill, guess.size)
    return np.full(shape, min(value, np.iinfo(dtype).max) if dtype.kind != "b" else bool(value), dtype)


def _any(_spec: InputSpec) -> bool:
    return True


def _has_inner_batch(spec: InputSpec) -> bool:
    return any(_follows_fixed(spec, axis) for axis in range(len(spec.shape or ())))


def _is_free_vector(spec: InputSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == 1 and not isinstance(spec.shape[0], int)


# Guesses that differ in more than size and fill, the cost of trying them late, and the inputs that they matter for.
_VARIANTS: Final[tuple[tuple[Guess, int, Callable[[InputSpec], bool]], ...]] = (
    (NATURAL, 0, _any),
    (Guess(inner_batch=True), 3, _has_inner_batch),
    (Guess(channels=3), 4, _has_free_channels),
    (Guess(vectors=True), 5, _is_free_vector),
    (Guess(channels=1), 6, _has_free_channels),
)
