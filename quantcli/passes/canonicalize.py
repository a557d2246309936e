"""Writes what exporters spell differently in one way, without changing the function.

Gemm's alpha, beta and transA are folded; subtraction or division by a constant becomes Add or Mul; a zero Pad joins its
Conv; an average over the whole plane becomes GlobalAveragePool; TensorFlow's spelling of PReLU becomes PRelu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.report import FOLDED, Entry

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.state import State, Tick

_STANDS_FOR_INFINITY: Final = 2.0**100  # exporters write -3.4e38 where they mean -infinity
_AXES_ARE_AN_INPUT: Final = 18  # the opset that made an input of the attribute of ReduceMean
_LEAST_VARIANCE: Final = 1e-18  # ONNX adds 1e-9 to the deviation
Rewrite = Callable[[ir.Node, graph.Names], list[ir.Node]]


@dataclass(frozen=True, slots=True)
class Canonicalize:
    """Rewrites node by node; each rewrite returns the nodes that it made superfluous."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rewrite the prepared model."""
        del tick
        model = state.model.clone()
        names = graph.Names(model)
        entries: dict[str, Entry] = {}
        for node in list(model.graph):
            rewrite = _REWRITES.get(node.op_type) if graph.is_onnx(node) and node.graph is model.graph else None
            for gone in rewrite(node, names) if rewrite else ():
                name = graph.node_name(gone)
                why = "constant" if gone is node else f"folded into {graph.node_name(node)}"
                entries[name] = Entry(name, gone.op_type, FOLDED, reason=why)
                graph.remove_node(gone)
        graph.remove_unused(model)
        model.graph.sort()
        return replace(state, model=model).entered(entries)


def _gemm(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    weight, bias = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 2))
    alpha, beta = (graph.float_attribute(node, a, 1.0) for a in ("alpha", "beta"))
    if weight is None or weight.dtype != np.float32 or (bias is None and graph.input_at(node, 2) is not None):
        return []
    if alpha != 1.0:
        graph.set_own_constant(node, 1, (weight.astype(np.float64) * alpha).astype(np.float32), names)
        node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
    channels = weight.shape[0 if graph.int_attribute(node, "transB", 0) else 1]
    if bias is not None:
        if bias.size not in (1, channels) or (bias.size == channels and bias.shape[-1:] != (channels,)):
            return []
        full = np.broadcast_to(bias.ravel().astype(np.float64) * beta, (channels,)).astype(np.float32)
        if beta != 1.0 or bias.shape != full.shape:
            graph.set_own_constant(node, 2, np.array(full), names)
    if beta != 1.0:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    if graph.int_attribute(node, "transA", 0) and node.inputs[0] is not None:
        turned = ir.node("Transpose", [node.inputs[0]], {"perm": [1, 0]}, name=names.new(f"{node.name}_transA"))
        turned.outputs[0].name = names.new(f"{graph.name_of(node.inputs[0])}_transposed")
        node.prepend(turned)
        node.replace_input_with(0, turned.outputs[0])
        node.attributes["transA"] = ir.AttrInt64("transA", 0)
    return []


