"""Linear operators on int16: products of bytes summed in int32, or in float32 where that is exact, then put together.

A convolution is two ConvInteger on the byte planes, a product with a constant two MatMulInteger. Few products per
output (depthwise) are summed by float32 convolutions: integers below 2**24 are exact in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.wide import planes, requantize
from quantcli.lowering.wide.lines import Lines, Plane
from quantcli.lowering.wide.requantize import cast
from quantcli.lowering.wide.weights import Weight, weight_of
from quantcli.writer import stem

if TYPE_CHECKING:
    from quantcli.plan import Unit
    from quantcli.writer import Attribute, Writer

_CONV_ATTRIBUTES: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_DOUBLE: Final = ir.DataType.DOUBLE
_FEW: Final = 64  # products per output of a grouped convolution up to which float32 is faster
_SMALL: Final = 4096  # weights of a matrix up to which one float64 product is faster than two of bytes


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the two planes, int32.

    ``raised`` says that the high ones are 256 times themselves already, ``biased`` that they hold the bias, ``lines``
    that they are laid out so.
    """

    high: ir.Value
    low: ir.Value
    raised: bool = False
    biased: bool = False
    lines: Lines | None = None


def conv(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Conv -> two ConvInteger, two float32 Conv for few products per output, or a product of matrices for one pixel."""
    weight = weight_of(writer, unit)
    grouped = graph.int_attribute(node, "group", 1) > 1
    shape = [-1, *[1] * (len(weight.value.shape or ()) - 2)]
    writer.bounds[unit.node] = weight.capacity("int32")
    if _is_of_one_pixel(node):
        sums = _one_pixel_sums(writer, unit, weight)
    elif grouped and weight.products <= _FEW and weight.fits_float32:
        sums = _float_sums(writer, unit, weight, node)
        writer.bounds[unit.node] = weight.capacity("float32")
    else:
        sums = _conv_sums(writer, unit, weight, node)
    total = _with_bias(writer, unit, sums, weight, shape)
    total = total if sums.lines is None else sums.lines.images(writer, total)
    return requantize.channels_rounded(writer, unit, total, weight.factors)


def gemm(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Gemm -> two MatMulInteger."""
    return _matmul(writer, unit, transposed=bool(graph.int_attribute(node, "transB", 0)), rank=2)


def matmul(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """MatMul with a constant (+ bias) -> two MatMulInteger."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return _matmul(writer, unit, transposed=False, rank=None if shape is None else len(shape))


def product(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """MatMul of two activations -> MatMul of float64, whose sums of integers are exact below 2**53."""
    del node
    factor = np.float64(1)
    operands = []
    for _, tensor in unit.inputs:
        factor = np.float64(factor * requantize.scale_of(writer, tensor))
        operands.append(requantize.doubles(writer, tensor))
    writer.kernels[unit.node] = "MatMul of integers in float64"
    sums = writer.emit("MatMul", operands, name=f"{stem(unit.node)}_sums")
    # a copy, or onnxruntime makes one operator of product and factor, whose factor is a float32 attribute
    total = writer.emit("Sum", [sums], name=f"{stem(unit.node)}_apart")
    factor = np.float64(factor / requantize.scale_of(writer, unit.output))
    return requantize.scaled_rounded(writer, unit, total, factor)


# ---- sums ------------------------------------------------------------------------------------------------------------


def _conv_sums(writer: Writer, unit: Unit, weight: Weight, node: ir.Node) -> _Sums:
    """Convolve int8 planes with uint8 weights of zero point 128: the other way round onnxruntime is 15 times slower.

    Where sums must be exact on every CPU the planes are uint8, too.
    """
    name, source = stem(unit.node), unit.inputs[0][1]
    split = planes.byte_planes(writer, source, signed=not writer.portable)
    kernel, half = _unsigned(writer, name, weight.value)
    on_lines, attributes = Lines.of(unit, node), _conv_attributes(node)
    sums = []
    for form, plane, zero in (("high", split.high, split.high_zero), ("low", split.low, split.low_zero)):
        operands = [plane, kernel, writer.constant("zero_point", zero), half]
        if on_lines is None:
            made = writer.emit("ConvInteger", operands, attributes, name=f"{name}_ConvInteger")
        else:
            made = on_lines.conv(writer, Plane(source, form, plane, zero), kernel, half)
        sums.append(made)
    writer.kernels[unit.node] = f"ConvInteger on two byte planes{'' if on_lines is None else ', as lines'}"
    return _Sums(high=sums[0], low=sums[1], lines=on_lines)


def _unsigned(writer: Writer, name: str, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return an int8 weight as uint8, and its zero point: 128 is added modulo 256."""
    half = writer.constant("half_range", np.asarray(128, np.uint8))
    wrapped = cast(writer, weight, ir.DataType.UINT8, f"{name}_weight")
    return writer.emit("Add", [wrapped, half], name=f"{name}_weight_shifted"), half


def _float_sums(writer: Writer, unit: Unit, weight: Weight, node: ir.Node) -> _Sums:
    """Convolve float32 planes with float32 weights; sums of less than 2**24 steps, or 2**24 times 256, are exact."""
    name = stem(unit.node)
    kernel = cast(writer, weight.value, ir.DataType.FLOAT, f"{name}_weight")
    operands = [[plane, kernel] for plane in planes.real_planes(writer, unit.inputs[0][1])]
    if weight.fits_float32_with_bias:  # an absent bias must not be written as an empty name: it costs the fast layout
        for pair, bias in zip(operands, _bias_digits(writer, name, weight.bias), strict=True):
            pair.append(bias)
    writer.kernels[unit.node] = "float32 Conv on two byte planes, exact"
    raised, low = (
        cast(writer, writer.emit("Conv", given, _conv_attributes(node), name=f"{name}_Conv"), ir.DataType.INT32, name)
        for given in operands
    )
    return _Sums(raised, low, raised=True, biased=weight.fits_float32_with_bias)


def _bias_digits(writer: Writer, name: str, bias: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the multiple of 256 below a bias, and the rest, as float32; onnxruntime computes them at load time."""
    whole, digit = cast(writer, bias, _DOUBLE, f"{name}_bias"), writer.constant("digit", np.asarray(256.0))
    digits = writer.emit("Floor", [writer.emit("Div", [whole, digit], name=f"{name}_bias")], name=f"{name}_bias_digits")
    upper = writer.emit("Mul", [digits, digit], name=f"{name}_bias_upper")
    lower = writer.emit("Sub", [whole, upper], name=f"{name}_bias_lower")
    return cast(writer, upper, ir.DataType.FLOAT, name), cast(writer, lower, ir.DataType.FLOAT, name)


def _conv_attributes(node: ir.Node) -> dict[str, Attribute]:
    return {k: node.attributes[k].value for k in _CONV_ATTRIBUTES if k in node.attributes}


def _is_of_one_pixel(node: ir.Node) -> bool:
    """Tell whether a convolution reads and writes one pixel: a kernel of size 1 on spatial axes of size 1."""
    sizes = [v.shape for v in node.inputs[:2] if v is not None and v.shape is not None]
    plain = not any(graph.ints_attribute(node, "pads") or ()) and graph.int_attribute(node, "group", 1) == 1
    return plain and len(sizes) == 2 and all(d == 1 for shape in sizes for d in list(shape)[2:])


def _one_pixel_sums(writer: Writer, unit: Unit, weight: Weight) -> _Sums:
    """Multiply (N, K) by (K, C), the pixel's axes put aside meanwhile."""
    name, rank = stem(unit.node), len(weight.value.shape or ())
    flat = writer.constant("matrix_shape", np.asarray([0, -1], np.int64))
    columns = writer.emit("Reshape", [weight.value, flat], name=f"{name}_weight_matrix")
    columns = writer.emit("Transpose", [columns], {"perm": [1, 0]}, name=f"{name}_weight_transposed")
    pixel = writer.constant("pixel_shape", np.asarray([0, -1, *[1] * (rank - 2)], np.int64))
    sums = _matmul_sums(writer, unit, columns, flat)
    high, low = (writer.emit("Reshape", [v, pixel], name=f"{name}_pixel") for v in (sums.high, sums.low))
    return _Sums(high, low)


def _matmul(writer: Writer, unit: Unit, *, transposed: bool, rank: int | None) -> ir.Value:
    weight, name = weight_of(writer, unit), stem(unit.node)
    columns = weight.value
    if transposed:
        columns = writer.emit("Transpose", [columns], {"perm": [1, 0]}, name=f"{name}_weight_transposed")
    if weight.products * len(weight.factors) <= _SMALL:
        total = _double_total(writer, unit, weight, columns, rank)
    else:
        writer.bounds[unit.node] = weight.capacity("int32")
        total = _with_bias(writer, unit, _matmul_sums(writer, unit, columns), weight, [-1])
    finish = requantize.channels_rounded if rank == 2 else requantize.scaled_rounded
    return finish(writer, unit, total, weight.factors)


def _double_total(writer: Writer, unit: Unit, weight: Weight, columns: ir.Value, rank: int | None) -> ir.Value:
    """Multiply float64 integers, all of whose sums are exact; a small matrix does not repay parting bytes."""
    name = stem(unit.node)
    matrix, bias = (cast(writer, v, _DOUBLE, f"{name}_{w}") for v, w in ((columns, "weight"), (weight.bias, "bias")))
    operands = [requantize.doubles(writer, unit.inputs[0][1]), matrix]
    writer.bounds[unit.node] = weight.capacity("float64")
    writer.kernels[unit.node] = "MatMul of integers in float64"
    if rank == 2:
        return writer.emit("Gemm", [*operands, bias], name=f"{name}_total")
    return writer.emit("Add", [writer.emit("MatMul", operands, name=f"{name}_sums"), bias], name=f"{name}_total")


def _matmul_sums(writer: Writer, unit: Unit, columns: ir.Value, shape: ir.Value | None = None) -> _Sums:
    """Multiply uint8 planes by int8 weights; the planes are given another shape first if one is given.

    Where sums must be exact on every CPU the weights are uint8, too.
    """
    name, split = stem(unit.node), planes.byte_planes(writer, unit.inputs[0][1], signed=False)
    factor = _unsigned(writer, name, columns) if writer.portable else (columns,)
    writer.kernels[unit.node] = "MatMulInteger on two byte planes"
    high, low = (
        writer.emit(
            "MatMulInteger",
            [_reshaped(writer, plane, shape), factor[0], writer.constant("zero_point", zero), *factor[1:]],
            name=f"{name}_MatMulInteger", output_name=f"{name}_{which}",
        )
        for which, plane, zero in (("high", split.high, split.high_zero), ("low", split.low, split.low_zero))
    )  # fmt: skip
    return _Sums(high, low)


def _reshaped(writer: Writer, value: ir.Value, shape: ir.Value | None) -> ir.Value:
    return value if shape is None else writer.emit("Reshape", [value, shape], name="wide_reshaped")


def _with_bias(writer: Writer, unit: Unit, sums: _Sums, weight: Weight, shape: list[int]) -> ir.Value:
    """Return 256 * high + low + bias as float64, added in int32 as far as that is sure to fit."""
    name, bias, high, low = stem(unit.node), weight.bias, sums.high, sums.low
    if len(shape) > 1:
        aligned = writer.constant("aligned_shape", np.asarray(shape, np.int64))
        bias = writer.emit("Reshape", [bias, aligned], name=f"{name}_bias_aligned")
    digit = writer.constant("digit", np.asarray(256, np.int32))
    if not weight.sums_fit_int32:
        high, low, digit = (cast(writer, v, _DOUBLE, name) for v in (high, low, digit))
    raised = high if sums.raised else writer.emit("Mul", [high, digit], name=f"{name}_raised")
    total = writer.emit("Add", [raised, low], name=f"{name}_both")
    if sums.biased:
        return cast(writer, total, _DOUBLE, name)
    if not weight.total_fits_int32:
        total = cast(writer, total, _DOUBLE, name) if weight.sums_fit_int32 else total
        return writer.emit("Add", [total, cast(writer, bias, _DOUBLE, f"{name}_bias")], name=f"{name}_total")
    return cast(writer, writer.emit("Add", [total, bias], name=f"{name}_total"), _DOUBLE, name)
