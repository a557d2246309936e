"""Writes quantized tensors into a graph: each has a float and an integer version, joined by Q and DQ.

Knows parameters and names, not which operator becomes what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import affine, graph
from quantcli.dtypes import INT8
from quantcli.scratch import Scratch

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.encodings import Encodings
    from quantcli.plan import Unit
    from quantcli.quant import QuantParams

_LONGEST_STEM: Final = 32
Attribute = int | float | str | Sequence[int] | Sequence[float]


def stem(name: str) -> str:
    """Return a short name to derive others from: the last part of a path-like tensor name."""
    return name.replace(";", "/").rstrip("/").rpartition("/")[2][-_LONGEST_STEM:]


class Writer:
    """An editor of one model, with the integer version of each tensor by name.

    What it writes is ``portable`` if asked for: exact on CPUs that add two products of uint8 and int8 in 16 bits.
    """

    def __init__(self, model: ir.Model, encodings: Encodings, *, portable: bool = False) -> None:
        self.portable = portable
        self.model = model
        self.graph = model.graph
        self.encodings = encodings
        self.names = graph.Names(model)
        self.values = graph.named_values(model.graph)
        self.nodes = {graph.node_name(n): n for n in model.graph}
        self.integers: dict[str, ir.Value] = {}
        self.biases: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.bounds: dict[str, tuple[int, int]] = {}
        self.params: dict[str, QuantParams] = {}
        self.kernels: dict[str, str] = {}
        self.facets: dict[tuple[str, str], ir.Value] = {}  # other forms of a tensor's integers, by tensor and form
        self.arithmetic: set[str] = set()  # names of QuantizeLinear nodes that round on the way, on no tensor's grid
        self.nonnegative: set[str] = set()  # tensors none of whose integers is negative
        self._scratch = Scratch()
        self._weights_by_name: dict[str, ir.Value] = {}
        self._shared: dict[tuple[str, str, bytes], ir.Value] = {}  # by type, shape and digest of the contents
        self._dequantized: dict[str, ir.Value] = {}

    def emit(  # noqa: PLR0913 - the parts of a node
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str,
        domain: str = "",
        outputs: int = 1,
        into: ir.Value | None = None,
        output_name: str = "",
    ) -> ir.Value:
        """Append a node and return its first output (``into``, if one is given)."""
        made = [into] if into is not None else [ir.Value() for _ in range(outputs)]
        if into is None:
            for i, value in enumerate(made):
                value.name = self.names.new((output_name or name) + (f"_{i}" if i else ""))
        attrs = ir.convenience.convert_attributes(dict(attributes or {}))
        self.graph.append(ir.Node(domain, op_type, inputs, attrs, outputs=made, name=self.names.new(name)))
        if domain == graph.MICROSOFT:
            self.model.opset_imports.setdefault(domain, 1)
        return made[0]

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Return an initializer with these contents, shared with any other of the same contents."""
        key = (array.dtype.name, str(array.shape), hashlib.sha256(array.tobytes()).digest())
        if key not in self._shared:
            self._shared[key] = graph.add_initializer(self.graph, self.names.new(name), array)
        return self._shared[key]

    def own_constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Return an initializer that nobody else shares, because a later pass may change it."""
        value = graph.add_initializer(self.graph, self.names.new(name), array)
        value.const_value = self._scratch.tensor(array, graph.name_of(value))
        return value

    def scale_and_zero(self, name: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        """Return the initializers of scale and zero point."""
        if params.scale.ndim == 0:
            return (
                self.constant(f"scale_{float(params.scale):.6g}", params.scale),
                self.constant(f"zero_point_{params.spec.dtype.name}_{int(params.zero_point)}", params.zero_point),
            )
        return self.constant(f"{stem(name)}_scale", params.scale), self.constant("zero_points", params.zero_point)

    def params_of(self, tensor: str) -> QuantParams:
        """Return the parameters of an activation and note that they are in use."""
        params = self.encodings.tensors[tensor]
        self.params[tensor] = params
        return params

    def grid(self, tensor: str) -> tuple[ir.Value, ir.Value]:
        """Return the scale and zero point initializers of an activation."""
        return self.scale_and_zero(tensor, self.params_of(tensor))

    def quantized(self, tensor: str) -> ir.Value:
        """Return the integer version of an activation, made by a QuantizeLinear if there is none yet."""
        if tensor in self.integers:
            return self.integers[tensor]
        value, params = self.values[tensor], self.params_of(tensor)
        array = graph.constant(value) if graph.is_constant(value) else None
        if array is not None:
            made = self.own_constant(f"{stem(tensor)}_quantized", affine.quantize(array.astype(np.float32), params))
        else:
            made = self.emit(
                "QuantizeLinear", [value, *self.grid(tensor)], name=f"{stem(tensor)}_QuantizeLinear",
                output_name=f"{stem(tensor)}_quantized", domain=self._domain_of_scaling(tensor),
            )  # fmt: skip
        self.integers[tensor] = made
        return made

    def dequantized(self, tensor: str) -> ir.Value:
        """Return the float version of the integers of an activation: what an operator between DQ and Q reads."""
        if tensor not in self._dequantized:
            self._dequantized[tensor] = self.dequantize(self.quantized(tensor), tensor)
        return self._dequantized[tensor]

    def dequantize(self, integers: ir.Value, tensor: str) -> ir.Value:
        """Append a DequantizeLinear for an activation."""
        return self.emit(
            "DequantizeLinear", [integers, *self.grid(tensor)], name=f"{stem(tensor)}_DequantizeLinear",
            output_name=f"{stem(tensor)}_dequantized", domain=self._domain_of_scaling(tensor),
        )  # fmt: skip

    def _domain_of_scaling(self, tensor: str) -> str:
        """Return whose QuantizeLinear knows the type of a tensor: ONNX has 16 bits since opset 21."""
        wide = self.params_of(tensor).spec.dtype.bits == 16
        return graph.MICROSOFT if wide and graph.opset(self.model) < 21 else ""

    def settle(self, tensor: str, integers: ir.Value) -> None:
        """Declare ``integers`` the source of a tensor: whoever still reads it in float reads their dequantization."""
        self.integers[tensor] = integers
        old = self.values[tensor]
        new = self.dequantize(integers, tensor)
        new.type, new.shape = old.type, old.shape
        graph.replace_value(old, new)
        self._dequantized[tensor] = new
        self.values[tensor] = new

    def quantize_result(self, tensor: str, raw: ir.Value, clamp: tuple[float, float] | None = None) -> None:
        """Let a tensor be the dequantization of the quantization of ``raw``, its value before rounding and clamping."""
        integers = ir.Value(name=self.names.new(f"{stem(tensor)}_quantized"))
        self.settle(tensor, integers)
        raw.name = self.names.new(f"{stem(tensor)}_raw")
        limits = self.limits(tensor, clamp)
        if limits is not None and clamp is not None and self.params_of(tensor).spec.dtype.bits > 8:
            raw, limits = self._clamped_in_float(tensor, raw, clamp), None  # there is no 16-bit Clip
        name, operands = f"{stem(tensor)}_QuantizeLinear", [raw, *self.grid(tensor)]
        if limits is None:
            self.emit("QuantizeLinear", operands, name=name, into=integers)
            return
        rounded = self.emit("QuantizeLinear", operands, name=name, output_name=f"{stem(tensor)}_unclamped")
        self.clamped(tensor, rounded, limits, into=integers)

    def _clamped_in_float(self, tensor: str, raw: ir.Value, clamp: tuple[float, float]) -> ir.Value:
        name = f"{stem(tensor)}_clamp"
        if clamp == (0.0, float("inf")):
            return self.emit("Relu", [raw], name=name)
        ends = [self.constant(f"limit_{v:g}", np.asarray(v, np.float32)) for v in clamp]
        return self.emit("Clip", [raw, *ends], name=name)

    def limits(self, tensor: str, clamp: tuple[float, float] | None) -> tuple[int, int] | None:
        """Return a clamp in integers, or None where the ends of the tensor's grid are the clamp already."""
        if clamp is None:
            return None
        params = self.params_of(tensor)
        ends = (params.spec.qmin, params.spec.qmax)
        steps = np.rint(np.asarray(clamp) / np.float64(params.scale)) + int(params.zero_point)
        low, high = (int(v) for v in np.clip(steps, *ends))
        return None if (low, high) == ends else (low, high)

    def clamped(
        self, tensor: str, integers: ir.Value, limits: tuple[int, int], into: ir.Value | None = None
    ) -> ir.Value:
        """Append the clamp that a grid shared with wider tensors does not express."""
        ends = [self.constant(f"limit_{v}", np.asarray(v, np.uint8)) for v in limits]
        return self.emit(
            "Clip", [integers, *ends], name=f"{stem(tensor)}_clamp", into=into, output_name=f"{stem(tensor)}_clamped"
        )

    def weight(self, unit: Unit) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return the int8 weight of a linear unit with its scale and zero point."""
        name = unit.weight or ""
        params = self.encodings.edges[(unit.node, 1)]
        array = graph.constant(self.values[name])
        if array is None:
            raise ValueError(f"{name!r} is no constant")
        key = self.params.get(name)
        shared = self._weights_by_name.get(name) if key is not None and key.same_as(params) else None
        value = shared or self.own_constant(
            f"{stem(name)}_quantized", affine.quantize(array.astype(np.float32), params)
        )
        self._weights_by_name.setdefault(name, value)
        self.params.setdefault(name, params)
        self.weights[unit.node] = graph.name_of(value)
        return value, *self.scale_and_zero(name, params)

    def bias(self, unit: Unit, channels: int) -> tuple[ir.Value, QuantParams]:
        """Return the int32 bias of a linear unit, zeros where it has none, and its parameters."""
        weight = self.encodings.edges[(unit.node, 1)]
        params = affine.bias_params(self.params_of(unit.inputs[0][1]).scale, weight)
        array = graph.constant(self.values[unit.bias]) if unit.bias else None
        real = np.zeros(channels) if array is None else np.broadcast_to(array.ravel(), (channels,))
        integers = affine.quantize_bias(real, params)
        source = unit.bias or f"{unit.output}_bias"
        value = self.own_constant(f"{stem(source)}_quantized", integers)
        self.biases[unit.node] = graph.name_of(value)
        if unit.bias:
            self.params.setdefault(unit.bias, params)
        return value, params


def to_int8_grid(params: QuantParams) -> QuantParams:
    """Return the int8 parameters with which a uint8 tensor crosses an int8 boundary: zero point - 128."""
    return affine.shifted_to(params, replace(params.spec, dtype=INT8))
