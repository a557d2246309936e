"""Samples for a model without data: drawn, in the form and the range with which the model agrees best.

Each float input is tried with the usual ways to feed pictures, or with fields of any size, and the one is taken that
comes closest to what the model says of its data (``evidence``), in turns with those that it can hardly tell from that:
ranges then hold them all. The search is deterministic and has a fixed length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import runtime
from quantcli.data.drawing import LEAVES, NOISE, SMOOTH, Look
from quantcli.data.made import made_dataset, made_samples
from quantcli.errors import ModelError
from quantcli.evidence import Evidence, evidence_of, table_rows
from quantcli.passes.fold_batch_norm import FoldBatchNorm
from quantcli.passes.simplify import Simplify
from quantcli.passes.widen import Widen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantcli.data import InputSpec, RepresentativeDataset
    from quantcli.state import State

SAMPLES: Final = 64
SIZE: Final = 64  # of free dimensions: of pictures and sequences, where the model takes it
_TRIED: Final = 4  # samples of each candidate
_SEARCHED: Final = 4  # inputs; a model with more has caches and states among them
_ALIKE: Final = 0.35  # disagreements that differ by no more than this may be the other way round for real data
_SMALLEST_PICTURE: Final = 16
# How pictures are usually fed, from the pixels 0 to 1: name -> (scale, offset) of red, green, blue.
_USUAL: Final = (
    ((1.0,), (0.0,)),
    ((2.0,), (-1.0,)),
    ((1 / 0.229, 1 / 0.224, 1 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)),
    ((255.0,), (0.0,)),
    ((255.0,), (-123.68, -116.78, -103.94)),
    ((255.0,), (-127.5,)),
)
_OCTAVES: Final = np.arange(-6.0, 9.0)  # of the standard deviation of what is no picture


@dataclass(frozen=True, slots=True)
class _Search:
    """What candidates are compared with."""

    evidence: Evidence
    session: runtime.Session
    base: RepresentativeDataset
    inputs: Sequence[InputSpec]
    tables: Mapping[str, int]

    def best(self, looks: Mapping[str, Sequence[Look]], name: str, candidates: Sequence[Look]) -> list[Look]:
        """Return the candidates for one input that the model agrees with best, the best first.

        Where it can hardly tell most of them apart, it says nothing of that input: then the first one is all.
        """
        costs = [self._cost({**looks, name: [look]}) for look in candidates]
        order = sorted(range(len(costs)), key=costs.__getitem__)
        alike = [i for i in order if costs[i] <= costs[order[0]] + _ALIKE]
        return [candidates[i] for i in alike] if len(alike) <= len(candidates) / 2 else [candidates[0]]

    def _cost(self, looks: Mapping[str, Sequence[Look]]) -> float:
        feeds = made_samples(self.base.take(_TRIED), self.inputs, looks, self.tables)
        try:
            return self.evidence.disagreement(self.session, feeds)
        except ModelError:  # a value that an operator refuses
            return np.inf


def data_free(state: State, base: RepresentativeDataset, inputs: Sequence[InputSpec]) -> RepresentativeDataset:
    """Return samples made from what the model says of its data, as many as ``base`` has.

    Args:
        state: With the model.
        base: Random samples that the model takes.
        inputs: The graph inputs.
    """
    prepared = replace(state, model=state.reference)
    for step in (Widen(), Simplify(), FoldBatchNorm()):
        prepared = step(prepared, lambda _done, _total: None)
    evidence, tables = evidence_of(prepared.model, prepared.normal), table_rows(prepared.model)
    first = next(iter(base))
    shapes = {s.name: np.asarray(first[s.name]).shape for s in inputs if s.dtype.kind in "fV"}
    looks = {name: _candidates(shape)[:1] for name, shape in shapes.items()}
    if evidence.tensors and looks:
        session = runtime.load(evidence.model, threads=state.threads, outputs=evidence.tensors)
        search = _Search(evidence, session, base, inputs, tables)
        for name, shape in list(shapes.items())[:_SEARCHED]:
            looks[name] = search.best(looks, name, _candidates(shape))
    return made_dataset(base, inputs, looks, tables)


def _candidates(shape: tuple[int, ...]) -> list[Look]:
    """Return the looks to try for an input of this shape; the first is taken where nothing tells them apart."""
    axis = _channel_axis(shape)
    if axis is None:
        near_one = sorted(_OCTAVES, key=abs)
        return [Look(pattern, (float(2.0**o),)) for pattern in (NOISE, SMOOTH) for o in near_one]
    usual = [(s, o) if shape[axis] == 3 else ((s[0],), (o[0],)) for s, o in _USUAL]
    return [Look(LEAVES, scale, offset, axis) for scale, offset in usual]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels of a picture, grey, coloured or transparent, or None for anything else."""
    if len(shape) != 4:
        return None
    for axis in (1, 3):
        sides = [shape[a] for a in (1, 2, 3) if a != axis]
        if shape[axis] in (1, 3, 4) and min(sides) >= _SMALLEST_PICTURE:
            return axis
    return None
