"""Rounds the weights of each linear operator for its quantized inputs, instead of each weight to its nearest integer.

GPTQ on the covariance of the inputs that the already rounded operators before give: a shift of the output's mean costs
nothing, because it goes into the bias. An output channel keeps the new rounding only where its squared error falls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantcli import graph, portability, saturation
from quantcli.gptq import gptq
from quantcli.patches import Window, conv_rows, plain_rows, same_pads
from quantcli.reconstruction import Layer, copied, kept_if_better, reconstruct, sample_count

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.recipe import Recipe
    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gptq:
    """Rounds the weights of the emitted model.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rows: At most this many rows of inputs per operator, over all samples; at least four times its inputs are taken.
        largest: Operators with more inputs per output than this keep nearest rounding; their Gram matrix is too large.
    """

    samples: int = 32
    rows: int = 16384
    largest: int = 4608
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Round every linear operator, in topological order."""
        if state.quantized is None or state.data is None:
            return state
        quantized, used = copied(state.quantized), sample_count(state, self.samples)
        stored = Counter(quantized.weights.values())
        kept = [
            stored[layer.stored_weight] == 1 and self._rounded(layer, used, state.recipe)  # shared: serves others too
            for layer in reconstruct(state, quantized, used, tick)
        ]
        note = f"gptq rounding on {used} samples, kept on {sum(kept)} of {len(kept)} layers"
        better = kept_if_better(state, quantized, self.samples)
        if better is None:
            return state.noted(notes=(f"{note}; taken back: the outputs were closer to float without it",))
        return replace(state, quantized=better).noted(notes=(note,))

    def _rounded(self, layer: Layer, samples: int, recipe: Recipe) -> bool:
        real = layer.real_weight()  # (G, rows, K)
        if real.shape[2] > self.largest:
            return False
        most = max(self.rows, 4 * real.shape[2]) // max(samples, 1) + 1
        mean, covariance = _moments(layer, most)
        scale = np.broadcast_to(layer.weight_params.scale.astype(np.float64), (real.shape[0] * real.shape[1],))
        scale = scale.reshape(real.shape[:2])
        low, high = _limits(layer, recipe)
        rounded = gptq(real, scale, covariance, qmin=low, qmax=high)
        weight, bias = layer.weight(), layer.bias()
        shift = np.einsum("grk,gk->gr", real - rounded * scale[..., None], mean).ravel()
        steps = shift / layer.bias_params.scale
        new_bias = layer.held(bias + steps)
        candidate = layer.shaped(rounded)
        before, after = layer.errors(), layer.errors(weight=candidate, bias=new_bias)
        better = after.square < before.square
        if not better.any():
            return False
        shape = [-1 if a == layer.unit.axis else 1 for a in range(weight.ndim)]
        layer.replace(weight=np.where(better.reshape(shape), candidate, weight), bias=np.where(better, new_bias, bias))
        return True


def _limits(layer: Layer, recipe: Recipe) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Return how far weights may move: over their type, or as far as products stay exact on every CPU."""
    spec = layer.weight_params.spec
    if not (recipe.portable and portability.adds_pairs(layer.unit, layer.node, recipe)):
        return spec.qmin, spec.qmax
    low, high = saturation.limits(layer.arranged(layer.weight()))
    return np.maximum(low, spec.qmin), np.minimum(high, spec.qmax)


def _moments(layer: Layer, most: int) -> tuple[Floats, Floats]:
    """Return mean (G, K) and covariance (G, K, K) of the rows that the weight multiplies, in real units."""
    zero, scale = np.float32(layer.input_params.zero_point), float(layer.input_params.scale)
    shift: npt.NDArray[np.float32] | None = None  # near the mean, so that the difference of squares keeps its digits
    total, outer, count = np.zeros(()), np.zeros(()), 0
    for integers in layer.inputs():
        rows = _rows(layer, integers.astype(np.float32) - zero, most)
        shift = rows.mean(axis=1, keepdims=True) if shift is None else shift
        rows -= shift
        total = total + rows.sum(axis=1, dtype=np.float64)
        found = np.matmul(rows.transpose(0, 2, 1), rows)
        outer = found.astype(np.float64) if not count else np.add(outer, found, out=outer)
        count += rows.shape[1]
    mean = total / max(count, 1)
    outer /= max(count, 1)  # in place: for thousands of inputs each copy weighs hundreds of megabytes
    outer -= mean[:, :, None] * mean[:, None, :]
    outer *= scale**2
    return (mean + (0.0 if shift is None else shift[:, 0])) * scale, outer


def _rows(layer: Layer, x: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    node = layer.node
    if not graph.is_onnx(node, "Conv"):
        return plain_rows(x, most)
    spatial = x.ndim - 2
    ones = (1,) * spatial
    window = Window(
        kernel=layer.weight().shape[2:],
        strides=graph.ints_attribute(node, "strides") or ones,
        dilations=graph.ints_attribute(node, "dilations") or ones,
        pads=graph.ints_attribute(node, "pads") or (0,) * (2 * spatial),
        groups=graph.int_attribute(node, "group", 1),
    )
    automatic = node.attributes.get("auto_pad")
    kind = automatic.as_string() if automatic is not None else "NOTSET"
    if kind.startswith("SAME"):
        window = replace(window, pads=same_pads(kind, x.shape[2:], window))
    return conv_rows(x, window, most)
