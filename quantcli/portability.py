"""Which integer products of a model are exact on every CPU, and which may saturate on x86 without VNNI.

Reads the emitted graph, weights as they are stored; ``saturation`` knows the arithmetic. Looks at no CPU: a model gives
the same answer everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, saturation
from quantcli.errors import InternalError
from quantcli.report import Product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from quantcli.plan import Plan, Unit
    from quantcli.recipe import Recipe
    from quantcli.state import Quantized

    Array = npt.NDArray[np.generic]

_BYTES: Final[Mapping[str, tuple[int, int]]] = {"uint8": (0, 255), "int8": (-128, 127)}
_DEPTHWISE: Final = "depthwise: products are added in 32 bits"
_IN_32_BITS: Final = "{} x {}: products are added in 32 bits"
_WITHIN: Final = "any two products fit into 16 bits together"
_BEYOND: Final = "two products may be too much for 16 bits"


@dataclass(frozen=True, slots=True)
class Operands:
    """Where an operator has the two factors of its products, by input index.

    Attributes:
        data: The activations.
        weight: The weight.
        zeros: Zero points of both, whose types are theirs; None where the factor is dequantized, or quantized inside.
        inside: Whether the operator quantizes its activations itself, to uint8.
        turned: Whether the kernel takes the weight as its left operand.
        convolves: Whether the weight is (C_out, C_in / group, *taps) instead of (..., K, N).
        depthwise: Whether depthwise convolutions have a kernel of their own, which adds in 32 bits.
    """

    data: int
    weight: int
    zeros: tuple[int | None, int | None] = (None, None)
    inside: bool = False
    turned: bool = False
    convolves: bool = False
    depthwise: bool = False


# Measured with onnxruntime 1.31 on AVX2 and on AVX512 without VNNI, with and without its graph optimizations.
OPERANDS: Final[Mapping[str, tuple[Operands, ...]]] = {
    "QLinearConv": (Operands(0, 3, (2, 5), convolves=True, depthwise=True),),
    "QLinearMatMul": (Operands(0, 3, (2, 5)),),
    "QGemm": (Operands(0, 3, (2, 5)),),
    "MatMulInteger": (Operands(0, 1, (2, 3)),),
    "ConvInteger": (Operands(0, 1, (2, 3), turned=True, convolves=True),),
    "DynamicQuantizeLSTM": (Operands(0, 1, (None, 9), inside=True), Operands(0, 2, (None, 11), inside=True)),
    "Conv": (Operands(0, 1, convolves=True, depthwise=True),),
    "Gemm": (Operands(0, 1),),
    "MatMul": (Operands(0, 1),),
}
"""Every product that our emitters write; a float operator is one where both of its factors are dequantized bytes."""


def products(quantized: Quantized, plan: Plan) -> tuple[Product, ...]:
    """Return the integer products of a model, one for each operator and weight as the user knows them."""
    owners = {quantized.weights[u.node]: u for u in plan.linear_units() if u.node in quantized.weights}
    found: dict[tuple[str, str], Product] = {}
    for node in quantized.model.graph.all_nodes():
        for product in _products(node, owners):
            known = found.setdefault((product.node, product.weight), product)
            if known.largest_pair < product.largest_pair:  # the same weight by another part of the activations
                found[product.node, product.weight] = product
    return tuple(found.values())


def adds_pairs(unit: Unit, node: ir.Node, recipe: Recipe) -> bool:
    """Tell whether a linear unit would be computed by a kernel that adds two products in 16 bits without VNNI."""
    weight = graph.constant(graph.input_at(node, 1))
    return recipe.form != "wide" and not (unit.lowering == "conv" and _is_depthwise(node, weight))


def check_portable(found: Iterable[Product]) -> None:
    """Raise for the first product that is not exact everywhere.

    Raises:
        InternalError: With the operator, its weight, and the largest sum of two products.
    """
    for product in found:
        if not product.exact:
            raise InternalError(
                f"operator {product.node!r} ({product.op_type}): two products with weight {product.weight!r} may sum "
                f"to {product.largest_pair}, beyond 16 bits, in a model that is to be exact on every CPU"
            )


def said(found: tuple[Product, ...]) -> tuple[str, ...]:
    """Return a line for the user where products may saturate."""
    open_ones = sum(not p.exact for p in found)
    if not open_ones:
        return ()
    line = f"{open_ones} of {len(found)} integer products may saturate on x86 CPUs without VNNI, giving wrong numbers"
    return (f"{line} there; --portable makes them exact everywhere",)


def _products(node: ir.Node, owners: Mapping[str, Unit]) -> Iterator[Product]:
    for operands in OPERANDS.get(node.op_type, ()):
        weight = graph.input_at(node, operands.weight)
        types = _types(node, operands)
        if weight is None or any(t not in _BYTES for t in types):
            continue
        stored = _stored_name(weight)
        owner = owners.get(stored)
        name, user = (owner.node, owner.weight or "") if owner is not None else (graph.node_name(node), stored)
        yield _judged(node, operands, types, Product(name, node.op_type, user, exact=True))


def _judged(node: ir.Node, operands: Operands, types: tuple[str, str], product: Product) -> Product:
    """Return the product with what is known of its sums; a computed weight may hold whatever its type does."""
    data, weight = types
    array = _evaluated(graph.input_at(node, operands.weight))
    if (types[::-1] if operands.turned else types) != ("uint8", "int8"):
        return replace(product, reason=_IN_32_BITS.format(data, weight))
    if operands.depthwise and _is_depthwise(node, array):
        return replace(product, reason=_DEPTHWISE)
    rows = np.asarray([_BYTES[weight] * 2]) if array is None else _rows(node, operands, array)
    lowest, highest = saturation.pair_sums(rows, *_BYTES[data])
    exact = saturation.is_exact((lowest, highest))
    return replace(
        product,
        exact=bool(exact.all()),
        reason=_WITHIN if exact.all() else _BEYOND,
        largest_pair=max(int(highest.max(initial=0)), -int(lowest.min(initial=0))),
        channels=int(np.count_nonzero(~exact)),
    )


def _rows(node: ir.Node, operands: Operands, weight: Array) -> npt.NDArray[np.integer]:
    """Return a weight as (output channels, products per output)."""
    if not operands.convolves and weight.ndim > 1 and not graph.int_attribute(node, "transB", 0):
        weight = np.moveaxis(weight, -2, -1)
    channels = 1 if weight.ndim == 1 else weight.shape[0] if operands.convolves else weight[..., 0].size
    return weight.reshape(channels, -1)  # type: ignore[return-value]


def _types(node: ir.Node, operands: Operands) -> tuple[str, str]:
    """Return the types of both factors, as they are stored; empty where one is no integer."""
    data, weight = (
        _type(graph.input_at(node, factor), graph.input_at(node, zero))
        for factor, zero in zip((operands.data, operands.weight), operands.zeros, strict=True)
    )
    return "uint8" if operands.inside else data, weight


def _type(value: ir.Value | None, zero: ir.Value | None) -> str:
    """Return the type of a factor: that of its zero point, or of the integers that it is; empty where unknown."""
    maker = value.producer() if value is not None else None
    if maker is not None and maker.op_type == "DequantizeLinear":
        return _type(graph.input_at(maker, 0), graph.input_at(maker, 2))
    if zero is not None and zero.producer() is not None:
        return "uint8"  # only DynamicQuantizeLinear computes a zero point
    known = zero if zero is not None else value
    if known is not None and known.dtype is None and maker is not None and maker.op_type in _STEPS:
        return _type(graph.input_at(maker, 0), None)
    return known.dtype.name.lower() if known is not None and known.dtype is not None else ""


def _is_depthwise(node: ir.Node, weight: Array | None) -> bool:
    """Tell whether each output channel reads one input channel, and each input channel makes one."""
    groups = graph.int_attribute(node, "group", 1)
    return weight is not None and weight.shape[:2] == (groups, 1)


def _stored_name(value: ir.Value) -> str:
    """Return the name of the constant that a value is made of, or its own."""
    maker = value.producer()
    source = graph.input_at(maker, 0) if maker is not None and maker.op_type in (*_STEPS, "DequantizeLinear") else None
    return graph.name_of(value) if source is None else _stored_name(source)


def _evaluated(value: ir.Value | None) -> Array | None:
    """Return the stored integers of a weight, through what onnxruntime evaluates when it loads a model, or None."""
    return _known_integers(value, {})


def _known_integers(value: ir.Value | None, met: dict[ir.Value, Array | None]) -> Array | None:
    if value is None or value in met:
        return None if value is None else met[value]
    maker = value.producer()
    if maker is None:
        found = graph.constant(value)
    elif maker.op_type == "DequantizeLinear":
        found = _known_integers(graph.input_at(maker, 0), met)
    else:
        found = _stepped(maker, met) if maker.op_type in _STEPS else None
    met[value] = found
    return found


def _stepped(maker: ir.Node, met: dict[ir.Value, Array | None]) -> Array | None:
    sources = []
    for value in maker.inputs:
        source = _known_integers(value, met)
        if source is None:
            return None  # computed from activations: there is nothing to evaluate
        sources.append(source)
    return _STEPS[maker.op_type](maker, *sources)


def _transpose(node: ir.Node, array: Array) -> Array:
    return np.transpose(array, graph.ints_attribute(node, "perm"))


def _reshape(_node: ir.Node, array: Array, shape: Array) -> Array:
    wanted = [int(array.shape[i] if d == 0 else d) for i, d in enumerate(shape)]
    return array.reshape(wanted)


def _cast(node: ir.Node, array: Array) -> Array:
    return array.astype(ir.DataType(node.attributes["to"].as_int()).numpy())  # bytes wrap, as they do in onnxruntime


def _add(_node: ir.Node, array: Array, other: Array) -> Array:
    return array + other  # type: ignore[operator]


_STEPS: Final[Mapping[str, Callable[..., Array]]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Cast": _cast,
    "Add": _add,
}
