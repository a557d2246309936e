"""Turns the float types of a model that quantization does not know into float32: float16, bfloat16 and float64.

Sources of types are rewritten (constants, declared tensors, attributes that name a type); every other operator passes
on what it reads. Knows nothing of quantization.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, positions

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    import numpy.typing as npt

FLOAT: Final = ir.DataType.FLOAT
OTHERS: Final = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
NAMES: Final = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16", ir.DataType.DOUBLE: "float64"}
# Attributes that hold the number of a type, in the operators of ONNX and in functions that hand them on.
TYPE_ATTRIBUTES: Final = frozenset(
    {"to", "dtype", "output_datatype", "output_dtype", "stash_type", "softmax_precision", "qk_matmul_output_type"}
)


def has_others(model: ir.Model) -> bool:
    """Tell whether a tensor, a constant or an attribute of the model names a float type other than float32."""
    return any(True for _ in _sources(model))


def widened(model: ir.Model) -> tuple[ir.Model, dict[str, int]]:
    """Return the model in float32, and how many tensors had which other type; the model itself where none has.

    A float64 number beyond float32 becomes its largest one, and what would vanish its smallest normal one: masks and
    epsilons keep their meaning. What float64 computes of positions alone (``positions``) stays float64.
    """
    if not has_others(model):
        return model, {}
    result = model.clone()
    kept = positions.in_float64(result)
    counted: Counter[str] = Counter()
    for part in _parts(result):
        counted.update(_widen_values(part, kept))
        for node in part:
            if node not in kept:
                counted.update(_widen_attributes(node))
    positions.separate(result, kept)
    return result, dict(sorted(counted.items()))


def to_float32(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return the numbers in float32; finite ones stay finite, and only zero becomes zero."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = array.astype(np.float32)
    if array.dtype != np.float64:
        return found
    limits = np.finfo(np.float32)
    found = np.where(np.isinf(found) & np.isfinite(array), np.copysign(limits.max, found), found)
    lost = (np.abs(found) < limits.tiny) & (array != 0)
    return np.where(lost, np.copysign(limits.tiny, array), found).astype(np.float32)


def _parts(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of the model: the main one, those of functions, and the bodies of nodes in them."""
    yield from graph.all_graphs(model)
    for function in model.functions.values():
        yield function.graph
        yield from function.graph.subgraphs()


def _sources(model: ir.Model) -> Iterator[object]:
    for part in _parts(model):
        yield from (v for v in _values(part) if _named(v.type) or _held(v.const_value))
        yield from (a for node in part for a in node.attributes.values() if _names_other(a))


def _values(part: ir.Graph) -> Iterator[ir.Value]:
    yield from part.inputs
    yield from (v for v in part.initializers.values() if not v.is_graph_input())
    yield from (v for node in part for v in node.outputs)


def _named(kind: ir.TypeProtocol | None) -> ir.DataType | None:
    return kind.dtype if kind is not None and kind.dtype in OTHERS else None


def _held(tensor: ir.TensorProtocol | None) -> ir.DataType | None:
    return tensor.dtype if tensor is not None and tensor.dtype in OTHERS else None


def _names_other(attribute: ir.Attr) -> bool:
    if attribute.is_ref():
        return False
    if attribute.type == ir.AttributeType.INT:
        return attribute.name in TYPE_ATTRIBUTES and attribute.as_int() in OTHERS
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype in OTHERS
    return attribute.type == ir.AttributeType.TENSORS and any(t.dtype in OTHERS for t in attribute.as_tensors())


def _widen_values(part: ir.Graph, kept: Container[object]) -> Iterator[str]:
    for value in _values(part):
        found = _named(value.type) or _held(value.const_value)
        if found is None or value.producer() in kept or value in kept:
            continue
        if value.type is not None:
            value.type = _in_float32(value.type)
        if value.const_value is not None and _held(value.const_value):
            value.const_value = _wide_tensor(value.const_value)
        yield NAMES[found]


def _in_float32(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    inner = getattr(kind, "elem_type", None)
    if isinstance(kind, ir.SequenceType | ir.OptionalType) and inner is not None and not isinstance(inner, ir.DataType):
        return type(kind)(_in_float32(inner))
    return type(kind)(FLOAT) if isinstance(kind, ir.TensorType | ir.SparseTensorType) else kind


def _wide_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the constant in float32; what is mapped from a file is widened whenever it is read, not all at once."""
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.Tensor(to_float32(tensor.numpy()), name=tensor.name)
    return ir.LazyTensor(
        lambda: ir.Tensor(to_float32(tensor.numpy()), name=tensor.name),
        FLOAT,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _widen_attributes(node: ir.Node) -> Iterator[str]:
    for name, attribute in list(node.attributes.items()):
        if not _names_other(attribute):
            continue
        untold = not any(_named(v.type) for v in node.outputs) and all(v.dtype != FLOAT for v in node.outputs)
        if attribute.type == ir.AttributeType.INT:
            found = ir.DataType(attribute.as_int())
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))
        elif attribute.type == ir.AttributeType.TENSOR:
            found = attribute.as_tensor().dtype
            node.attributes[name] = ir.AttrTensor(name, _wide_tensor(attribute.as_tensor()))
        else:
            tensors = attribute.as_tensors()
            found = next(t.dtype for t in tensors if t.dtype in OTHERS)
            node.attributes[name] = ir.AttrTensors(name, [_wide_tensor(t) if _held(t) else t for t in tensors])
        if untold:  # a result that is declared was counted by its declaration
            yield NAMES[found]
