"""Samples made to a look: for each float input something drawn, for the others what random samples have there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantcli.data.drawing import draw
from quantcli.data.memory import from_callable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from quantcli.data.dataset import RepresentativeDataset
    from quantcli.data.drawing import Look
    from quantcli.data.inputs import Feed, InputSpec


def made_samples(
    base: RepresentativeDataset,
    inputs: Sequence[InputSpec],
    looks: Mapping[str, Sequence[Look]],
    tables: Mapping[str, int],
    *,
    seed: int = 0,
) -> Iterator[Feed]:
    """Yield the samples of ``base`` with other values, the same ones for the same seed.

    Args:
        base: Samples that the model takes.
        inputs: The graph inputs.
        looks: What float inputs look like, by name, in turns.
        tables: Rows of the table that an integer input chooses from, by name.
        seed: Decides what is drawn.
    """
    for index, feed in enumerate(base):
        made = dict(feed)
        for number, spec in enumerate(inputs):
            rng = np.random.default_rng((seed, index, number))
            array = np.asarray(feed[spec.name])
            if spec.name in looks:
                look = looks[spec.name][index % len(looks[spec.name])]
                made[spec.name] = draw(rng, array.shape, look).astype(array.dtype)
            elif spec.name in tables:
                made[spec.name] = rng.integers(0, tables[spec.name], array.shape).astype(array.dtype)
        yield made


def made_dataset(
    base: RepresentativeDataset,
    inputs: Sequence[InputSpec],
    looks: Mapping[str, Sequence[Look]],
    tables: Mapping[str, int],
) -> RepresentativeDataset:
    """Return such samples as a dataset, as many as ``base`` has; ``made_samples`` says what they are."""
    count = len(base)
    data = from_callable(lambda: made_samples(base, inputs, looks, tables), inputs, samples=count)
    said: dict[str, list[str]] = {}
    for name, look in looks.items():
        said.setdefault(", ".join(map(str, look)), []).append(repr(name))
    words = "; ".join(f"{', '.join(names)}: {look}" for look, names in said.items()) or "random integers"
    return replace(data, description=f"data-free ({count} samples; {words})", synthetic=True, warnings=base.warnings)
