"""What a float model says of the data it was trained on, and how well some samples agree with it.

A BatchNormalization says mean and variance of its result. In an operator that reads an input, a bias is about as large
as what it is added to, and centres it. And what a Softmax compares differs from sample to sample: of data that are too
small, a model sees its own biases alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph, runtime
from quantcli.bias_absorption import ChannelNormal
from quantcli.chains import bias_holder, constant_at, is_linear

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float64]

_MOST: Final = 3.0  # what one piece of evidence can count, in deviations or octaves
_MOST_SCORES: Final = 6.0
# Classifiers and detectors were measured on their own data: between samples, scores differ by 1/6 (detector of faces)
# to 1 of what they differ by between classes; where the data are too small, by 1/20 and less.
_VARIATION: Final = 1 / 4
_CENTRED: Final = 0.5  # the mean of a channel, in its deviations, is on average at least this much for real data
_THROUGH: Final = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Pad")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of tensors of a model, by name.

    Attributes:
        model: The float model, simplified, with BatchNormalization folded.
        normal: Mean and deviation of each channel.
        biases: Root mean square of the bias of operators that read an input.
        scores: Axis along which a Softmax compares.
    """

    model: ir.Model
    normal: Mapping[str, ChannelNormal]
    biases: Mapping[str, float]
    scores: Mapping[str, int]

    @property
    def tensors(self) -> list[str]:
        """Names of all tensors that something is known of."""
        return list(dict.fromkeys((*self.normal, *self.biases, *self.scores)))

    def disagreement(self, session: runtime.Session, feeds: Iterable[Mapping[str, Array]]) -> float:
        """Return how far samples are from what is known: a sum of deviations and octaves, 0 at best.

        Args:
            session: Of the model, with ``tensors`` as outputs.
            feeds: The samples.
        """
        seen: dict[str, list[Array]] = {}
        for feed in feeds:
            for name, array in session.run(feed).items():
                if not np.isfinite(array).all():
                    return np.inf
                seen.setdefault(name, []).append(array)
        parts = [
            [_off_normal(n, seen[t]) for t, n in self.normal.items()],
            [_off_bias(rms, seen[t]) for t, rms in self.biases.items()],
            [_off_scores(axis, seen[t]) for t, axis in self.scores.items()],
        ]
        return sum(float(np.mean(p)) for p in parts if p)


def evidence_of(model: ir.Model, normal: Mapping[str, ChannelNormal]) -> Evidence:
    """Return what a model says of its data.

    Args:
        model: Simplified, with BatchNormalization folded where possible.
        normal: What the folded ones said of their results.
    """
    values = graph.named_values(model.graph)
    said = {n: k for n, k in normal.items() if n in values} | dict(_unfolded(model))
    return Evidence(model, said, dict(_first_biases(model)), dict(_softmaxes(model)))


def table_rows(model: ir.Model) -> dict[str, int]:
    """Return, for each integer input that chooses rows of a constant table, how many rows that has."""
    found: dict[str, int] = {}
    for node in model.graph:
        if graph.is_onnx(node, "Gather") and graph.is_constant(node.inputs[0]):
            source = _source(node.inputs[1])
            table = graph.constant(node.inputs[0])
            if source is not None and table is not None and table.ndim:
                axis = graph.int_attribute(node, "axis", 0)
                rows = int(table.shape[axis])
                found[graph.name_of(source)] = min(found.get(graph.name_of(source), rows), rows)
    return found


def _unfolded(model: ir.Model) -> Iterable[tuple[str, ChannelNormal]]:
    for node in model.graph:
        if graph.is_onnx(node, "BatchNormalization") and not graph.int_attribute(node, "training_mode", 0):
            scale, offset = (graph.constant(v) for v in node.inputs[1:3])
            if scale is not None and offset is not None:
                yield graph.name_of(node.outputs[0]), ChannelNormal(offset.astype(float), np.abs(scale.astype(float)))


def _first_biases(model: ir.Model) -> Iterable[tuple[str, float]]:
    for node in model.graph:
        if not is_linear(node) or _source(node.inputs[0]) is None:
            continue
        holder = bias_holder(node)
        bias = graph.constant(graph.input_at(holder, constant_at(holder) if holder is not node else 2))
        size = 0.0 if bias is None else float(np.sqrt(np.mean(np.square(bias.astype(np.float64)))))
        if size > 0:
            yield graph.name_of(holder.outputs[0]), size


def _softmaxes(model: ir.Model) -> Iterable[tuple[str, int]]:
    last = -1 if graph.opset(model) >= 13 else 1
    for node in model.graph:
        value = node.inputs[0] if graph.is_onnx(node, "Softmax", "LogSoftmax") else None
        if value is not None and value.producer() is not None:
            yield graph.name_of(value), graph.int_attribute(node, "axis", last)


def _source(value: ir.Value | None) -> ir.Value | None:
    """Return the graph input that a tensor is, but for its shape and type."""
    while value is not None and (node := value.producer()) is not None:
        if not graph.is_onnx(node, *_THROUGH):
            return None
        value = node.inputs[0]
    return value if value is not None and value.is_graph_input() and not graph.is_constant(value) else None


def _channels(arrays: list[Array], count: int) -> Floats | None:
    """Return all samples as (C, values); channels are on axis 1, or the last one of a matrix product."""
    axis = 1 if arrays[0].ndim > 1 and arrays[0].shape[1] == count else -1
    if arrays[0].ndim == 0 or arrays[0].shape[axis] != count:
        return None
    rows = [np.moveaxis(a.astype(np.float64), axis, 0).reshape(count, -1) for a in arrays]
    return np.concatenate(rows, axis=1)


def _off_normal(normal: ChannelNormal, arrays: list[Array]) -> float:
    rows = _channels(arrays, normal.mean.size)
    live = normal.deviation > 1e-3 * float(normal.deviation.max(initial=0.0))  # a dead channel says nothing
    if rows is None or not rows.size or not live.any():
        return 0.0
    deviation = normal.deviation[live]
    away = np.abs(rows.mean(axis=1)[live] - normal.mean[live]) / deviation
    wider = np.abs(np.log2(np.maximum(rows.std(axis=1)[live], 1e-6 * deviation) / deviation))
    return float((np.minimum(away, _MOST) + np.minimum(wider, _MOST)).mean())


def _off_bias(size: float, arrays: list[Array]) -> float:
    rows = [np.moveaxis(a.astype(np.float64), 1 if a.ndim > 2 else -1, 0) for a in arrays]
    flat = np.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)
    spread = max(float(np.sqrt(flat.var(axis=1).mean())), 1e-6 * size)
    centre = float(np.sqrt(np.square(flat.mean(axis=1)).mean()))
    octaves = abs(float(np.log2(spread / size)))
    away = float(np.log2(max(centre / spread, _CENTRED) / _CENTRED))
    return min(octaves, _MOST) + min(away, _MOST) / 2


def _off_scores(axis: int, arrays: list[Array]) -> float:
    """Return by how many octaves too little the scores differ between samples, compared with between classes."""
    moved = [np.moveaxis(a.astype(np.float64), axis, -1) for a in arrays]
    rows = np.concatenate([m.reshape(-1, m.shape[-1]) for m in moved])
    rows = rows - rows.mean(axis=1, keepdims=True)
    between, within = float(rows.std(axis=0).mean()), float(rows.std(axis=1).mean())
    if not len(rows) or not within:
        return _MOST_SCORES
    return float(np.clip(np.log2(_VARIATION * within / max(between, 1e-9 * within)), 0.0, _MOST_SCORES))
