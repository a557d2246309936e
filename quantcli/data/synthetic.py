"""Random samples, for when there is no data: the ranges they give are worth little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data.dataset import RepresentativeDataset, require_positive
from quantcli.data.inputs import Feed, InputSpec, require_numbers
from quantcli.data.memory import FunctionSource
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FREE_SIZE: Final = 8  # of a free dimension other than the batch


def random_dataset(
    inputs: Sequence[InputSpec], count: int, *, seed: int = 0, free_size: int = FREE_SIZE
) -> RepresentativeDataset:
    """Return ``count`` random samples, the same ones for the same seed.

    Floats are standard normal, integers 0 or 1, which are valid indices nearly everywhere.

    Raises:
        DatasetError: An input takes strings or has no rank, or ``count`` is not at least 1.
    """
    require_positive(count, "random data")
    require_numbers(inputs)
    shapes = _shapes(inputs, free_size)

    def samples() -> Iterator[Feed]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield {spec.name: _draw(rng, shapes[spec.name], spec.dtype) for spec in inputs}

    source = FunctionSource(samples, tuple(inputs), "random data", count)
    return RepresentativeDataset(f"random data ({count} samples)", source, synthetic=True)


def _shapes(inputs: Sequence[InputSpec], free_size: int) -> dict[str, tuple[int, ...]]:
    batches = {spec.shape[0] for spec in inputs if spec.shape}  # a symbol that is a batch somewhere is 1 everywhere
    symbols = {size for size in batches if isinstance(size, str) and size}
    return {spec.name: _shape(spec, symbols, free_size) for spec in inputs}


def _shape(spec: InputSpec, batches: set[str], free_size: int) -> tuple[int, ...]:
    if spec.shape is None:
        raise DatasetError(
            f"input {spec.name!r} has no rank, expected a shape to make random data for",
            hint="Give a dataset, or write the shape into the model.",
        )
    return tuple(
        size if isinstance(size, int) else 1 if axis == 0 or size in batches else free_size
        for axis, size in enumerate(spec.shape)
    )


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b" or dtype.name.startswith(("int", "uint")):
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)
