"""3x3 convolutions over small images, each channel laid out as one line of pixels.

ConvInteger copies its windows row by row, and short rows cost it more time than the arithmetic. A line is one long row:
the neighbours above and below are a dilation by the width away, and ConvInteger pads there. The left and the right
neighbours are channels of their own, shifted by a pixel, without the column that would wrap round into the next row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.writer import stem

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Writer

_WIDEST: Final = 48  # from here on rows are long enough
_FEWEST: Final = 8  # input channels; below, preparing the lines costs what it saves
_PLAIN: Final = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}


@dataclass(frozen=True, slots=True)
class Plane:
    """One int8 plane of a tensor, with what it is called and its zero point."""

    tensor: str
    form: str
    value: ir.Value
    zero: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Lines:
    """A convolution that can be written on lines: its name, and the size of its input."""

    name: str
    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, unit: Unit, node: ir.Node) -> Lines | None:
        """Return the convolution, or None where it is not 3x3 with padding 1 on small images of known size."""
        image, kernel = (list(v.shape) if v is not None and v.shape is not None else [] for v in node.inputs[:2])
        if len(image) != 4 or kernel[2:] != [3, 3] or not _is_plain(node):
            return None
        sizes = [d for d in image[1:] if isinstance(d, int)]
        if len(sizes) != 3 or sizes[0] < _FEWEST or not 1 < sizes[2] <= _WIDEST:
            return None
        return cls(stem(unit.node), *sizes)

    def conv(self, writer: Writer, plane: Plane, kernel: ir.Value, kernel_zero: ir.Value) -> ir.Value:
        """Return the sums (N, M, 1, H W) of a plane with a uint8 kernel (M, C, 3, 3)."""
        attributes = {"dilations": [1, self.width], "pads": [0, self.width, 0, self.width - 1], "kernel_shape": [1, 3]}
        zero = writer.constant("zero_point", plane.zero)
        operands = [self._line(writer, plane), self._turned(writer, kernel), zero, kernel_zero]
        return writer.emit("ConvInteger", operands, attributes, name=f"{self.name}_ConvInteger")

    def images(self, writer: Writer, lines: ir.Value) -> ir.Value:
        """Return lines (N, M, 1, H W) as images."""
        return self._reshaped(writer, lines, [0, 0, self.height, self.width])

    def _turned(self, writer: Writer, kernel: ir.Value) -> ir.Value:
        """Return (M, 3 C, 1, 3): for each channel left, own and right, each above, here and below."""
        turned = writer.emit("Transpose", [kernel], {"perm": [0, 1, 3, 2]}, name=f"{self.name}_weight_turned")
        return self._reshaped(writer, turned, [0, 3 * self.channels, 1, 3])

    def _line(self, writer: Writer, plane: Plane) -> ir.Value:
        """Return (N, 3 C, 1, H W + 1): each channel's left, own and right neighbours, then a zero."""
        key = (plane.tensor, f"line {plane.form}")
        if key not in writer.facets:
            own = self._reshaped(writer, plane.value, [0, 0, -1])
            column = np.arange(self.height * self.width) % self.width
            left = _without(writer, own, column == self.width - 1, plane.zero)
            right = _without(writer, own, column == 0, plane.zero)
            ends = [writer.constant("slice_end", np.asarray([v], np.int64)) for v in (0, 1, 2)]
            nothing = writer.emit("Slice", [right, *ends], name="line_zero")  # the first pixel lies in column 0
            parts = [nothing, left, own, right, nothing, nothing]  # the first of the right ends the own
            joined = writer.emit("Concat", parts, {"axis": 2}, name="line_joined")
            writer.facets[key] = self._reshaped(writer, joined, [0, 3 * self.channels, 1, -1])
        return writer.facets[key]

    def _reshaped(self, writer: Writer, value: ir.Value, shape: list[int]) -> ir.Value:
        target = writer.constant("line_shape", np.asarray(shape, np.int64))
        return writer.emit("Reshape", [value, target], name=f"{self.name}_laid_out")


def _is_plain(node: ir.Node) -> bool:
    given = {k: graph.ints_attribute(node, k) for k in _PLAIN}
    given |= {k: _PLAIN[k] for k in ("strides", "dilations") if given[k] is None}
    return given == _PLAIN and graph.int_attribute(node, "group", 1) == 1 and "auto_pad" not in node.attributes


def _without(writer: Writer, line: ir.Value, dropped: npt.NDArray[np.bool_], zero: npt.NDArray[np.generic]) -> ir.Value:
    """Return the line with zero in some columns; the zero point of an int8 plane is 0, or its smallest integer."""
    if zero.dtype == np.uint8:
        columns, nothing = writer.constant("dropped_columns", dropped), writer.constant("zero_point", zero)
        return writer.emit("Where", [columns, nothing, line], name="line_columns")
    if not zero:
        mask = writer.constant("kept_columns", np.where(dropped, np.int8(0), np.int8(1)))
        return writer.emit("Mul", [line, mask], name="line_columns")
    mask = writer.constant("kept_columns", np.where(dropped, zero.astype(np.int8), np.int8(127)))
    return writer.emit("Min", [line, mask], name="line_columns")