def _sub(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    array = graph.real_constant(node.inputs[1])
    if array is not None and array.dtype == np.float32:
        graph.set_own_constant(node, 1, -array, names)
        node.op_type = "Add"
    return []


def _div(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    array = graph.real_constant(node.inputs[1])
    if array is not None and array.dtype == np.float32 and np.all(array != 0) and np.all(np.isfinite(1 / array)):
        graph.set_own_constant(node, 1, (1.0 / array.astype(np.float64)).astype(np.float32), names)
        node.op_type = "Mul"
    return []


def _conv(node: ir.Node, _names: graph.Names) -> list[ir.Node]:
    """Take a constant zero Pad of spatial axes into the convolution's own padding."""
    pad = node.inputs[0].producer() if node.inputs[0] is not None else None
    if pad is None or not graph.is_onnx(pad, "Pad") or graph.only_consumer(pad.outputs[0]) is not node:
        return []
    pads = _zero_pads(pad)
    automatic = node.attributes.get("auto_pad")
    if pads is None or (automatic is not None and automatic.as_string() not in ("NOTSET", "VALID")):
        return []
    rank = len(pads) // 2
    if any(pads[i] for i in (0, 1, rank, rank + 1)) or min(pads) < 0:
        return []
    own = graph.ints_attribute(node, "pads") or (0,) * (2 * rank - 4)
    total = [a + b for a, b in zip(own, (*pads[2:rank], *pads[rank + 2 :]), strict=True)]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", total)
    node.replace_input_with(0, pad.inputs[0])
    return [pad]


def _average_pool(node: ir.Node, _names: graph.Names) -> list[ir.Node]:
    """Recognise an AveragePool over the whole plane: GlobalAveragePool has a far faster integer kernel."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    kernel = graph.ints_attribute(node, "kernel_shape")
    if shape is None or kernel is None or tuple(shape[2:]) != kernel or any(graph.ints_attribute(node, "pads") or ()):
        return []
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return []
    if any(d != 1 for d in graph.ints_attribute(node, "dilations") or ()):
        return []
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    return []


def _transpose(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    """Evaluate the transpose of a constant: what reads it has a weight then, stored once where it is the same."""
    array, perm = graph.constant(node.inputs[0]), graph.ints_attribute(node, "perm")
    result = node.outputs[0]
    if array is None or not graph.is_constant(node.inputs[0]) or result.is_graph_output():
        return []
    name = graph.name_of(result)
    result.name = names.new(f"{name}_computed")
    turned = graph.add_initializer(node.graph, name, np.ascontiguousarray(np.transpose(array, perm)))  # type: ignore[arg-type]
    ir.convenience.replace_all_uses_with(result, turned)
    return [node]


def _max_pool(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    """Fill with -infinity what is filled with the lowest float32 before a maximum: it never wins, and has no range."""
    pad = node.inputs[0].producer() if node.inputs[0] is not None else None
    if pad is None or not graph.is_onnx(pad, "Pad") or graph.only_consumer(pad.outputs[0]) is not node:
        return []
    value, pads = graph.real_constant(graph.input_at(pad, 2)), graph.constant(graph.input_at(pad, 1))
    kernel = graph.ints_attribute(node, "kernel_shape") or (0,)
    if value is None or pads is None or value.dtype != np.float32 or value.size != 1:
        return []
    if float(value.item()) <= -_STANDS_FOR_INFINITY and np.isfinite(value).all() and pads.max() < min(kernel):
        graph.set_own_constant(pad, 2, np.full_like(value, -np.inf), names)
    return []


def _zero_pads(pad: ir.Node) -> tuple[int, ...] | None:
    mode = pad.attributes.get("mode")
    if (mode is not None and mode.as_string() != "constant") or graph.input_at(pad, 3) is not None:
        return None
    value = graph.input_at(pad, 2)
    filler = graph.constant(value) if value is not None else np.zeros(1)
    pads = graph.constant(pad.inputs[1]) if graph.is_constant(pad.inputs[1]) else None
    if pads is None or filler is None or filler.size != 1 or filler.item() != 0:
        return None
    return tuple(int(p) for p in pads)


def _add(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    """Recognise relu(x) + 0.5 * alpha * (x - |x|), TensorFlow's spelling of PReLU."""
    for relu, mul in ((0, 1), (1, 0)):
        found = _prelu(node.inputs[relu], node.inputs[mul])
        if found is None:
            continue
        source, slope, inner = found
        value = graph.add_initializer(node.graph, names.new(f"{graph.name_of(node.outputs[0])}_slope"), slope)  # type: ignore[arg-type]
        node.op_type = "PRelu"
        node.replace_input_with(0, source)
        node.replace_input_with(1, value)
        return inner
    return []


def _prelu(
    relu: ir.Value | None, mul: ir.Value | None
) -> tuple[ir.Value, npt.NDArray[np.float32], list[ir.Node]] | None:
    positive, scaled = (v.producer() if v is not None else None for v in (relu, mul))
    if positive is None or scaled is None or not graph.is_onnx(positive, "Relu"):
        return None
    factors, inner = [], [positive]
    difference: ir.Node | None = scaled
    while difference is not None and graph.is_onnx(difference, "Mul"):
        inner.append(difference)
        constants = [graph.constant(v) for v in difference.inputs if graph.is_constant(v)]
        variables = [v for v in difference.inputs if v is not None and not graph.is_constant(v)]
        if len(constants) != 1 or len(variables) != 1 or constants[0] is None:
            return None
        factors.append(constants[0].astype(np.float64))
        difference = variables[0].producer()
    if difference is None or not graph.is_onnx(difference, "Sub") or not factors:
        return None
    absolute = difference.inputs[1].producer() if difference.inputs[1] is not None else None
    source = difference.inputs[0]
    if absolute is None or source is None or not graph.is_onnx(absolute, "Abs") or absolute.inputs[0] is not source:
        return None
    inner += [difference, absolute]
    if positive.inputs[0] is not source or any(graph.only_consumer(n.outputs[0]) is None for n in inner):
        return None
    slope = 2.0 * np.prod(np.broadcast_arrays(*factors), axis=0)
    return source, np.asarray(slope, np.float32), inner


def _mean_variance(node: ir.Node, names: graph.Names) -> list[ir.Node]:
    """Spell it out: onnxruntime's operator gives NaN where all values are equal, as rounded ones may be; ONNX's 0."""
    home, source = node.graph, node.inputs[0]
    axes = graph.ints_attribute(node, "axes") or (0, 2, 3)
    rank = len(source.shape) if source is not None and source.shape is not None else 0
    if not isinstance(home, ir.Graph) or source is None or not all(-rank <= a < rank for a in axes):
        return []  # what onnxruntime makes of axes that are not there is its own

    def before(op_type: str, inputs: list[ir.Value]) -> ir.Value:
        name = names.new(f"{node.name}_{op_type}")
        made = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        home.append(ir.Node("", op_type, inputs, outputs=[made], name=names.new(f"{name}_node")))
        return made

    def mean(value: ir.Value) -> ir.Value:
        as_input = max(home.opset_imports.get(d, 1) for d in graph.ONNX_DOMAINS) >= _AXES_ARE_AN_INPUT
        given = [graph.add_initializer(home, names.new(f"{node.name}_axes"), np.array(axes))] if as_input else []
        made = before("ReduceMean", [value, *given])
        reduction = made.producer()
        if reduction is not None and not as_input:
            reduction.attributes["axes"] = ir.AttrInt64s("axes", axes)
        return made

    centred = before("Sub", [source, mean(source)])
    tiny = graph.add_initializer(home, names.new(f"{node.name}_epsilon"), np.array(_LEAST_VARIANCE, np.float32))
    variance = before("Add", [mean(before("Mul", [centred, centred])), tiny])
    node.op_type = "Div"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, centred)
    node.replace_input_with(1, before("Sqrt", [variance]))
    return []


_REWRITES: Final[dict[str, Rewrite]] = {
    "MeanVarianceNormalization": _mean_variance,
    "Gemm": _gemm,
    "Sub": _sub,
    "Div": _div,
    "Conv": _conv,
    "Add": _add,
    "AveragePool": _average_pool,
    "Transpose": _transpose,
    "MaxPool": _max_pool,
}
