"""Small float ONNX models for the tests, and samples to feed them with: from text, or of one operator. All is seeded.

Knows nothing of quantcli.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper, parser, shape_inference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from onnx import ModelProto, NodeProto, ValueInfoProto

    Array = npt.NDArray[np.generic]

OPSET = 21
_IR = {9: 4, 11: 6, 13: 7, 14: 7, 15: 8, 17: 8}  # the IR version of its time, for opsets below 19


class Fed(NamedTuple):
    """A graph input of a given shape whose values lie in [low, high]; floats are drawn from a normal if both are 0."""

    shape: tuple[int | str, ...]
    low: float = 0
    high: float = 0
    dtype: str = "float32"


Operand = Fed | tuple[int, ...] | np.ndarray | None
"""A fed input, in short its shape; an array is an initializer; None is an absent input."""


# ---- models ----------------------------------------------------------------------------------------------------------


def text(source: str, /, *, opset: int = OPSET, domains: Sequence[str] = (), **arrays: npt.ArrayLike) -> ModelProto:
    """Return the model that ``(float[1,3] x) => (float y) { y = Relu(x) }`` says; shapes of outputs are inferred.

    Args:
        source: The graph, without the model's header and the graph's name.
        opset: Version of the ONNX operators.
        domains: Further operator domains, version 1.
        arrays: Initializers by name; numbers become float32, arrays keep their type.
    """
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in domains)])
    header = f"<ir_version: {_IR.get(opset, 10)}, opset_import: [{imports}]> tested "
    model = parser.parse_model(header + source)
    model.graph.initializer.extend(initializer(name, array) for name, array in arrays.items())
    return with_inferred_outputs(model)


def operator(
    op_type: str,
    operands: Sequence[Operand],
    attributes: Mapping[str, object] | None = None,
    *,
    outputs: int = 1,
    opset: int = OPSET,
) -> ModelProto:
    """Return the model of one operator named ``tested``: inputs x0, x1 ..., constants c0, c1 ..., outputs y, y1 ..."""
    inputs, arrays, names = {}, {}, []
    for index, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, np.ndarray):
            arrays[f"c{index}"] = operand
            names.append(f"c{index}")
        else:
            inputs[f"x{index}"] = fed(operand)
            names.append(f"x{index}")
    results = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op_type, names, results, name="tested", **(attributes or {}))
    return graph([node], inputs, results, arrays, opset=opset)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Fed],
    outputs: Sequence[str],
    arrays: Mapping[str, npt.ArrayLike],
    *,
    opset: int = OPSET,
) -> ModelProto:
    """Return a model of these nodes; the types and shapes of its outputs are inferred."""
    made = helper.make_graph(
        nodes,
        "tested",
        [helper.make_tensor_value_info(n, _onnx_type(f.dtype), f.shape) for n, f in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [initializer(name, array) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=imports, ir_version=_IR.get(opset, 10))
    return with_inferred_outputs(model)


def with_inferred_outputs(model: ModelProto) -> ModelProto:
    """Return the model with the types and shapes of its outputs that follow from its inputs, where none is given."""
    for output in model.graph.output:
        if not output.type.tensor_type.shape.dim:
            output.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    del inferred.graph.value_info[:]
    return inferred


def initializer(name: str, array: npt.ArrayLike) -> TensorProto:
    """Return a constant of the graph; Python numbers become float32."""
    made = array if isinstance(array, np.ndarray | np.generic) else np.asarray(array, np.float32)
    return numpy_helper.from_array(np.asarray(made), name)


def fed(operand: Fed | tuple[int, ...]) -> Fed:
    """Return a fed operand of which only the shape may be given."""
    return operand if isinstance(operand, Fed) else Fed(operand)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def weight(*shape: int, seed: int = 0, spread: float = 0.5, scaled: int | None = None) -> npt.NDArray[np.float32]:
    """Return a random weight; along the axis ``scaled`` its slices are 1 to 1000 times as large."""
    array = np.random.default_rng([seed, *shape]).normal(0, spread, shape)
    if scaled is not None:
        factors = np.geomspace(1, 1000, shape[scaled])
        array = array * factors.reshape([-1 if a == scaled % len(shape) else 1 for a in range(len(shape))])
    return array.astype(np.float32)


def ints(*values: int) -> npt.NDArray[np.int64]:
    """Return a constant list of indices, axes or sizes."""
    return np.asarray(values, np.int64)


def samples(
    model: ModelProto, count: int = 12, *, seed: int = 0, ranges: Mapping[str, Fed] | None = None, **sizes: int
) -> list[dict[str, Array]]:
    """Return feeds for every graph input; ``ranges`` says what the values are, ``sizes`` what free dimensions are."""
    rng = np.random.default_rng(seed)
    wanted = {n: (ranges or {}).get(n) or found for n, found in graph_inputs(model).items()}
    return [{n: _drawn(rng, w, sizes) for n, w in wanted.items()} for _ in range(count)]


def graph_inputs(model: ModelProto) -> dict[str, Fed]:
    """Return the inputs of a model that are fed."""
    known = {i.name for i in model.graph.initializer}
    return {v.name: fed_like(v) for v in model.graph.input if v.name not in known}


def fed_like(value: ValueInfoProto) -> Fed:
    """Return the operand with the type and shape of a graph input or output."""
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return Fed(shape, dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)


def _drawn(rng: np.random.Generator, wanted: Fed, sizes: Mapping[str, int]) -> Array:
    shape = [sizes[d] if isinstance(d, str) else d for d in wanted.shape]
    if wanted.dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if "int" in wanted.dtype:
        return rng.integers(int(wanted.low), int(wanted.high), shape, wanted.dtype, endpoint=True)
    plain = wanted.low == wanted.high == 0
    values = rng.normal(0, 1, shape) if plain else rng.uniform(wanted.low, wanted.high, shape)
    return np.asarray(values, wanted.dtype)


def _onnx_type(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
