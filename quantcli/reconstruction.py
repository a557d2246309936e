"""Sequential reconstruction: the float and the quantized model side by side, one linear operator after the other.

When an operator is reached, its float result is there as the target, and its integer inputs are there as the already
reconstructed operators before it make them. What is changed (weights, biases) is up to the pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from quantcli import affine, feeding, graph
from quantcli.moments import arranged
from quantcli.spool import spool_all
from quantcli.walk import Part, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.quant import QuantParams
    from quantcli.spool import Spool
    from quantcli.state import Quantized, State, Tick

    Floats = npt.NDArray[np.float64]


T = TypeVar("T", bound=np.generic)
_AFFORDABLE: Final = 20_000_000  # activations; small models can afford many samples


@dataclass(frozen=True, slots=True)
class Errors:
    """Error of a layer's output against float, per output channel: mean, and mean square."""

    mean: Floats
    square: Floats

    def chosen(self, take: npt.NDArray[np.bool_], other: Errors) -> Errors:
        """Return the channels of ``other`` where ``take`` says so; channels do not influence each other."""
        return Errors(np.where(take, other.mean, self.mean), np.where(take, other.square, self.square))


class Layer:
    """One linear unit of the quantized model with its inputs and its float target at hand."""

    def __init__(  # noqa: PLR0913, PLR0917 - built by reconstruct alone
        self, unit: Unit, node: ir.Node, part: Part, expected: Mapping[str, Spool], state: State, model: Quantized
    ) -> None:
        self.unit, self.node = unit, node
        self.weight_params = state.encodings.edges[(unit.node, 1)]
        self.input_params = state.encodings.tensors[unit.inputs[0][1]]
        values = graph.named_values(state.model.graph)
        real = graph.constant(values[unit.weight or ""])
        if real is None:
            raise ValueError(f"the weight of {unit.node!r} is no constant")
        self._real = real
        self._part, self._quantized = part, model
        self._target, self._floats = expected[unit.output], expected[unit.inputs[0][1]]
        self._input = model.tensors[unit.inputs[0][1]]
        self._output = model.tensors.get(unit.output, unit.output)
        self._output_params = state.encodings.tensors.get(unit.output)  # None where the result is left in float
        self._channel = 1 if graph.is_onnx(node, "Conv", "ConvTranspose") else -1

    @property
    def bias_params(self) -> QuantParams:
        """The int32 grid of the bias."""
        return affine.bias_params(self.input_params.scale, self.weight_params)

    @property
    def stored_weight(self) -> str:
        """Name of the int8 weight in the model; units may share one."""
        return self._quantized.weights[self.unit.node]

    def weight(self) -> npt.NDArray[np.int8]:
        """Return the int8 weight as it stands."""
        stored = self._constant(self._quantized.weights[self.unit.node])
        return (stored.astype(np.int16) - _offset(stored)).astype(np.int8)

    def real_weight(self) -> Floats:
        """Return the float weight as (groups, outputs of a group, inputs of an output)."""
        return self.arranged(self._real.astype(np.float64))

    def arranged(self, weight: npt.NDArray[T]) -> npt.NDArray[T]:
        """Return a weight as (groups, outputs of a group, inputs of an output)."""
        return arranged(weight, self.unit.axis, self.node)

    def shaped(self, integers: npt.NDArray[np.integer]) -> npt.NDArray[np.int8]:
        """Return integers in the arrangement of ``real_weight`` in that of the weight."""
        moved = np.moveaxis(self._real, self.unit.axis, 0)
        return np.moveaxis(integers.reshape(moved.shape), 0, self.unit.axis).astype(np.int8)

    def bias(self) -> npt.NDArray[np.int64]:
        """Return the integer bias as it stands, (C_out,)."""
        return self._constant(self._quantized.biases[self.unit.node]).astype(np.int64)

    def held(self, bias: Floats) -> npt.NDArray[np.int64]:
        """Return a bias as integers, clipped to what the stored type holds on both sides of zero."""
        most = min(np.iinfo(self._constant(self._quantized.biases[self.unit.node]).dtype.name).max, 2**53)
        return np.clip(np.rint(bias), -most, most).astype(np.int64)

    def replace(self, *, weight: npt.NDArray[np.int8] | None = None, bias: npt.NDArray[np.int64] | None = None) -> None:
        """Put other integers into the model."""
        for name, array in self._named(weight, bias).items():
            graph.set_initializer(self._quantized.model.graph.initializers[name], array)

    def inputs(self) -> Iterator[npt.NDArray[np.integer]]:
        """Yield the integer input of every sample."""
        for outputs in self._part.run(also=[self._input], only=True):
            yield outputs[self._input]  # type: ignore[misc]

    def float_inputs(self) -> Iterator[npt.NDArray[np.generic]]:
        """Yield the input of every sample in the float model."""
        return iter(self._floats)

    def errors(
        self, *, weight: npt.NDArray[np.int8] | None = None, bias: npt.NDArray[np.int64] | None = None
    ) -> Errors:
        """Run the layer, with other integers if given, and compare its output with the float one."""
        channels = self.bias().size
        total, squares, count = np.zeros(channels), np.zeros(channels), 0
        run = self._part.run(constants=self._named(weight, bias), also=[self._output], only=True)
        for outputs, target in zip(run, self._target, strict=True):
            error = np.moveaxis(target.astype(np.float32, copy=False) - self._found(outputs), self._channel, 0)
            error = error.reshape(channels, -1)
            total += error.sum(axis=1)
            squares += np.einsum("ij,ij->i", error, error)
            count += error.shape[1]
        return Errors(total / max(count, 1), squares / max(count, 1))

    def _found(self, outputs: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        """Return the output in float, whether the model has its integers or not."""
        found = outputs[self._output]
        if self._output_params is None:
            return found.astype(np.float32, copy=False)
        return affine.dequantize(found, self._output_params)  # type: ignore[arg-type]

    def _named(
        self, weight: npt.NDArray[np.int8] | None, bias: npt.NDArray[np.int64] | None
    ) -> Mapping[str, npt.NDArray[np.generic]]:
        named: dict[str, npt.NDArray[np.generic]] = {}
        if weight is not None:
            name = self._quantized.weights[self.unit.node]
            stored = self._constant(name)
            named[name] = (weight.astype(np.int16) + _offset(stored)).astype(stored.dtype)
        if bias is not None:
            name = self._quantized.biases[self.unit.node]
            named[name] = bias.astype(self._constant(name).dtype)
        return named

    def _constant(self, name: str) -> npt.NDArray[np.generic]:
        array = graph.constant(self._quantized.model.graph.initializers[name])
        if array is None:
            raise ValueError(f"{name!r} is no constant")
        return array


def _offset(stored: npt.NDArray[np.generic]) -> int:
    """Return what is added to an int8 weight for it to be stored: 128 where the kernel wants uint8."""
    return 128 if stored.dtype == np.uint8 else 0


def sample_count(state: State, least: int) -> int:
    """Return how many samples to walk: ``least``, or more while all activations of the model together are few."""
    if state.data is None:
        return 0
    outputs = {u.output for u in state.plan.linear_units()}
    elements = sum(s.count for n, s in state.stats.items() if n in outputs) // len(state.data)
    return min(len(state.data), max(least, _AFFORDABLE // max(elements, 1)))


def reconstruct(state: State, quantized: Quantized, samples: int, tick: Tick) -> Iterator[Layer]:
    """Yield every linear unit in topological order; what the caller changes in it is what the next ones see.

    Args:
        state: With data, plan and encodings.
        quantized: The model to change, a copy of the state's.
        samples: This many samples, spread over the dataset.
        tick: Told of progress.
    """
    if state.data is None:
        return
    units = [u for u in state.plan.linear_units() if u.node in quantized.biases]
    nodes = {graph.node_name(n): n for n in state.model.graph}
    data = state.data.take(samples)
    feeds = (feeding.to_integers(feed, quantized.boundary) for feed in data)
    reference = Walk(state.model, [[u.output] for u in units], data, state.threads)
    cuts = [[quantized.tensors.get(t, t) for t in (u.inputs[0][1], u.output)] for u in units]
    candidate = Walk(quantized.model, cuts, feeds, state.threads)
    try:
        for index, unit in enumerate(units):
            expected = spool_all(reference.part(index).run(also=[unit.inputs[0][1], unit.output]))
            yield Layer(unit, nodes[unit.node], candidate.part(index), expected, state, quantized)
            candidate.finish(index, spool_all(candidate.part(index).run()))
            reference.finish(index, expected)
            tick(index + 1, len(units))
    finally:
        reference.close()
        candidate.close()
