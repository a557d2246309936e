"""Stored weights in a graph: the integers under the user's name, and their expansion to float32 at load time.

Cast and Mul of constants are evaluated by onnxruntime when it loads a model; a DequantizeLinear of them is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_ir as ir

from quantcli import affine, graph
from quantcli.quant import PerAxis, PerBlock
from quantcli.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from quantcli.dtypes import DType
    from quantcli.plan import StoredWeight
    from quantcli.quant import QuantParams
    from quantcli.writer import Attribute

    Round = Callable[[npt.NDArray[np.floating], StoredWeight], tuple[npt.NDArray[np.integer], QuantParams]]

T = TypeVar("T", bound=np.generic)


class WeightWriter:
    """An editor of one model, with the integers of each stored weight. What it makes has short names: bytes count."""

    def __init__(self, model: ir.Model, rounded: Round) -> None:
        self.model = model
        self.params: dict[str, QuantParams] = {}
        self._rounded = rounded
        self._scratch = Scratch()
        self._graphs = list(graph.all_graphs(model))
        self._names = graph.Names(model)
        self._made = 0
        self._params: dict[StoredWeight, QuantParams] = {}
        self._stored: dict[str, ir.Value] = {}
        self._integers: dict[StoredWeight, ir.Value] = {}
        self._expanded: dict[StoredWeight, ir.Value] = {}
        self._quantized: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def short_name(self) -> str:
        """Return a name that nothing has."""
        self._made += 1
        return self._names.new(f"q{self._made}")

    def emit(  # noqa: PLR0913 - the parts of a node
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str = "",
        domain: str = "",
        into: ir.Graph | None = None,
        outputs: int = 1,
    ) -> list[ir.Value]:
        """Append a node to the main graph, or to another one, and return its outputs."""
        made = [ir.Value(name=self.short_name()) for _ in range(outputs)]
        attrs = ir.convenience.convert_attributes(dict(attributes or {}))
        node = ir.Node(domain, op_type, inputs, attrs, outputs=made, name=name)
        (self.model.graph if into is None else into).append(node)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        return made

    def constant(self, array: npt.NDArray[np.generic], into: ir.Graph | None = None) -> ir.Value:
        """Return a small constant with these contents."""
        return graph.add_initializer(self.model.graph if into is None else into, self.short_name(), array)

    def replace(self, weight: StoredWeight) -> ir.Value:
        """Put the integers of a weight in the place of its real numbers, for all who read it."""
        home = self._graphs[weight.scope]
        old = home.initializers.pop(weight.name)
        old.name = f"{weight.name}__real"
        value = self._turned(weight) if weight.twin else self._quantize(weight, old, home)
        ir.convenience.replace_all_uses_with(old, value)
        self._integers[weight] = value
        return value

    def _quantize(self, weight: StoredWeight, old: ir.Value, home: ir.Graph) -> ir.Value:
        real = graph.real_constant(old)
        if real is None:
            raise ValueError(f"{weight.name!r} is no constant")
        integers, params = self._rounded(real, weight)
        name = weight.name if weight.name not in self.params else self.short_name()
        value = _initializer(name, integers, params.spec.dtype, self._scratch)
        home.register_initializer(value)
        self.params[name] = self._params[weight] = params
        self._stored.setdefault(name, value)
        return value

    def _turned(self, weight: StoredWeight) -> ir.Value:
        """Return the transpose of the integers of another weight; onnxruntime evaluates it at load time."""
        self._params[weight] = affine.transposed(self.params[weight.twin])
        stored = self._stored[weight.twin]
        (value,) = self.emit("Transpose", [stored], {"perm": [1, 0]})
        value.shape = ir.Shape(shape_of(stored)[::-1])
        return value

    def integers(self, weight: StoredWeight) -> ir.Value:
        """Return the integers of a weight that was replaced."""
        return self._integers[weight]

    def params_of(self, weight: StoredWeight) -> QuantParams:
        """Return the parameters of a weight that was replaced."""
        return self._params[weight]

    def zero_point(self, array: npt.NDArray[np.integer], dtype: DType, into: ir.Graph | None = None) -> ir.Value:
        """Return zero points as a constant of the weight's own type."""
        value = _initializer(self.short_name(), array, dtype, self._scratch)
        (self.model.graph if into is None else into).register_initializer(value)
        return value

    def quantized(self, value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return an activation as uint8 with its scale and zero point, quantized once for all who read it."""
        if value not in self._quantized:
            integers, scale, zero = self.emit("DynamicQuantizeLinear", [value], outputs=3)
            self._quantized[value] = (integers, scale, zero)
        return self._quantized[value]

    def expanded(self, weight: StoredWeight) -> ir.Value:
        """Return the weight in float32, as onnxruntime makes it when it loads the model."""
        if weight not in self._expanded:
            self._expanded[weight] = self._expand(weight)
        return self._expanded[weight]

    def _expand(self, weight: StoredWeight) -> ir.Value:
        home, params = self._graphs[weight.scope], self.params_of(weight)
        shape = shape_of(self._integers[weight])
        real = self._real(self._integers[weight], home)
        if params.zero_point.any():
            zero_points = _broadcasting(params, params.zero_point, shape)
            zero = self._real(self.zero_point(zero_points, params.spec.dtype, home), home)
            (real,) = self.emit("Sub", [real, self._along(zero, params, shape, home)], into=home)
        scale = self.constant(_broadcasting(params, params.scale, shape), home)
        return self.emit("Mul", [real, self._along(scale, params, shape, home)], into=home)[0]

    def _real(self, integers: ir.Value, home: ir.Graph) -> ir.Value:
        return self.emit("Cast", [integers], {"to": int(ir.DataType.FLOAT)}, into=home)[0]

    def _along(self, value: ir.Value, params: QuantParams, shape: tuple[int, ...], home: ir.Graph) -> ir.Value:
        """Repeat what stands once per block for each index of the axis."""
        blocks = params.spec.granularity
        if not isinstance(blocks, PerBlock) or blocks.size >= shape[blocks.axis]:
            return value
        each = self.constant((np.arange(shape[blocks.axis]) // blocks.size).astype(np.int32), home)
        return self.emit("Gather", [value, each], {"axis": blocks.axis}, into=home)[0]


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a constant."""
    return tuple(value.shape.numpy()) if value.shape is not None else ()


def _broadcasting(params: QuantParams, array: npt.NDArray[T], shape: tuple[int, ...]) -> npt.NDArray[T]:
    """Return scales or zero points in the shape in which they broadcast against the weight; (C, 1, 1) for axis -3."""
    grouping = params.spec.granularity
    if not isinstance(grouping, PerAxis):
        return array
    return array.reshape(-1, *(1,) * (len(shape) - 1 - grouping.axis % len(shape)))


def _initializer(name: str, array: npt.NDArray[np.integer], dtype: DType, scratch: Scratch) -> ir.Value:
    """Return a constant of any of the integer types; two of 4 bits share a byte, the first in the low half."""
    kind = ir.DataType(dtype.onnx)
    if dtype.bits != 4:
        tensor = scratch.tensor(array, name)
    else:
        flat = array.ravel().astype(np.uint8) & 15
        pairs = np.append(flat, np.zeros(flat.size % 2, np.uint8)).reshape(-1, 2)
        tensor = scratch.packed(pairs[:, 0] | pairs[:, 1] << 4, kind, array.shape, name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(kind), shape=ir.Shape(array.shape))
